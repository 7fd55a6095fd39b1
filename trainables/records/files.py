"""Files that matter are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        ENOSPC when the disk is full, even if a library reports it differently.
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
        full = not isinstance(error, OSError) and _is_full(path.parent)
        temporary.unlink(missing_ok=True)
        if full and isinstance(error, Exception):
            raise OSError(errno.ENOSPC, "No space left on the disk", str(path.parent)) from error
        raise


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < ALMOST_NOTHING
    except OSError:
        return False


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
