"""Check whether everything that a sweep needs exists: ``python -m sweep.doctor [--address ADDR]``.

Before it has checked that all libraries are installed, it imports only Python's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainables import cli

FIRST_PYTHON = (3, 11)
ABOUT = (
    "Check whether everything that a sweep needs exists. Prints one table with one line per "
    "finding, ready to paste into an issue. The exit code is 2 if something would stop or spoil a "
    "sweep, else 0. Trains nothing and changes nothing."
)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="python -m sweep.doctor", description=ABOUT)
    add = parser.add_argument
    add(
        "--address",
        metavar="ADDR",
        help="Ray cluster whose nodes to check as well (default: RAY_ADDRESS if set, else none)",
    )
    add("--data", metavar="PATH", help="data set to check: a folder with images/ and masks/")
    add("--out", metavar="DIR", help="run folder to check")
    return parser


def _refuse(what: str) -> int:
    """Print the one finding that makes all other checks impossible."""
    print(
        f"problem  {what}; install with this Python: make setup, or pip install -c "
        f"constraints.txt -e . ({sys.executable})"
    )
    return cli.REFUSED


def _look(arguments: argparse.Namespace, command: str) -> int:
    """Print all findings; return the exit code."""
    if sys.version_info < FIRST_PYTHON:
        return _refuse(f"python  here  {sys.version.split()[0]}, but 3.11 or newer is needed")
    try:
        from sweep.cluster import connect as cluster
        from sweep.doctor import diagnosis
        from sweep.doctor.findings import print_table
        from sweep.screen import quiet_screen
    except ModuleNotFoundError as error:
        return _refuse(f"libraries  here  not installed: {error.name}, and perhaps others")
    address = cluster.where(arguments.address)
    # output of libraries would spoil the table
    with tempfile.TemporaryDirectory(prefix="segsweep-") as log, quiet_screen(Path(log, "log")):
        findings = diagnosis.diagnose(address, arguments.data, arguments.out)
    print_table(findings, sys.stdout)
    wrong = sum(one.state == "problem" for one in findings)
    ending = {0: "nothing here would stop a sweep", 1: "1 problem would stop or spoil a sweep"}
    print(ending.get(wrong, f"{wrong} problems would stop or spoil a sweep"))
    return cli.REFUSED if wrong else cli.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return cli.run(_parser(), _look, argv)
