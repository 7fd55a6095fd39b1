"""Waiting for what another process does: until it is done, however slow the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 500
) -> None:
    """Wait until a condition holds; what the process said is shown if it ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
