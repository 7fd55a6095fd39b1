"""Run the driver's side work in a thread, for a small share of the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SHARE = 0.01
"""Largest share of the driver's time that tables take while a sweep runs."""


class Pace:
    """Runs one piece of work at a time in a thread, the less often the longer the last one took.

    Parameters
    ----------
    least_seconds : float
        Shortest time between two pieces of work.
    share : float
        Largest share of the time that work may take.
    """

    def __init__(self, least_seconds: float, share: float = SHARE) -> None:
        self.least_seconds, self.share = least_seconds, share
        self._next = 0.0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def due(self) -> bool:
        """Whether it is time for the next piece of work.

        Raises
        ------
        Exception
            The error of the last piece of work.
        """
        if self._thread is not None and self._thread.is_alive():
            return False
        self.wait()
        return time.monotonic() >= self._next

    def start(self, work: Callable[[], object]) -> None:
        """Start the next piece of work."""
        began = time.monotonic()

        def run() -> None:
            try:
                work()
            except Exception as error:
                self._error = error
            took = time.monotonic() - began
            self._next = began + max(self.least_seconds, took / self.share)

        self._thread = threading.Thread(target=run, name="tables", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the current work, and raise its error, if any."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
