"""Signs of life of the process that runs a sweep: a small file in OUT, for ``--watch``.

The file is written every 15 s by a thread, so that anybody who sees OUT can tell a sweep that
waits for nodes from one whose process was killed. Losing it loses nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from trainables.cli import FAILED, INTERRUPTED, REFUSED
from trainables.records.files import write_json
from trainables.records.store import impatient

FILE = ".driver.json"
"""In the run folder."""
SECONDS = 15.0
"""Time between two signs of life."""


@dataclass(frozen=True)
class Sign:
    """The last sign of life of a sweep's process. All times are of its own clock, which may be set
    meanwhile: durations are measured with another one.
    """

    host: str
    pid: int
    machine: str
    """Boot and PID namespace; the same value on the watching machine means that `pid` can be looked
    up there. Empty if unknown."""
    started: float
    """Seconds since 1970, like the other times."""
    time: float
    beat: int
    """Number of signs so far."""
    born: str = ""
    """When the process was started, as `born` returns it; empty if unknown."""
    seconds: float = 0.0
    """Seconds from `started` to `time`."""
    epoch_seconds: float | None = None
    """Seconds from the end of the last epoch of any trial to `time`; None before the first."""
    title: str = ""
    at_once: int = 1
    """Number of trials that run at once."""
    asked: tuple[str, ...] | None = None
    """trial_ids that the command asked for; None means all of the run."""
    running: tuple[str, ...] | None = None
    """trial_ids of the trials that run now; None before the first."""
    samples: int = 0
    """Number of trials that a search will have drawn at its end; 0 without a search."""
    note: str = ""
    """The last message to the user."""
    code: int | None = None
    """Exit code; None while the sweep runs, or if its process was killed."""


class Heartbeat:
    """Writes signs of life while a sweep runs; a context manager.

    Parameters
    ----------
    out : Path
        The run folder, locked by this process.
    """

    def __init__(self, out: Path) -> None:
        now, pid = time.time(), os.getpid()
        self._path, self._stop = out / FILE, threading.Event()
        self._writing = threading.Lock()
        self._began = time.monotonic()
        self._epoch_ended: float | None = None
        sign = Sign(os.uname().nodename, pid, machine(), now, now, 0, born=born(pid))
        self._sign = asdict(sign)
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._sign["code"] is None and kind is not None:
            refused = issubclass(kind, ValueError)  # a RequestError, for instance
            interrupted = issubclass(kind, KeyboardInterrupt)
            self.say(code=INTERRUPTED if interrupted else REFUSED if refused else FAILED)
        self.beat()

    def say(self, **values: Any) -> None:
        """Set fields of `Sign` for the next signs of life."""
        self._sign.update(values)

    def epoch_ended(self) -> None:
        """Note that an epoch of some trial has just ended."""
        self._epoch_ended = time.monotonic()

    def _keep_beating(self) -> None:
        while not self._stop.wait(SECONDS):
            self.beat()

    def beat(self) -> None:
        """Write a sign of life now."""
        # a full disk, or a store that is away, is reported by what matters more
        with self._writing, impatient(), suppress(OSError):
            now, ended = time.monotonic(), self._epoch_ended
            self._sign["time"], self._sign["beat"] = time.time(), self._sign["beat"] + 1
            self._sign["seconds"] = now - self._began
            self._sign["epoch_seconds"] = None if ended is None else now - ended
            write_json(self._path, self._sign)


def machine() -> str:
    """Return a name of this machine's running system and PID namespace; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def born(pid: int) -> str:
    """Return when a process of this machine was started, by a clock that nobody sets; '' if it does
    not run, or if this system does not tell.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def last_sign(out: Path) -> Sign | None:
    """Return the last sign of life in a run folder; None if there is none that can be read."""
    try:
        content = json.loads((out / FILE).read_text(encoding="utf-8"))
        known = {one.name: content[one.name] for one in fields(Sign) if one.name in content}
        sign = Sign(**known)
        return sign if isinstance(sign.time, float) and isinstance(sign.pid, int) else None
    except (OSError, ValueError, TypeError):
        return None


def is_gone(sign: Sign) -> bool:
    """Whether the process of a sign of life has certainly ended, which only its machine knows."""
    if sign.code is not None:
        return True
    if not sign.machine or sign.machine != machine():
        return False
    # a later process may have got the same number
    if sign.born:
        return born(sign.pid) != sign.born
    try:
        return bool(psutil.Process(sign.pid).create_time() > sign.started + 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
