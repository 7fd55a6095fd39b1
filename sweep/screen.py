"""A quiet screen: output of libraries goes to a log file, messages of the sweep to the user."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleDimensions


class Screen(Console):
    """The terminal (or file) that was standard output, and the one that was standard error.

    Parameters
    ----------
    out, errors : TextIO
        Streams of the real terminal.

    Attributes
    ----------
    errors : TextIO
        Plain writer to the former standard error; buffered by line.
    """

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        super().__init__(file=out, highlight=False, soft_wrap=not out.isatty())
        self.errors = errors

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows of the real terminal, also after it was resized."""
        # rich would ask descriptors 0 to 2, two of which are the log file now
        if self.is_terminal and "COLUMNS" not in os.environ:
            try:
                columns, lines = os.get_terminal_size(self.file.fileno())
            except (OSError, ValueError):
                return super().size
            if columns and lines:
                return ConsoleDimensions(columns, lines)
        return super().size

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def _flush(discard: bool = False) -> None:
    """Write out what Python and C have buffered for descriptors 1 and 2.

    With `discard`, drop text that cannot be written, for example if the disk of the log file is
    full, so that it does not reach the terminal later.
    """
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            if not discard:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            stream.flush()
    ctypes.CDLL(None).fflush(None)


class _Terminal(io.TextIOWrapper):
    """A terminal that may be closed while a sweep goes on; from then on it takes all and shows
    nothing.
    """

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return super().write(text)
        except OSError as error:
            self._forget(error)
            return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        try:
            super().flush()
        except OSError as error:
            self._forget(error)

    def _forget(self, error: OSError) -> None:
        if error.errno != errno.EIO:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _open(descriptor: int) -> TextIO:
    # a duplicate is not inherited, so that no child keeps the terminal open
    raw = io.FileIO(os.dup(descriptor), "w")
    return _Terminal(
        io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True
    )


@contextmanager
def quiet_screen(log_path: Path) -> Iterator[Screen]:
    """Send file descriptors 1 and 2 to a log file while the block runs.

    Redirecting descriptors rather than ``sys.stdout`` also catches what C++ libraries and
    child processes print.

    Parameters
    ----------
    log_path : Path
        The log file, to which output is appended; its folder is created.

    Yields
    ------
    Screen
        A `rich.console.Console` on the former standard output; ``errors`` is a plain writer to the
        former standard error.

    Raises
    ------
    OSError
        When the log file cannot be written; the screen is then unchanged.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _flush()
    out, errors = _open(1), _open(2)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield Screen(out, errors)
    finally:
        _flush(discard=True)
        for stream, descriptor in ((out, 1), (errors, 2)):
            with suppress(OSError):  # the pipe may have gone; the sweep must still end in order
                stream.flush()
            os.dup2(stream.fileno(), descriptor)
        for stream in (out, errors):
            with suppress(OSError):
                stream.close()
