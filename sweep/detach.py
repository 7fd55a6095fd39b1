"""``--detach``: start a sweep that goes on after the terminal is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from sweep.heartbeat import last_sign
from trainables.cli import DONE, command_line

LOG = "screen.log"
"""In the run folder: what a detached sweep prints."""


def detach(words: Sequence[str], out: Path, screen: TextIO) -> int:
    """Start a sweep in a session of its own; wait until its checks have passed.

    Parameters
    ----------
    words : sequence of str
        Arguments of ``sweep.run``, without ``--detach``.
    out : Path
        The run folder; created if it does not exist.
    screen : TextIO
        Gets what the sweep prints until then.

    Returns
    -------
    int
        0 when the sweep has begun to run trials; its own exit code if it ends before.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = out / LOG
    with open(log, "ab") as end, open(log, encoding="utf-8", errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "sweep.run", *words],
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        try:
            while (code := process.poll()) is None and not _has_begun(out, process.pid):
                _copy(lines, screen)
                time.sleep(0.2)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            _copy(lines, screen)
            raise
        _copy(lines, screen)
    if code is not None:
        return code
    text = f"the sweep runs: process {process.pid} on {os.uname().nodename}; it does not need this "
    text += f"terminal\n  watch it:     {command_line('sweep.run', '--watch', out)}\n"
    text += f"  its messages: {log}\n  stop it:      kill -INT {process.pid}"
    text += " (trials finish their epoch and save their state)"
    print(text, file=screen)
    return DONE


def _has_begun(out: Path, pid: int) -> bool:
    """Whether a process has passed all checks and has handed its trials to Ray."""
    sign = last_sign(out)
    return sign is not None and sign.pid == pid and bool(sign.title)


def _copy(lines: TextIO, screen: TextIO) -> None:
    """Copy what was added to a log."""
    if text := lines.read():
        screen.write(text)
        screen.flush()
