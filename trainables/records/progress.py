"""What a trial writes into its folder while it trains and when it ends. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainables.config import EpochRecord, ImageCounts, TrialResult
from trainables.records.files import fetched, remove_matching
from trainables.records.manifest import what_is_wrong

RESUME = "resume.json"
"""Names the files of the last saved states; written after them."""
RESULT = "result.json"
"""Results and history of a trial that has ended; written last of all."""


class History:
    """The epochs of a trial so far.

    Attributes
    ----------
    records : list of EpochRecord
    best : EpochRecord or None
        The epoch with the largest val_dataset_iou (the first if several); None before the first
        validation.
    """

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.best: EpochRecord | None = None

    def append(self, record: EpochRecord) -> bool:
        """Add an epoch; return whether it is the best so far."""
        self.records.append(record)
        iou = record.val_dataset_iou
        better = iou is not None and (self.best is None or iou > (self.best.val_dataset_iou or 0.0))
        if better:
            self.best = record
        return better

    def patience_is_over(self, early_stopping: int | None) -> bool:
        """Whether this many validations in a row brought no improvement; None: never."""
        if early_stopping is None or self.best is None:
            return False
        best = self.best.epoch
        since = [r for r in self.records if r.epoch > best and r.val_dataset_iou is not None]
        return len(since) >= early_stopping

    def rows(self) -> list[dict[str, Any]]:
        """Return the epochs as plain dictionaries."""
        return [record.to_dict() for record in self.records]

    def restore(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add epochs that `rows` returned."""
        for row in rows:
            self.append(EpochRecord(**row))


def forget_states(folder: Path) -> None:
    """Delete the resumable states of a trial that has ended."""
    remove_matching(folder, RESUME, "resume-*", "best-*")


def read_result(folder: Path, say: Callable[[str], None] | None = None) -> TrialResult | None:
    """Return the result of a trial that has ended, or None.

    Parameters
    ----------
    folder : Path
        The trial's own folder.
    say : callable, optional
        Called with a line for the user if the result is damaged; it then counts as missing.
    """
    path = fetched(folder / RESULT)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        history = tuple(EpochRecord(**row) for row in content.pop("history"))
        per_image = tuple(ImageCounts(**row) for row in content.pop("per_image", ()))
        content["checkpoint"] = str(folder)
        return TrialResult(**content, history=history, per_image=per_image)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if say is not None:
            reason = " ".join(str(error).split())
            say(f"{RESULT} is damaged ({reason}): the trial is trained again")
        return None


def ended_before(folder: Path, say: Callable[[str], None]) -> TrialResult | None:
    """Return the result of a trial that has ended, or None; arguments as for `read_result`.

    A result without its checkpoint, or whose weights are other ones, does not count. Also removes
    saved states that an attempt left behind because it was killed just after it wrote the result.
    """
    result = read_result(folder, say)
    if result is None:
        return None
    if wrong := what_is_wrong(folder):
        say(f"{wrong}: the trial is trained again")
        return None
    forget_states(folder)
    return result
