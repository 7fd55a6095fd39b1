"""Which trials have ended, and what of their results is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.ledger import FINAL, Ledger
from trainables.records.manifest import missing_file


def has_ended(record: Mapping[str, Any] | None, plan: Mapping[str, Any]) -> bool:
    """Whether a trial's record says that nothing is left to do.

    Earlier versions recorded trials as stopped whose result was lost: in a run without a
    scheduler none can have been.

    Parameters
    ----------
    record : mapping or None
        Of the ledger.
    plan : mapping
        Contents of plan.json.
    """
    if record is None or record["status"] not in FINAL:
        return False
    with_scheduler = plan.get("settings", {}).get("scheduler", "fifo") != "fifo"
    return record["status"] != "stopped" or bool(record.get("by")) or with_scheduler


def missing(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return by trial_id what should be in the run folder and is not.

    Parameters
    ----------
    out : Path
        The run folder.
    plan : mapping
        Contents of plan.json.
    records : mapping
        Of the ledger, by trial_id.
    """
    told = {}
    for trial_id, record in records.items():
        if record["status"] == "stopped" and not has_ended(record, plan):
            told[trial_id] = "its result was lost; --resume trains it again"
        elif record["status"] == "done":
            path = missing_file(out / "checkpoints" / trial_id)
            if path is None:
                continue
            told[trial_id] = (
                f"its checkpoint is not there ({path}); put it back, or remove "
                f"{Ledger(out).folder / trial_id}.json, and --resume trains it again"
            )
    return told
