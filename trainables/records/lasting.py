"""The last state of a finished trial, from which a trial with more epochs continues.

It is kept only if asked for (``keep_last_state``), in a folder of its own inside the trial's, so
that deleting the other saved states leaves it alone.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from trainables.records.attempts import Attempt
from trainables.records.files import exists, fetched, remove
from trainables.records.progress import RESUME

LAST = "last"
"""Folder with the last state, inside the folder of its trial."""


def keep_last(attempt: Attempt) -> None:
    """Copy the newest saved state of a trial, after its last epoch, to where it is kept.

    The state itself stays until `forget_states`: an attempt that is killed here is repeated by the
    next one. Where the file system has hard links, the copy takes no space.
    """
    folder = attempt.folder
    content = json.loads((folder / RESUME).read_text(encoding="utf-8"))
    newest, last = content["states"][0], folder / LAST
    files = {name: content["files"][name] for name in (newest["state"], newest["best"]) if name}
    for name in files:
        remove(last / name)  # of a killed attempt: a link is not replaced by another one
        attempt.write_with(last / name, partial(_link_or_copy, fetched(folder / name)))
    attempt.write_json(last / RESUME, {**content, "states": [newest], "files": files})


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # there are no hard links here
        shutil.copyfile(source, target)


def is_kept(folder: Path) -> bool:
    """Whether a trial's last state was kept."""
    return exists(folder / LAST / RESUME)


def adopt(source: Path, attempt: Attempt) -> bool:
    """Copy the last state of a trial to one with more epochs that has no state of its own.

    Parameters
    ----------
    source : Path
        Folder of the finished trial.
    attempt : Attempt
        The attempt at the trial with more epochs.

    Returns
    -------
    bool
        Whether there was a state, and the trial had none.
    """
    if exists(attempt.folder / RESUME) or not is_kept(source):
        return False
    content = json.loads(fetched(source / LAST / RESUME).read_text(encoding="utf-8"))
    for name in content["files"]:
        state = fetched(source / LAST / name)
        attempt.write_with(attempt.folder / name, partial(shutil.copyfile, state))
    attempt.write_json(attempt.folder / RESUME, content)
    return True
