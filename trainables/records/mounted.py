"""Notices that the storage of a run folder is away, before anything is written in its place.

Where storage was mounted, an empty folder of another disk is left when it is not. A run folder
always holds its plan; so where that is missing, nothing of the run is read or written. No torch.
"""

from __future__ import annotations

import errno
from pathlib import Path

from trainables.records.objects import is_stored

PLAN = "plan.json"
"""In every run folder, from before its first trial on."""
_runs: set[Path] = set()


def expect(out: Path) -> None:
    """From now on, this process takes a run folder without its plan for storage that is away.

    Parameters
    ----------
    out : Path
        The run folder, absolute; in an object store, this does nothing.
    """
    if not is_stored(out):
        _runs.add(out)


def forget(out: Path) -> None:
    """Undo `expect`."""
    _runs.discard(out)


def problem(path: Path) -> OSError | None:
    """Return an error if a path is in a run folder whose storage is away; None if it is not.

    Parameters
    ----------
    path : Path
        An absolute path, in a run folder or not.
    """
    for out in _runs:
        if path.is_relative_to(out) and not (out / PLAN).is_file():
            return OSError(errno.ESTALE, f"Storage is away: there is no {PLAN}", str(out))
    return None


def check(path: Path) -> None:
    """Raise the error of `problem`, if there is one.

    Raises
    ------
    OSError
    """
    error = problem(path)
    if error is not None:
        raise error
