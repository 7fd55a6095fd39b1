"""The run folder's storage: held by one sweep at a time, and what is said when it fails."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.plan import RequestError

HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""What systems answer where another process holds a lock; all else: there are no locks."""


@contextmanager
def lock(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run folder for this process; released by the system when it dies.

    Parameters
    ----------
    out : Path
        The run folder; made when absent.
    say : callable
        Takes a line for the user: that the storage knows no locks.

    Raises
    ------
    RequestError
        When another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                handle.seek(0)
                who = handle.read().strip() or "another process"
                raise RequestError(f"--out {out}: a sweep is running there ({who})") from error
            say(
                f"note: the storage of {out} does not support locks ({error.strerror}): see to it "
                "that no other sweep runs in this folder"
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        handle.flush()
        yield


def storage_error(error: BaseException | None) -> OSError | None:
    """Return the error of a disk or a network folder that an error comes from, if there is one.

    Ray Tune wraps what its callbacks raise.
    """
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            return error
        error = error.__cause__ or error.__context__
    return None


def say_storage_error(error: OSError, out: Path) -> str:
    """Return one line that says what the storage refused, where, and what to do."""
    where = f": {error.filename}" if error.filename else f" (run folder {out})"
    what = {
        errno.ENOSPC: "make room",
        errno.EDQUOT: "make room within your quota",
        errno.ESTALE: "mount the folder again",
        errno.EROFS: "make the folder writable",
    }.get(error.errno or 0, "see that the folder can be written to")
    then = "; then the same command with --resume goes on" if (out / "plan.json").exists() else ""
    return f"error: {error.strerror or error}{where}; {what}{then}"
