"""Epochs and counts of finished trials that the ledger lacks, from the trials' own results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.ledger import PARTS, Ledger, LedgerError
from trainables.records.files import names
from trainables.records.objects import address_of
from trainables.records.progress import RESULT, read_result


def restore_parts(out: Path, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write again what is missing or damaged in ``ledger/history`` and ``ledger/per_image``.

    Otherwise a finished trial would be missing in history.csv or per_image.csv.

    Parameters
    ----------
    out : Path
        The run folder.
    records : mapping
        The ledger's records by trial_id.

    Returns
    -------
    list of str
        One line for each trial of which something was missing or damaged, for the user.

    Raises
    ------
    LedgerError
        When a file is damaged and the trial's own result is not there.
    """
    ledger, lines = Ledger(out), []
    there = {part: set(names(ledger.folder / part)) for part in PARTS}
    for part in PARTS:
        ledger.fetch(part)
    for trial_id, record in records.items():
        if record["status"] != "done":
            continue
        wrong = [part for part in PARTS if f"{trial_id}.json" not in there[part]]
        damage: LedgerError | None = None
        try:
            ledger.read_history(trial_id, fresh=False)
            ledger.read_per_image(trial_id, fresh=False)
        except LedgerError as error:
            wrong.append("damaged")
            damage = error
        if not wrong:
            continue
        folder = out / "checkpoints" / trial_id
        result = read_result(folder)
        if result is not None:
            ledger.write_parts(trial_id, result)
            lines.append(
                f"note: epochs and counts of {trial_id} were missing or damaged; they were taken "
                f"from {address_of(folder / RESULT)}"
            )
        elif damage is not None:
            raise LedgerError(
                f"{damage.what}; restore it from a copy, or remove it: history.csv and "
                f"per_image.csv are then without {trial_id}"
            ) from damage
    return lines
