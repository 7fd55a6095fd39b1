"""Ends a worker whose raylet is gone.

Ray's workers notice that by themselves, with timers that use the time of day. When the clock of
their machine is set back, these stop for as long: a worker of a driver that was killed then trains
on for hours, beside the next attempt at its trial.
"""

from __future__ import annotations

import functools
import os
import threading
import time

SECONDS = 2.0
"""Time between two looks."""


@functools.cache
def end_with_parent() -> None:
    """End this process when its parent, Ray's raylet, has ended. Only the first call counts.

    Nothing is lost: files are written whole or not at all.
    """
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os._exit(1)

    threading.Thread(target=look, name="end-with-parent", daemon=True).start()
