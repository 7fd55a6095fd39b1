"""Files that matter are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
    file is removed and the old one stays.

    Parameters
    ----------
    path : Path
    check : callable, optional
        Called just before the file is replaced; if it raises, the old file stays.

    Raises
    ------
    OSError
        When the disk is full or read-only, even if a library reports it differently.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        if check is not None:
            check()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        asked = isinstance(error, Exception) and not isinstance(error, OSError)
        problem = _problem(path.parent) if asked else None
        with suppress(OSError):  # the error itself says more
            temporary.unlink(missing_ok=True)
        if problem is not None:
            raise problem from error
        raise


def _problem(folder: Path) -> OSError | None:
    """Return why nothing can be written into a folder; None if that is possible."""
    try:
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
