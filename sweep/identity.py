"""Which sweep a run folder holds: its token and its group in W&B, also once it was copied."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity(out: Path, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what plan.json keeps of a run folder's identity.

    A copy of a run folder is a sweep of its own: otherwise both would report to the same runs in
    W&B. A run of an earlier version gets a token for its further trials; it keeps the group that
    it had, the folder's name, and trials that have reported keep their ids, which the ledger
    records.

    Parameters
    ----------
    out : Path
        The run folder, which exists.
    recorded : mapping or None
        Contents of plan.json so far.

    Returns
    -------
    dict
        run_token; wandb_group; folder: where the run lies, to tell copies; copy_of: the folder
        that it was copied from, if it was.
    """
    recorded = recorded or {}
    names = {name: recorded[name] for name in NAMES if recorded.get(name)}
    source = copied_from(out, recorded)
    if source is not None or not {"run_token", "wandb_group"} <= names.keys():
        token = secrets.token_hex(4)
        old = bool(recorded) and source is None
        names = {"run_token": token, "wandb_group": out.name if old else f"{out.name}-{token}"}
    if source is not None:
        names["copy_of"] = str(source)
    return {**names, "folder": {"path": str(out), "inode": out.stat().st_ino}}


NAMES = ("run_token", "wandb_group", "copy_of")


def copied_from(out: Path, recorded: Mapping[str, Any]) -> Path | None:
    """Return the folder that a run folder was copied from; None where it was not, or only moved.

    A folder that was moved to another disk counts as a copy: it cannot be told from one. One that
    was copied to another machine under the same path does not, for the same reason.

    Parameters
    ----------
    out : Path
        The run folder.
    recorded : mapping
        Contents of its plan.json; those of earlier versions do not say where they lay.
    """
    before = recorded.get("folder")
    if not isinstance(before, dict) or not recorded.get("run_token"):
        return None
    if before["path"] == str(out):
        return None
    source = Path(before["path"])
    try:
        if source.samefile(out):
            return None  # by another path, such as a link
        theirs = json.loads((source / "plan.json").read_text(encoding="utf-8"))
        still_there = theirs["run_token"] == recorded["run_token"]
    except (OSError, ValueError, KeyError, TypeError):
        still_there = False
    # where both are there it is a copy, even if a snapshot of a disk has the same numbers
    moved = not still_there and before.get("inode") == out.stat().st_ino
    return None if moved else source
