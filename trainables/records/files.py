"""Files that matter are written whole or not at all.

A path may also be this machine's copy of a file in an object store (`trainables.records.objects`).
What is written here is then sent there, and what others may have written must be fetched before it
is read; for all other paths, `fetched`, `fetch_all` and `send` do nothing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from trainables.records import mounted, objects

ALMOST_NOTHING = 2**20
"""If fewer bytes than this are free, a failed write is reported as a full disk."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems refuse to sync folders
    finally:
        os.close(fd)


@contextmanager
def whole_file(path: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces `path` when the block succeeds.

    Readers see the old file or the new one, never a part; on an exception the temporary
    file is removed and the old one stays. The copy of an object is sent before it is replaced.

    Parameters
    ----------
    path : Path
    check : callable, optional
        Called just before the file is replaced; if it raises, the old file stays.

    Raises
    ------
    OSError
        When the disk is full, read-only or away, even if a library reports it differently.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        if check is not None:
            check()
        mounted.check(path)
        etag = objects.send(temporary, path) if objects.is_stored(path) else None
        there = temporary.stat()
        os.replace(temporary, path)
        if etag is not None:
            objects.remember(path, etag, there)
        sync_folder(path.parent)
    except BaseException as error:
        unclear = isinstance(error, FileNotFoundError) or not isinstance(error, OSError)
        asked = isinstance(error, Exception) and unclear
        problem = _problem(path) if asked else None
        with suppress(OSError):  # the error itself says more
            temporary.unlink(missing_ok=True)
        if problem is not None:
            raise problem from error
        raise


def _problem(path: Path) -> OSError | None:
    """Return why a file cannot be written; None if that is possible."""
    folder = path.parent
    try:
        mounted.check(path)
        if shutil.disk_usage(folder).free < ALMOST_NOTHING:
            return OSError(errno.ENOSPC, "No space left on the disk", str(folder))
        probe = folder / f".{uuid.uuid4().hex[:8]}.tmp"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return error
    return None


def write_with(
    path: Path, write: Callable[[Path], Any], check: Callable[[], None] | None = None
) -> None:
    """Call ``write(temporary_path)`` and move the result to `path`, unless ``check()`` raises."""
    mounted.check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, check) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def json_text(value: Any) -> str:
    """Return `value` as indented JSON; refuses NaN, which JSON does not know."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON (no NaN, which JSON does not know) to `path`."""
    write_text(path, json_text(value))


def fetched(path: Path) -> Path:
    """Return a path, after its content was made that of the object store, if it is in one."""
    if objects.is_stored(path):
        objects.fetch(path)
    return path


def fetch_all(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True, alone: bool = False
) -> None:
    """Make all files of a folder those of the object store, if it is in one.

    Parameters
    ----------
    folder : Path
    wanted : callable
        Returns for a name in the folder whether it will be read.
    alone : bool
        Delete files that are `wanted` and not in the store, whatever they are.
    """
    if objects.is_stored(folder):
        objects.fetch_all(folder, wanted, alone)


def send(path: Path) -> None:
    """Send a file, or all of a folder, that a library has written, if it is in an object store."""
    if objects.is_stored(path) and path.exists():
        (objects.put_all if path.is_dir() else objects.put)(path)


def exists(path: Path) -> bool:
    """Whether there is such a file, wherever it is."""
    return objects.exists(path) if objects.is_stored(path) else path.is_file()


def remove(path: Path) -> None:
    """Delete a file, if it exists."""
    if objects.is_stored(path):
        objects.remove([path])
    else:
        path.unlink(missing_ok=True)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    if objects.is_stored(folder):
        return sorted({name.partition("/")[0] for name in objects.listing(folder)})
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def remove_matching(folder: Path, *patterns: str) -> None:
    """Delete the files in a folder whose names match a pattern, those of the first one first."""
    there = names(folder)
    for pattern in patterns:
        for name in there:
            if fnmatch(name, pattern):
                remove(folder / name)
