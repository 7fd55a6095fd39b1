"""The command line of `sweep.run`."""

from __future__ import annotations

import argparse

from trainables.cli import Parser


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``sweep.run``."""
    commands = Parser(prog="python -m sweep.run", description="Start, watch and resume a sweep.")
    add = commands.add_argument
    add(
        "space",
        nargs="?",
        default="demo",
        metavar="SPACE",
        help="a file in search_spaces/ (demo, paper, ...) or the path of your own (default: demo)",
    )
    add("--data", metavar="PATH", help="data set: a folder with images/ and masks/")
    add(
        "--out",
        metavar="DIR",
        help="run folder (default: runs/SPACE, with --data runs/SPACE-NAME after its folder)",
    )
    add(
        "--address",
        metavar="ADDR",
        help="Ray cluster to use (default: RAY_ADDRESS, else a private Ray on this machine)",
    )
    add("--seeds", type=int, metavar="N", help="repeat every trial with N seeds")
    add("--gpus", metavar="SPEC", help="GPUs, such as 2 or 4xV100-32 (default: those there are)")
    add(
        "--wandb",
        choices=["online", "offline", "off"],
        help="default: online when an API key is configured, else offline",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        dest="changes",
        help="change a setting of the trials or the sweep; may be given many times",
    )
    add(
        "--only",
        action="extend",
        nargs="+",
        default=[],
        metavar="key=value",
        help="run only the trials that have these values, such as architecture=Unet,FPN; on a "
        "folder that exists, too",
    )
    add("--plan", action="store_true", help="print the trials, check everything, start nothing")
    add("--resume", action="store_true", help="go on with an unfinished run; retry failed trials")
    return commands
