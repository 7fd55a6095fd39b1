"""Command lines as they can be pasted into the shell that the user works in."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def command_line(module: str, *words: str | Path) -> str:
    """Return the command that runs a module of this project with the Python that runs now.

    Parameters
    ----------
    module : str
        Such as ``analysis.run``.
    *words : str or Path
        Its arguments; paths below the current folder are written relative to it.

    Returns
    -------
    str
        Quoted for a POSIX shell.
    """
    here = Path.cwd()
    shown = [str(_from(here, word)) if isinstance(word, Path) else word for word in words]
    return shlex.join([str(_from(here, Path(sys.executable))), "-m", module, *shown])


def _from(here: Path, path: Path) -> Path:
    """Return a path as one would type it in a folder."""
    path = Path(os.path.abspath(path))
    return path.relative_to(here) if path.is_relative_to(here) else path
