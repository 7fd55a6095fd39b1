"""What all commands share: one-line errors, signals, exit codes, command lines to paste.

Imports only the standard library, because `sweep.doctor` checks whether the rest is installed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all results are there; some are missing; the request was wrong, nothing was started;
stopped by Ctrl-C, SIGTERM or SIGHUP."""
_STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(REFUSED, f"error: {message} (see {self.prog} --help)\n")


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, str], int],
    argv: Sequence[str] | None,
    *,
    refused: tuple[type[Exception], ...] = (),
    failed: tuple[type[Exception], ...] = (),
    interrupted: str | Callable[[argparse.Namespace], str] = "interrupted",
) -> int:
    """Run a command; SIGTERM and SIGHUP stop it as Ctrl-C does, unless they are ignored.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    work : callable
        Called with the arguments and the command as recorded in files; returns the exit code.
    argv : sequence of str or None
        Words of the command line; None: those of this process.
    refused : tuple of exception types
        Raised if the request was wrong: the user sees their message in one line.
    failed : tuple of exception types
        Raised if the work cannot be finished now: the first words of their message are shown.
    interrupted : str or callable
        Message after Ctrl-C, SIGTERM or SIGHUP, or a function of the arguments that returns it.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        For a wrong command line, with code 2, and for ``--help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    before = {number: signal.getsignal(number) for number in _STOPS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup
            signal.signal(number, _terminate)
    try:
        return work(arguments, shlex.join([*parser.prog.split(), *words]))
    except refused as error:
        print(_shown(f"error: {error}"), file=sys.stderr)
        return REFUSED
    except failed as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        text = f"error: {reason}; run the same command again to continue"
        print(_shown(text), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        said = interrupted if isinstance(interrupted, str) else interrupted(arguments)
        print(said, file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _shown(text: str) -> str:
    """Return a message with addresses of object stores, if it is about their copies here."""
    objects = sys.modules.get("trainables.records.objects")  # what has not used it has no copies
    return text if objects is None else str(objects.readable(text))


def command_line(module: str, *words: str | Path) -> str:
    """Return the command that runs a module of this project with the current Python.

    Parameters
    ----------
    module : str
        For example ``analysis.run``.
    *words : str or Path
        Its arguments; paths below the current folder are written relative to it, and copies of
        object stores as addresses.

    Returns
    -------
    str
        Quoted for a POSIX shell.
    """
    here = Path.cwd()
    known = [word if (word_ := _shown(str(word))) == str(word) else word_ for word in words]
    shown = [str(_from(here, word)) if isinstance(word, Path) else word for word in known]
    return shlex.join([str(_from(here, Path(sys.executable))), "-m", module, *shown])


def _from(here: Path, path: Path) -> Path:
    """Return a path as one would type it in a folder."""
    path = Path(os.path.abspath(path))
    return path.relative_to(here) if path.is_relative_to(here) else path
