"""Whether another machine sees the same folder as this one.

This machine writes a random word into the folder (`token_in`). The other one reads it, and writes a
reply (`reply_in`), which this one waits for (`arrived`).
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.records.files import exists, fetched, names, remove_matching, write_text
from trainables.records.objects import address_of, is_stored

FOLDER = ".nodes"
"""Name of a folder in the checked folder while that is done."""
PATIENCE_SECONDS = 10.0
"""Network file systems may show a new file late."""
STALE_SECONDS = 86400.0


@contextmanager
def token_in(folder: Path) -> Iterator[str]:
    """Write a random word into a folder while the block runs.

    Parameters
    ----------
    folder : Path
        Absolute; must exist.

    Yields
    ------
    str
        The word, for `reply_in`.
    """
    parent = folder / FOLDER
    for old in parent.glob("*"):  # of processes that were killed, on disks
        if time.time() - old.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    token = secrets.token_hex(8)
    write_text(parent / token / "token", token)
    try:
        yield token
    finally:
        if is_stored(parent):
            remove_matching(parent / token, "*")
        shutil.rmtree(parent / token, ignore_errors=True)
        if parent.exists() and not any(parent.iterdir()):
            parent.rmdir()


def reply_in(
    folder: Path,
    token: str,
    reply: str,
    patience: float = PATIENCE_SECONDS,
    *,
    called: str = "the run folder",
) -> str:
    """Read the word that another machine has written, and write a reply beside it.

    Parameters
    ----------
    folder : Path
        Absolute.
    token : str
        The result of `token_in`.
    reply : str
        Name of the reply's file.
    patience : float
        Seconds to wait for the word before it counts as missing.
    called : str
        Name of the folder in messages.

    Returns
    -------
    str
        The problem, as the rest of a sentence about this machine; '' if there is none.
    """
    inside, end = folder / FOLDER / token, time.monotonic() + patience
    while True:
        try:
            if fetched(inside / "token").read_text(encoding="utf-8") == token:
                break
        except OSError:
            pass
        if time.monotonic() >= end:
            what = "has another folder at" if folder.is_dir() else f"cannot find {called}"
            return f"{what} {address_of(folder)}"
        time.sleep(0.2)
    try:
        write_text(inside / reply, token)
    except OSError as error:
        return f"cannot write to {called} {address_of(folder)} ({error.strerror or error})"
    return ""


def arrived(folder: Path, token: str, reply: str) -> bool:
    """Wait for another machine's reply; returns whether it appears within `PATIENCE_SECONDS`."""
    inside, end = folder / FOLDER / token, time.monotonic() + PATIENCE_SECONDS
    while not exists(inside / reply):
        if time.monotonic() >= end:
            return False
        names(inside)  # makes network file systems look again
        time.sleep(0.2)
    return True
