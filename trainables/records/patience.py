"""Waits while the disk is full, read-only or away, so that no trial fails for it. No torch."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path

from trainables.records.files import exists
from trainables.records.objects import place
from trainables.records.store import impatient

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO)
"""Errors that somebody may put right while a trial waits."""
PAUSE_SECONDS = 10.0
MOST_SECONDS = 6 * 3600.0
"""After this time the attempt ends with the error, and is tried again as after any other."""


def is_asked_to_stop(stop_file: str | None) -> bool:
    """Whether the file that asks trials to stop exists; an object store that is away asks nothing.

    Parameters
    ----------
    stop_file : str or None
        A path, or an address in an object store.
    """
    if stop_file is not None:
        with impatient(), contextlib.suppress(OSError):
            return exists(place(stop_file))
    return False


class Patience:
    """Repeats what fails because of the storage.

    Parameters
    ----------
    say : callable
        Takes a line for the user.
    stop_file : str or None
        While this file exists, nothing is waited for.
    """

    def __init__(self, say: Callable[[str], object], stop_file: str | None = None) -> None:
        self.say, self.stop_file = say, stop_file

    def __call__(self, path: Path, work: Callable[[], None]) -> None:
        """Do some work that writes a file or into a folder, if need be again and again.

        Raises
        ------
        OSError
            After six hours, if the sweep is being stopped, and at once if waiting cannot help.
        """
        began, said = time.monotonic(), False
        while True:
            try:
                work()
                break
            except OSError as error:
                waited = time.monotonic() - began
                hopeless = error.errno not in STORAGE or waited >= MOST_SECONDS
                if hopeless or is_asked_to_stop(self.stop_file):
                    raise
                if not said:
                    self._tell(
                        f"{path.name} cannot be written ({error.strerror}: {path.parent}): "
                        f"training waits and tries again every {PAUSE_SECONDS:g} seconds"
                    )
                said = True
                time.sleep(PAUSE_SECONDS)
        if said:
            waited = time.monotonic() - began
            self._tell(f"{path.name} was written after {waited:.0f} seconds; training continues")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a line may be too much for the disk, too
            self.say(text)
