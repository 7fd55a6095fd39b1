"""The lock of a run folder in an object store, where no system releases locks of killed processes.

The lock is an object that names its holder. It is created only if there is none, and replaced only
if it is still the version that was seen (conditional writes), so of two processes one gets it. The
holder renews it; if it was not renewed for `STALE_SECONDS` by the store's own clock, or its holder
was a process of this machine that is gone, another process takes it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from sweep.heartbeat import born, machine
from sweep.request import RequestError
from trainables.records import objects
from trainables.records.objects import address_of
from trainables.records.store import impatient

RENEW_SECONDS = 15.0
STALE_SECONDS = 90.0
"""Age at which a lock counts as left by a killed process; several renewals may fail before."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the store shows it."""

    host: str
    boot: str
    """Identity of the machine since it was started; host names can be equal."""
    pid: int
    started: str
    """When the process was started, as process ids are used again."""
    age: float
    """Seconds since it was renewed, by the store's clock."""
    etag: str

    def is_stale(self) -> bool:
        """Whether the process that held the lock can no longer be running."""
        if self.age > STALE_SECONDS:
            return True
        return bool(self.boot) and self.boot == machine() and born(self.pid) != self.started


@contextmanager
def lease(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder in an object store while the block runs.

    If the lock is lost (this process was stopped for longer than `STALE_SECONDS`, and another one
    took it), this process gets SIGINT, as if Ctrl-C were pressed.

    Parameters
    ----------
    out : Path
        The run folder.
    say : callable
        Takes a line for the user.

    Raises
    ------
    RequestError
        When another process holds it; the message says which.
    """
    path = out / ".lock"
    me = _Lock(path)
    me.take(say)
    ended = threading.Event()
    thread = threading.Thread(target=me.keep, args=(ended, say), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(RENEW_SECONDS)
        me.release()


class _Lock:
    def __init__(self, path: Path) -> None:
        self.path, self.etag = path, ""
        self.content: dict[str, Any] = {
            "host": os.uname().nodename,
            "boot": machine(),
            "pid": os.getpid(),
            "started": born(os.getpid()),
            "token": uuid.uuid4().hex,
        }

    def take(self, say: Callable[[str], None]) -> None:
        while not self._put() and not self._is_mine():
            there = holder(self.path)
            if there is None:
                continue  # released meanwhile
            if not there.is_stale():
                raise RequestError(_say_held(self.path.parent, there))
            if self._put(there.etag):
                say(
                    f"note: the lock of {address_of(self.path.parent)} was left by process "
                    f"{there.pid} on {there.host}, which no longer runs: taken over"
                )
                break
        # a store that ignores the condition would let two sweeps in
        before = self.etag
        if self._put():
            say(
                f"note: the object store of {address_of(self.path.parent)} does not support "
                "conditional writes: make sure that no other sweep runs in this folder"
            )
        else:
            self.etag = before

    def _put(self, etag: str = "") -> bool:
        """Write the lock if there is none, or if it is still the version with an ETag."""
        # each renewal has other content, so that ETags made from contents differ
        content = json.dumps({**self.content, "renewed": uuid.uuid4().hex}).encode()
        new = objects.put_if(self.path, content, etag)
        self.etag = new or self.etag
        return new is not None

    def keep(self, ended: threading.Event, say: Callable[[str], None]) -> None:
        """Renew the lock until the block has ended."""
        while not ended.wait(RENEW_SECONDS):
            try:
                with impatient():
                    mine = self._put(self.etag) or self._is_mine()
            except OSError:
                continue  # the store is away; nobody else can take the lock there either
            if not mine and not ended.is_set():
                there = None
                with impatient(), suppress(OSError):  # that it is lost is known without
                    there = holder(self.path)
                who = f"process {there.pid} on {there.host}" if there else "another process"
                say(
                    f"error: {who} has taken {address_of(self.path.parent)} while this process did "
                    "not run: this one stops"
                )
                os.kill(os.getpid(), signal.SIGINT)
                return

    def _is_mine(self) -> bool:
        """Whether the lock is ours after all: the answer to a renewal may have been lost."""
        content, etag, _ = objects.peek(self.path)
        mine = content is not None and self.content["token"].encode() in content
        self.etag = etag if mine else self.etag
        return mine

    def release(self) -> None:
        with impatient(), suppress(OSError, ValueError):
            if self._is_mine():
                objects.remove([self.path])


def holder(path: Path) -> Holder | None:
    """Return who holds a lock; None if nobody does."""
    content, etag, headers = objects.peek(path)
    if content is None:
        return None
    now, then = (parsedate_to_datetime(headers[name]) for name in ("date", "last-modified"))
    try:
        found: dict[str, Any] = json.loads(content)
        return Holder(
            str(found["host"]),
            str(found["boot"]),
            int(found["pid"]),
            str(found["started"]),
            (now - then).total_seconds(),
            etag,
        )
    except (ValueError, KeyError, TypeError):
        return Holder("an unknown host", "", 0, "", STALE_SECONDS + 1, etag)


def _say_held(out: Path, there: Holder) -> str:
    wait = max(1, round(STALE_SECONDS - there.age))
    return (
        f"--out {address_of(out)}: a sweep is already running there (process {there.pid} on "
        f"{there.host}); wait for it, or name another folder; if it was killed, its lock can be "
        f"taken over in {wait} s"
    )
