"""Notices Ctrl-C, SIGTERM and SIGHUP while Ray Tune runs."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

GRACE_SECONDS = 25.0
"""Time that trials have to save after SIGTERM or SIGHUP. Slurm, for one, kills what is still there
after 30 seconds."""
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupts:
    """Whether the sweep shall stop; a context manager around each of Ray Tune's runs.

    The first signal only asks for it: trials then save their state, at the end of their epoch or,
    after SIGTERM and SIGHUP, at their next step, and whoever waits for that calls `end`. A second
    Ctrl-C raises KeyboardInterrupt. `watch` must be called when Tune has installed its handler of
    Ctrl-C, which ends a run in order and swallows the next Ctrl-C. At the end of a run the handlers
    from before are restored, so that a signal between two runs raises KeyboardInterrupt. What is
    ignored, as SIGHUP under ``nohup``, stays so.

    Parameters
    ----------
    seconds : float
        Time to wait after SIGTERM or SIGHUP.

    Attributes
    ----------
    happened : bool
    """

    def __init__(self, seconds: float = GRACE_SECONDS) -> None:
        self.happened, self.seconds = False, seconds
        self._deadline = float("inf")
        self._before: dict[int, Any] = {}
        self._tunes: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._main:  # elsewhere neither Tune nor this has touched them
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def watch(self) -> None:
        """Take over the handling of the signals from the handlers that are installed now."""
        self._tunes = signal.getsignal(signal.SIGINT)
        if not self._main or not callable(self._tunes):
            return
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.happened:
            raise KeyboardInterrupt
        self.happened = True
        if number != signal.SIGINT:
            self._deadline = min(self._deadline, time.monotonic() + self.seconds)

    @property
    def is_hurried(self) -> bool:
        """Whether SIGTERM or SIGHUP came, after which only seconds are left."""
        return self._deadline < float("inf")

    @property
    def is_urgent(self) -> bool:
        """Whether the time is over that trials have for saving their state."""
        return time.monotonic() >= self._deadline

    def end(self) -> None:
        """Let Tune end its run in order."""
        if callable(self._tunes):
            handler = signal.getsignal(signal.SIGINT)
            self._tunes(signal.SIGINT, None)  # it puts back the one before it
            signal.signal(signal.SIGINT, handler)
            self._tunes = None
