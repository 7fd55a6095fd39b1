"""A quiet screen: what libraries print goes to a log file, what the sweep says to the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console


@contextmanager
def quiet_screen(log: Path) -> Iterator[Console]:
    """Send file descriptors 1 and 2 to a log file while the block runs.

    Redirecting descriptors rather than ``sys.stdout`` also catches what C++ libraries and
    child processes print.

    Parameters
    ----------
    log : Path
        Appended to.

    Yields
    ------
    rich.console.Console
        Writes to what was standard output before.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.set_inheritable(saved_out, False)
    os.set_inheritable(saved_err, False)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    screen = os.fdopen(saved_out, "w", encoding="utf-8", errors="replace", buffering=1)
    try:
        yield Console(file=screen, highlight=False, soft_wrap=not screen.isatty())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        screen.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_err)
        screen.close()
