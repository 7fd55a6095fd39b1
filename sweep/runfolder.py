"""The run folder: where it is, which process uses it, and messages when its storage fails."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweep.lease import lease
from sweep.ledger import PARTS
from sweep.request import RequestError
from trainables.records import objects
from trainables.records.store import StoreError

CONTINUE = "run the same command with --resume to continue"
"""What to do after an interruption."""
RUNS = Path("runs")
"""Parent of run folders without ``--out``."""


def choose_out(out: str | None, space: str, data: str | None) -> Path:
    """Return the absolute path of a request's run folder.

    Parameters
    ----------
    out : str or None
        ``--out``, which may be ``s3://BUCKET/FOLDER``; the path is then that of this machine's copy
        (`trainables.records.objects`). None means ``runs/SPACE``, or with data ``runs/SPACE-NAME``
        (NAME is the data's folder), so that one space on different images gets different folders. A
        run of these data in ``runs/SPACE``, where earlier versions put it, is found there.
    space : str
        Name of the search space.
    data : str or None
        ``--data``.

    Raises
    ------
    RequestError
        When the folder cannot be created or written to, or the object store cannot be used.
    """
    check_text("--data", data)
    if out is not None and "://" in out:
        return in_store("--out", out)
    chosen = Path(out if out is not None else default_out(space, data)).absolute()
    check_text("--out", str(chosen))
    _check_writable(chosen)
    return chosen


def in_store(option: str, out: str) -> Path:
    """Return the path of a run folder's address, after its object store has responded.

    Raises
    ------
    RequestError
        When it is no such address, or the store cannot be used.
    """
    check_text(option, out)
    try:
        chosen = objects.place(out)
        objects.check(chosen)
    except StoreError as error:
        raise RequestError(
            f"{option} {out}: {error.strerror}; correct the address or the credentials "
            "(docs/cluster.md, Storage)"
        ) from error
    except ValueError as error:
        raise RequestError(f"{option} {error}") from error
    return chosen


def default_out(space: str, data: str | None) -> Path:
    """Return the run folder of a request without ``--out``; see `choose_out`.

    Examples
    --------
    >>> str(default_out("demo", None)), str(default_out("demo", "images/mine/"))
    ('runs/demo', 'runs/demo-mine')
    """
    name = os.path.basename(os.path.abspath(data)) if data is not None else ""
    plain, own = RUNS / space, RUNS / f"{space}-{name}"
    if not name:
        return plain
    return plain if not own.exists() and data is not None and _holds(plain, data) else own


def _holds(out: Path, data: str) -> bool:
    """Whether a folder contains a run on a data set."""
    try:
        recorded = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        return bool(recorded["data"]["path"] == os.path.abspath(data))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_text(option: str, path: str | None) -> None:
    """Refuse a path that is not UTF-8: it could not be printed or written into tables.

    Raises
    ------
    RequestError
    """
    try:
        (path or "").encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path or "").decode(errors="backslashreplace")
        raise RequestError(
            f"{option} {shown}: the name is not UTF-8 (\\x.. marks the wrong bytes); rename the "
            "folder"
        ) from None


LONGEST_NAME = 255
"""Longest name of a folder, in bytes, that file systems allow."""


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be created or written to."""
    if any(len(os.fsencode(name)) > LONGEST_NAME for name in out.parts):
        raise RequestError(
            f"--out {out}: a name in it is longer than {LONGEST_NAME} bytes; choose a shorter one"
        )
    try:
        os.stat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass  # what is there instead is looked at below
    except OSError as error:
        raise RequestError(f"--out {out}: {error.strerror}; name another folder") from error
    there = next(folder for folder in (out, *out.parents) if os.path.lexists(folder))
    if not there.exists():
        raise RequestError(
            f"--out {out}: {there} is a link to a missing folder; name another folder"
        )
    if not there.is_dir():
        where = "is a file" if there == out else f"{there} is a file, not a folder"
        raise RequestError(f"--out {out}: {where}; name another folder")
    # asks the system, which knows of read-only disks and of servers that refuse
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"--out {out}: {there} cannot be written to; name another folder")


HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""Errors when another process has the lock; any other error means that there are no locks."""


@contextmanager
def lock(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Lock the run folder for this process; the system unlocks it when the process ends.

    Then remove what processes that were killed left behind.

    Parameters
    ----------
    out : Path
        The run folder; created if it does not exist.
    say : callable
        Takes a line for the user, if the storage does not support locks.

    Raises
    ------
    RequestError
        When another process has locked the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    if objects.is_stored(out):
        with lease(out, say):
            remove_leftovers(out)
            yield
        return
    with open(out / ".lock", "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                handle.seek(0)
                who = handle.read().strip() or "another process"
                raise RequestError(
                    f"--out {out}: a sweep is already running there ({who}); wait for it, or name "
                    "another folder"
                ) from error
            say(
                f"note: the storage of {out} does not support locks ({error.strerror}): make sure "
                "that no other sweep runs in this folder"
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        handle.flush()
        remove_leftovers(out)
        yield


LEFTOVER_SECONDS = 3600.0
"""Age from which a temporary file is nobody's any more."""


def remove_leftovers(out: Path) -> None:
    """Remove what killed processes were writing; nobody reads it, but it can be large.

    A trial's own folder is cleaned by its next attempt (`trainables.records.attempts`).

    Parameters
    ----------
    out : Path
        The run folder, locked by this process.
    """
    ledger = out / "ledger"
    for folder in (out, ledger, *(ledger / part for part in PARTS)):
        for path in folder.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime < LEFTOVER_SECONDS:
                    continue  # a worker that was cut off, or another command
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def storage_error(error: BaseException | None) -> OSError | None:
    """Return the disk or network error that caused an error; None if there is none.

    Ray Tune wraps the errors of its callbacks.
    """
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            return error
        error = error.__cause__ or error.__context__
    return None


def say_storage_error(error: OSError, out: Path) -> str:
    """Return one line that says how the storage failed, where, and what to do."""
    where = f": {error.filename}" if error.filename else f" (run folder {out})"
    what = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space within your quota",
        errno.ESTALE: "mount the folder again",
        errno.EROFS: "make the folder writable",
    }.get(error.errno or 0, "make sure that the folder can be written to")
    if isinstance(error, StoreError):
        what = "make sure that the store responds and the credentials are valid"
    then = f"; then {CONTINUE}" if (out / "plan.json").exists() else ""
    return objects.readable(f"error: {error.strerror or error}{where}; {what}{then}")
