"""Start, watch and resume a sweep: ``python -m sweep.run [SPACE] [--data PATH] ...``.

This module reads the command line and prints; `sweep.session` decides and acts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from sweep.cluster.joining import gpus_to_plan
from sweep.dataset import data_folder
from sweep.estimates import count_crops
from sweep.leaderboard import candidates, ceilings, paper_correlation
from sweep.ledger import Ledger, LedgerError
from sweep.plan import Plan, Trial, with_recorded
from sweep.preview import print_plan, print_unseen, print_weights
from sweep.request import RequestError
from sweep.resources import check_gpus_are_here
from sweep.runfolder import CONTINUE, say_storage_error, storage_error
from sweep.session import (
    Outcome,
    Session,
    answer,
    check,
    decide,
    held,
    list_data,
    plan_on,
    prepare,
    start,
)
from sweep.view import duration, print_candidates, print_leaderboard
from sweep.weights import check_weights
from trainables import cli
from trainables.cli import DONE, FAILED, INTERRUPTED, REFUSED, command_line
from trainables.data.dataset import DataError


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``sweep.run``."""
    commands = cli.Parser(
        prog="python -m sweep.run", description="Start, watch and resume a sweep."
    )
    add = commands.add_argument
    add(
        "space",
        nargs="?",
        default="demo",
        metavar="SPACE",
        help="name of a file in search_spaces/ (demo, paper, ...), or path of your own file "
        "(default: demo)",
    )
    add("--data", metavar="PATH", help="data set: a folder that contains images/ and masks/")
    add(
        "--out",
        metavar="DIR",
        help="run folder (default: runs/SPACE, or runs/SPACE-DATA with --data DATA)",
    )
    add(
        "--address",
        metavar="ADDR",
        help="Ray cluster to use (default: RAY_ADDRESS if set, else a private Ray on this machine)",
    )
    add("--seeds", type=int, metavar="N", help="train every trial with N different seeds")
    add("--gpus", metavar="SPEC", help="GPUs to use, such as 2 or 4xV100-32 (default: all)")
    add(
        "--wandb",
        choices=["online", "offline", "off"],
        help="how to report to W&B (default: online if an API key is configured, else offline)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        dest="changes",
        help="change a setting of the trials or of the sweep; can be repeated",
    )
    add(
        "--only",
        action="extend",
        nargs="+",
        default=[],
        metavar="key=value",
        help="run only the trials with these values, such as architecture=Unet,FPN; also works on "
        "an existing run folder",
    )
    add("--plan", action="store_true", help="check everything and print the trials; start nothing")
    add("--resume", action="store_true", help="continue an unfinished run; retry failed trials")
    return commands


def sweep(arguments: argparse.Namespace, command: str) -> int:
    """Carry out the request on the command line.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    RequestError, trainables.data.DataError, sweep.ledger.LedgerError
        When the request is wrong.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    session = prepare(arguments)
    out, request, planning = session.out, session.request, arguments.plan
    arguments.out = out
    if planning and arguments.data is None and request.space.builtin_data is None:
        _preview_without_data(console, session)
        return DONE
    with data_folder(request, arguments.data, out, keep=not planning) as root:
        listed = list_data(session, root)
        plan = plan_on(session, listed)
        decision = decide(session, plan)
        if decision.action == "refuse" or (decision.action == "unfinished" and not planning):
            raise RequestError(decision.reason)
        if decision.action == "answer":
            console.print("nothing to do: all trials of this run have ended")
            if not planning:
                return report(console, session, plan, answer(session))
        if decision.reason:
            console.print(f"note: {decision.reason}", markup=False, soft_wrap=True)
        session, dataset = check(session, plan, listed, console)
        if planning:
            shown = with_recorded(plan, session.recorded, decision.ended)
            _preview(console, session, shown, partial(count_crops, dataset), decision.ended)
            return DONE
        if not session.address:
            check_gpus_are_here(session.gpus)
        with held(session, console):
            try:
                outcome = start(session, plan, dataset, command)
            except OSError as error:
                print(say_storage_error(error, out), file=sys.stderr)
                return FAILED
        return report(console, session, plan, outcome)


def _preview(
    console: Console,
    session: Session,
    plan: Plan,
    crops: Callable[[int], int],
    ended: Mapping[str, str],
) -> None:
    """Print the plan, for ``--plan``."""
    gpus = gpus_to_plan(session.gpus, session.request.settings, session.address)
    if session.address:
        print_unseen(console, session.address, session.gpus, gpus)
    print_plan(console, plan, session.resources, gpus, crops, session.out, ended)
    print_weights(console, session.request.weights.values())


def _preview_without_data(console: Console, session: Session) -> None:
    """Print a plan without a data set."""
    request = check_weights(session.request, session.out)
    # the end of a trial_id depends on the data
    trials = tuple(Trial(config.trial_id("")[:-11], config) for config in request.configs)
    plan = Plan(request, "", "", trials, session.precision)
    _preview(console, replace(session, request=request), plan, lambda crop_size: PAPER_CROPS, {})
    console.print("no --data: your images were not checked; times assume the paper's epoch length")


PAPER_CROPS = 90
"""Crops per epoch in the paper, as far as it says."""


def report(console: Console, session: Session, plan: Plan, outcome: Outcome) -> int:
    """Print a sweep's results and the next command; return the exit code."""
    code = _report_trials(console, session, plan, outcome)
    if outcome.seconds is not None:
        console.print(f"this took {duration(outcome.seconds)}")
    if outcome.problem:
        console.print(f"{outcome.problem}; {CONTINUE}", soft_wrap=True)
        return FAILED
    if outcome.interrupted:
        console.print(f"interrupted; {CONTINUE}")
        return INTERRUPTED
    if any(row["status"] == "done" for row in outcome.rows):
        console.print("next, find and measure single cells:", soft_wrap=True)
        line = command_line("analysis.run", session.out)
        console.print(f"  {line}", markup=False, soft_wrap=True)
    return code


def _report_trials(console: Console, session: Session, plan: Plan, outcome: Outcome) -> int:
    """Print the ranking of all trials in a run folder, and where their files are.

    Returns
    -------
    int
        Exit code, for the trials that the request asked for (``--only``).
    """
    rows = outcome.rows
    print_leaderboard(console, rows, top=60)
    if (folds := plan.request.data_options.folds) is not None:
        read_images = Ledger(session.out).read_per_image
        print_candidates(console, candidates(rows, folds, read_images), folds)
    for note in ceilings(rows):
        console.print(note, soft_wrap=True)
    rho = paper_correlation(rows)
    if rho is not None:
        console.print(f"Spearman rank correlation with the paper's Table 1: {rho:.2f}")
    console.print(f"all results are in {session.out}", markup=False, soft_wrap=True)
    console.print("  leaderboard.csv  candidates.csv  history.csv  checkpoints/  sweep.log")
    asked = [row for row in rows if plan.asks_for(row["trial_id"])]
    failed = sum(row["status"] == "failed" for row in asked)
    if failed:
        console.print(f"{failed} of {len(asked)} trials failed; add --resume to try them again")
    rest = [row for row in rows if not plan.asks_for(row["trial_id"])]
    waiting = sum(row["status"] in ("waiting", "running") for row in rest)
    if waiting:
        console.print(
            f"{waiting} trials of this folder were left out by --only and have not ended; to run "
            "them, use --resume without --only",
            soft_wrap=True,
        )
    missing = {i: why for i, why in outcome.missing.items() if plan.asks_for(i)}
    for trial_id, why in missing.items():
        console.print(f"missing: {trial_id}: {why}", markup=False, soft_wrap=True)
    return FAILED if failed or missing else DONE


def _out(arguments: argparse.Namespace) -> Path:
    """Return the run folder; before it is chosen, what was given for it."""
    return Path(arguments.out or ".").absolute()


def _sweep(arguments: argparse.Namespace, command: str) -> int:
    """Run `sweep`; report in one line if storage fails before anything was started."""
    try:
        return sweep(arguments, command)
    except OSError as error:
        if storage_error(error) is None:
            raise
        print(say_storage_error(error, _out(arguments)), file=sys.stderr)
        return REFUSED


def _interrupted(arguments: argparse.Namespace) -> str:
    begun = not arguments.plan and (_out(arguments) / "plan.json").exists()
    return f"interrupted; {CONTINUE if begun else 'nothing was started'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return cli.run(
        parser(),
        _sweep,
        argv,
        refused=(RequestError, DataError, LedgerError),
        interrupted=_interrupted,
    )


if __name__ == "__main__":
    sys.exit(main())
