"""Where a run's folder lies, and whether it can be made there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sweep.plan import RequestError

RUNS = Path("runs")
"""Parent of run folders that get no ``--out``."""


def choose_out(out: str | None, space: str, data: str | None) -> Path:
    """Return the run folder of a request, absolute.

    Parameters
    ----------
    out : str or None
        ``--out``. None: ``runs/SPACE``, and with data ``runs/SPACE-NAME`` after the data's folder,
        so that equal spaces on different images do not meet. A run of these data that lies in
        ``runs/SPACE``, where earlier versions put it, is found there.
    space : str
        Name of the search space.
    data : str or None
        ``--data``.

    Raises
    ------
    RequestError
        When it is an address, or no folder of this name can be made or written to.
    """
    if "://" in (out or ""):
        raise RequestError(f"--out {out}: name a folder; addresses are not supported yet")
    check_text("--data", data)
    chosen = Path(out if out is not None else default_out(space, data)).absolute()
    check_text("--out", str(chosen))
    _check_writable(chosen)
    return chosen


def default_out(space: str, data: str | None) -> Path:
    """Return the run folder of a request without ``--out``; arguments as for `choose_out`.

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
    """Whether a folder holds a run of a data set."""
    try:
        recorded = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        return bool(recorded["data"]["path"] == os.path.abspath(data))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_text(option: str, path: str | None) -> None:
    """Refuse a path that cannot be written into tables and shown: one that is not UTF-8.

    Raises
    ------
    RequestError
    """
    try:
        (path or "").encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path or "").decode(errors="backslashreplace")
        raise RequestError(
            f"{option} {shown}: the name is not UTF-8 (\\x.. stands for a byte that is not); "
            "rename the folder"
        ) from None


LONGEST_NAME = 255
"""Bytes of a folder's name that file systems take."""


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be made, or that cannot be written to."""
    if any(len(os.fsencode(name)) > LONGEST_NAME for name in out.parts):
        raise RequestError(f"--out {out}: a name in it is longer than {LONGEST_NAME} bytes")
    try:
        os.stat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass  # what is there instead is looked at below
    except OSError as error:
        raise RequestError(f"--out {out}: {error.strerror}; name another folder") from error
    there = next(folder for folder in (out, *out.parents) if os.path.lexists(folder))
    if not there.exists():
        raise RequestError(f"--out {out}: {there} is a link to a folder that is not there")
    if not there.is_dir():
        where = "is a file" if there == out else f"{there} is a file, which holds no folders"
        raise RequestError(f"--out {out}: {where}; name another folder")
    # asks the system, which knows of read-only disks and of servers that refuse
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"--out {out}: {there} cannot be written to; name another folder")
