"""Attempts at a trial: only the last one writes, earlier ones stop. Imports no torch.

A node that a cluster has lost is not always dead: if it was only cut off, its worker continues to
train a trial that has meanwhile been given to another node. Every attempt therefore leaves a token
in the trial's folder when it begins, and every write checks that this token is still the last one.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.errors import Superseded
from trainables.records import mounted
from trainables.records.files import exists, fetched, json_text, remove, write_json, write_with
from trainables.records.patience import Patience
from trainables.records.progress import RESULT

ATTEMPT = "attempt.json"
"""File with the token of the attempt that began last; removed when the trial has ended."""


class Attempt:
    """One attempt at a trial.

    Parameters
    ----------
    folder : Path
        The trial's own folder.
    token : str
        From `begin`.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self.token = folder, token
        self.patience: Patience | None = None
        """What waits for storage; None: nothing does."""

    @classmethod
    def begin(cls, folder: Path) -> Attempt:
        """Begin an attempt; from now on all earlier ones are refused.

        Removes incomplete files of killed attempts, which can be hundreds of megabytes.
        """
        attempt = cls(folder, uuid.uuid4().hex)
        mounted.check(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "token": attempt.token,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "started": time.time(),
        }
        write_json(folder / ATTEMPT, content)
        for path in folder.rglob(".*.tmp*"):  # Keras adds a suffix of its own
            path.unlink(missing_ok=True)
        return attempt

    def check(self) -> None:
        """Raise if this is not the attempt that began last.

        Raises
        ------
        Superseded
            When another attempt has begun, or has ended the trial.
        """
        try:
            last = json.loads(fetched(self.folder / ATTEMPT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            if mounted.problem(self.folder) is not None:
                return  # nothing can be written now; it is asked again before anything is
            if not exists(self.folder / RESULT):
                return  # somebody cleared the folder
            last = {}  # another attempt ended the trial, and cleared up behind it
        if last.get("token") != self.token:
            since = time.strftime("%H:%M:%S", time.localtime(last.get("started", time.time())))
            raise Superseded(
                f"another attempt at {self.folder.name} began on {last.get('host', 'another node')}"
                f" at {since}, so process {os.getpid()} on {os.uname().nodename} stops it and "
                "writes nothing more"
            )

    def write_with(self, path: Path, write: Callable[[Path], Any]) -> None:
        """Write a file as `files.write_with` does, unless another attempt has begun.

        Raises
        ------
        Superseded
            When another attempt has begun, even while the file was being written.
        """

        def once() -> None:
            self.check()
            try:
                write_with(path, write, self.check)
            except OSError:
                self.check()  # who began meanwhile may have taken the half-written file away
                raise

        self.patiently(path, once)

    def patiently(self, path: Path, work: Callable[[], None]) -> None:
        """Do some work that writes a file or into a folder; wait for storage if need be."""
        if self.patience is None:
            work()
        else:
            self.patience(path, work)

    def write_json(self, path: Path, value: Any) -> None:
        """Write JSON as `files.write_json` does, unless another attempt has begun."""
        self.write_with(path, lambda temporary: temporary.write_text(json_text(value), "utf-8"))

    def end(self) -> None:
        """Remove the token, after the attempt has written everything."""
        try:
            self.check()
        except Superseded:
            return
        remove(self.folder / ATTEMPT)


@contextmanager
def attempt_at(folder: Path, token: str | None) -> Iterator[Attempt]:
    """Yield the attempt that the caller began; without a token begin one, and end it.

    Parameters
    ----------
    folder : Path
        The trial's own folder.
    token : str or None
        Of `Attempt.begin`.
    """
    if token is not None:
        yield Attempt(folder, token)
        return
    attempt = Attempt.begin(folder)
    yield attempt
    attempt.end()
