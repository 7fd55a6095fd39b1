"""What a trial leaves in its folder while it trains and when it has ended. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables.config import EpochRecord, TrialResult

RESUME = "resume.json"
"""Names the files of the last resumable state; written after them."""
RESULT = "result.json"
"""Figures and history of a trial that has ended; written last of all."""


def resume_state(folder: Path) -> dict[str, Any] | None:
    """Return what `RESUME` names, if the files are there."""
    try:
        state: dict[str, Any] = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    names = [state["state"], state["best"]]
    return state if all(n is None or (folder / n).is_file() for n in names) else None


def read_result(folder: Path) -> TrialResult | None:
    """Return the result of a trial that has ended, or None."""
    path = folder / RESULT
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    history = tuple(EpochRecord(**row) for row in content.pop("history"))
    return TrialResult(**{**content, "checkpoint": str(folder)}, history=history)
