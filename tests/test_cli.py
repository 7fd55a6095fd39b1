"""What all commands do alike: one line for a wrong request, and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
from collections.abc import Callable

import pytest

COMMANDS = {
    "sweep.run": "sweep.run",
    "sweep.doctor": "sweep.doctor",
    "sweep.wandb_upload": "sweep.wandb_upload",
    "analysis.run": "analysis.run",
    "analysis.segment": "analysis.segment.cli",
    "trainables.data": "trainables.data.dataset",
    "trainables.synthetic": "trainables.synthetic.dataset",
}
"""Where the ``main`` of each command is."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_line_is_refused_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(COMMANDS[name]).main
    with pytest.raises(SystemExit) as ended:
        main(["x", "y", "--no-such-option"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(" --help)")
    assert f"(see python -m {name} " in line


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_no_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(COMMANDS[name]).main
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"usage: python -m {name}" in capsys.readouterr().out


class Refused(ValueError):
    pass


def stop(number: int) -> Callable[..., int]:
    def work(arguments: argparse.Namespace, command: str) -> int:
        os.kill(os.getpid(), number)
        signal.pause()
        raise AssertionError

    return work


def fail(error: Exception) -> Callable[..., int]:
    def work(arguments: argparse.Namespace, command: str) -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda arguments, command: 1 if command == "python -m x 'a b'" else 0, 1, ""),
        (fail(Refused("no such thing")), 2, "error: no such thing\n"),
        (
            fail(OSError("disk\nfull")),
            1,
            "error: disk full; run the same command again to continue\n",
        ),
        (stop(signal.SIGTERM), 130, "interrupted; go on\n"),
        (stop(signal.SIGINT), 130, "interrupted; go on\n"),
    ],
)
def test_exit_codes(
    work: Callable[..., int], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainables.cli import Parser, run

    parser = Parser(prog="python -m x")
    parser.add_argument("word")
    before = signal.getsignal(signal.SIGTERM)
    ended = run(
        parser,
        work,
        ["a b"],
        refused=(Refused,),
        failed=(OSError,),
        interrupted="interrupted; go on",
    )
    assert (ended, capsys.readouterr().err) == (code, said)
    assert signal.getsignal(signal.SIGTERM) is before
