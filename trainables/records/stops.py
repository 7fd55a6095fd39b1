"""The file by which a sweep asks its trials to save their state and to stop. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from trainables.records.files import write_text
from trainables.records.objects import is_stored, peek, place
from trainables.records.store import impatient

EPOCH, STEP = "epoch", "step"
"""When trials shall stop: at the end of their epoch, or at their next training step."""

LOOK_SECONDS = 1.0
"""Least time between two looks while an epoch is trained."""
ASK_SECONDS = 5.0
"""The same, if the run folder is in an object store."""
COST = 20.0
"""It is also at least this many times the time that the last look took, so that looking takes at
most 5 % of the time."""


def ask(path: Path, when: str) -> None:
    """Ask trials to stop.

    Parameters
    ----------
    path : Path
        The file.
    when : {'epoch', 'step'}
    """
    write_text(path, f"{when}\n")


def asked(stop_file: str | None) -> str:
    """Return when trials shall stop: `EPOCH`, `STEP`, or an empty text if they shall not.

    An object store or a disk that is away asks nothing.

    Parameters
    ----------
    stop_file : str or None
        A path, or an address in an object store.
    """
    if stop_file is None:
        return ""
    with impatient(), contextlib.suppress(OSError):
        path = place(stop_file)
        if is_stored(path):
            content = peek(path)[0]
        else:
            # NFS remembers for up to a minute that a file is missing, unless its folder is opened
            os.close(os.open(path.parent, os.O_RDONLY))
            content = path.read_bytes()
        if content is not None:
            return STEP if content.strip() == STEP.encode() else EPOCH
    return ""


class Looks:
    """Looks whether a trial shall stop, as often as that costs next to nothing.

    Parameters
    ----------
    stop_file : str or None
        A path, or an address in an object store.
    """

    def __init__(self, stop_file: str | None) -> None:
        self._file, self._next, self._found = stop_file, float("-inf"), ""
        stored = stop_file is not None and is_stored(place(stop_file))
        self._pause = ASK_SECONDS if stored else LOOK_SECONDS
        self._costly = stored

    def at_step(self) -> bool:
        """Whether to stop at once, after a training step or between two images."""
        return self._look(rarely=True) == STEP

    def at_epoch(self) -> bool:
        """Whether to stop at the end of an epoch."""
        # to ask a store takes longer than to look at a disk
        return bool(self._look(rarely=self._costly))

    def _look(self, *, rarely: bool) -> str:
        began = time.monotonic()
        if self._found != STEP and (not rarely or began >= self._next):
            self._found = asked(self._file) or self._found
            ended = time.monotonic()
            self._next = ended + max(self._pause, COST * (ended - began))
        return self._found
