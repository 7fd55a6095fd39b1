"""Notices Ctrl-C while Ray Tune handles it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Whether Ctrl-C was pressed during Ray Tune's runs; a context manager around each run.

    After the first Ctrl-C, Tune ends its trials and returns as if all had ended. It then leaves a
    handler behind that swallows the next Ctrl-C. `watch` must be called when Tune has installed its
    handler. At the end of a run Python's own handler is restored, so that Ctrl-C between two runs
    raises KeyboardInterrupt.

    Attributes
    ----------
    happened : bool
    """

    def __init__(self) -> None:
        self.happened = False
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        self._before = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._main:  # elsewhere neither Tune nor this has touched it
            signal.signal(signal.SIGINT, self._before)

    def watch(self) -> None:
        """Record calls of the handler that is installed now."""
        handler = signal.getsignal(signal.SIGINT)
        if not self._main or not callable(handler):
            return

        def notice(number: int, frame: FrameType | None) -> None:
            self.happened = True
            handler(number, frame)  # Tune's: it puts back the one before it

        signal.signal(signal.SIGINT, notice)
