"""Waits while the disk is full, read-only or away, so that no trial fails for it. No torch."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainables.records.stops import asked
from trainables.records.store import StoreError

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO)
"""Errors that somebody may put right while a trial waits."""
PAUSE_SECONDS = 10.0
WAITS = "waits and tries again"
"""In the note of a trial that waits, as its last one until what it waited for was written."""
MOST_SECONDS = 6 * 3600.0
"""After this time the attempt ends with the error, and is tried again as after any other."""

T = TypeVar("T")


class Patience:
    """Repeats what fails because of the storage.

    Parameters
    ----------
    say : callable
        Takes a line for the user.
    stop_file : str or None
        While this file exists, nothing is waited for.
    stop : callable, optional
        The same for what it returns.
    who : str
        What waits, for messages.
    stores : bool
        Whether to wait for an object store, which has been waited for ten minutes already.

    Attributes
    ----------
    failures : int
        How often some work has failed and was waited for.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        stop_file: str | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
        who: str = "training",
        stores: bool = True,
    ) -> None:
        self.say, self.stop_file, self.stop = say, stop_file, stop
        self.who, self.stores, self.failures = who, stores, 0

    def __call__(self, path: Path, work: Callable[[], T]) -> T:
        """Do some work that uses a file or folder, if need be again and again; return its result.

        Raises
        ------
        OSError
            After six hours, if the sweep is being stopped, and at once if waiting cannot help.
        """
        began, said = time.monotonic(), False
        while True:
            try:
                result = work()
                break
            except OSError as error:
                waited = time.monotonic() - began
                hopeless = error.errno not in STORAGE or waited >= MOST_SECONDS
                hopeless |= isinstance(error, StoreError) and not self.stores
                if hopeless or self.stop() or asked(self.stop_file):
                    raise
                if not said:
                    self._tell(
                        f"{path.name} cannot be written ({error.strerror}: {path.parent}): "
                        f"{self.who} {WAITS} every {PAUSE_SECONDS:g} seconds"
                    )
                said = True
                self.failures += 1
                self._pause()
        if said:
            waited = time.monotonic() - began
            self._tell(f"{path.name} was written after {waited:.0f} seconds; {self.who} continues")
        return result

    def _pause(self) -> None:
        end = time.monotonic() + PAUSE_SECONDS
        while not self.stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a line may be too much for the disk, too
            self.say(text)
