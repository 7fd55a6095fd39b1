"""Which sweep a run folder contains: its token and its group in W&B, even after it was copied."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.records.objects import address_of, is_stored


def identity(out: Path, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the identity of a run folder, to be kept in plan.json.

    A copy of a run folder becomes a separate sweep; otherwise both would report to the same runs in
    W&B. A run of an earlier version gets a token for its further trials. It keeps its group, the
    folder's name, and trials that have reported keep their ids, which the ledger records.

    Parameters
    ----------
    out : Path
        The run folder, which must exist.
    recorded : mapping or None
        Contents of plan.json so far.

    Returns
    -------
    dict
        run_token; wandb_group; folder: place of the run, to recognise copies; copy_of: the folder
        that it was copied from, if any.
    """
    recorded = recorded or {}
    names = {name: recorded[name] for name in NAMES if recorded.get(name)}
    source = copied_from(out, recorded)
    if source is not None or not {"run_token", "wandb_group"} <= names.keys():
        token = secrets.token_hex(4)
        old = bool(recorded) and source is None
        names = {"run_token": token, "wandb_group": out.name if old else f"{out.name}-{token}"}
    if source is not None:
        names["copy_of"] = recorded["folder"]["path"]
    return {**names, "folder": {"path": address_of(out), "inode": _inode(out)}}


def _inode(out: Path) -> int:
    """Return the inode of a folder; in an object store there are none, and no moving either."""
    return -1 if is_stored(out) else out.stat().st_ino


NAMES = ("run_token", "wandb_group", "copy_of")


def copied_from(out: Path, recorded: Mapping[str, Any]) -> Path | None:
    """Return the folder that a run folder was copied from; None if it was not copied, or moved.

    A folder that was moved to another disk counts as a copy, because it looks like one. A folder
    that was copied to another machine under the same path does not count, as it looks unchanged.

    Parameters
    ----------
    out : Path
        The run folder.
    recorded : mapping
        Contents of its plan.json, which in earlier versions does not record the folder.
    """
    before = recorded.get("folder")
    if not isinstance(before, dict) or not recorded.get("run_token"):
        return None
    if before["path"] == address_of(out):
        return None
    source = Path(before["path"])
    if is_stored(out) or "://" in before["path"]:
        return source  # objects are not moved, only copied
    try:
        if source.samefile(out):
            return None  # by another path, such as a link
        theirs = json.loads((source / "plan.json").read_text(encoding="utf-8"))
        still_there = theirs["run_token"] == recorded["run_token"]
    except (OSError, ValueError, KeyError, TypeError):
        still_there = False
    # where both are there it is a copy, even if a snapshot of a disk has the same numbers
    moved = not still_there and before.get("inode") == _inode(out)
    return None if moved else source
