"""Start, watch and resume a sweep: ``python -m sweep.run [SPACE] [--data PATH] ...``.

This module reads the command line and prints; `sweep.session` decides and acts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from sweep.cluster.joining import gpus_to_plan
from sweep.dataset import data_folder
from sweep.detach import detach
from sweep.estimates import count_crops
from sweep.extending import work_lines
from sweep.ledger import LedgerError
from sweep.listing import print_choices
from sweep.plan import Plan, Trial, with_recorded
from sweep.preview import print_plan, print_unseen, print_weights
from sweep.request import RequestError
from sweep.resources import check_gpus_are_here
from sweep.results import print_next, print_results
from sweep.runfolder import CONTINUE, check_text, in_store, say_storage_error, storage_error
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
from sweep.view import duration
from sweep.watch import watch
from sweep.weights import check_weights
from trainables import cli
from trainables.cli import DONE, FAILED, INTERRUPTED, REFUSED
from trainables.data.dataset import DataError
from trainables.records.objects import place


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
    _add_what_to_do(commands)
    _add_limits(commands)
    return commands


def _add_what_to_do(commands: argparse.ArgumentParser) -> None:
    add = commands.add_argument
    add("--plan", action="store_true", help="check everything and print the trials; start nothing")
    add("--resume", action="store_true", help="continue an unfinished run; retry failed trials")
    add(
        "--start-or-resume",
        action="store_true",
        help="for batch files, which are run again after a failure: start the run if there is none "
        "yet in the folder, else continue it as --resume does",
    )
    add(
        "--watch",
        metavar="OUT",
        help="show the sweep that runs in OUT, from any machine that sees OUT; starts nothing",
    )
    add(
        "--list",
        action="store_true",
        help="print the search spaces, and the settings that --set changes; starts nothing",
    )
    add(
        "--detach",
        action="store_true",
        help="start the sweep and return once its trials have begun; it goes on when the terminal "
        "is closed",
    )


def _add_limits(commands: argparse.ArgumentParser) -> None:
    add = commands.add_argument
    add(
        "--max-hours",
        type=float,
        metavar="H",
        help="end this call after H hours: trials finish their epoch and save, --resume continues",
    )
    add(
        "--max-cost",
        type=float,
        metavar="AMOUNT",
        help="end this call in the same way when it has cost AMOUNT; needs --price",
    )
    add(
        "--price",
        metavar="RATE",
        help="what an hour costs: 1.21/gpu, 1.21/node or 0.05/core; also used by --plan",
    )


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
    console = _console()
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
                return report(console, session, answer(session, plan, console))
        if decision.reason:
            console.print(f"note: {decision.reason}", markup=False, soft_wrap=True)
        configs = {trial.trial_id: trial.config for trial in plan.trials}
        scheduler = request.settings.scheduler
        for line in work_lines(decision.trials, configs, session.recorded, out, scheduler):
            console.print(line, markup=False, soft_wrap=True)
        session, dataset = check(session, plan, listed, console)
        if planning:
            shown = with_recorded(plan, session.recorded, decision.ended)
            _preview(console, session, shown, partial(count_crops, dataset), decision.ended)
            return DONE
        if not session.address:
            check_gpus_are_here(session.gpus)
        with held(session, console) as heart:
            try:
                outcome = start(session, plan, dataset, command, heart)
                code = report(console, session, outcome)
            except OSError as error:
                print(say_storage_error(error, out), file=sys.stderr)
                code = FAILED
            heart.say(code=code)
        return code


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
    print_plan(
        console, plan, session.resources, gpus, crops, session.out, ended, session.budget.caps
    )
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


def report(console: Console, session: Session, outcome: Outcome) -> int:
    """Print a sweep's results and the next command; return the exit code."""
    plan, folds = outcome.plan, outcome.plan.request.data_options.folds or 0
    code = print_results(console, session.out, outcome.rows, outcome.missing, folds, plan.asks_for)
    if outcome.seconds is not None:
        cost = session.budget.text()
        console.print(f"this took {duration(outcome.seconds)}" + (f", {cost}" if cost else ""))
    if outcome.problem:
        console.print(f"{outcome.problem}; {CONTINUE}", soft_wrap=True)
        return FAILED
    if outcome.interrupted:
        console.print(f"{session.budget.why or 'interrupted'}; {CONTINUE}", soft_wrap=True)
        return INTERRUPTED
    print_next(console, session.out, outcome.rows)
    return code


def _out(arguments: argparse.Namespace) -> Path:
    """Return the run folder; before it is chosen, what was given for it."""
    return place(arguments.out or ".").absolute()


def _sweep(arguments: argparse.Namespace, command: str) -> int:
    """Run `sweep`; report in one line if storage fails before anything was started."""
    try:
        if arguments.list:
            return _list(arguments)
        if arguments.watch:
            return _watch(arguments)
        return _detach(arguments, command) if arguments.detach else sweep(arguments, command)
    except OSError as error:
        if storage_error(error) is None:
            raise
        print(say_storage_error(error, _out(arguments)), file=sys.stderr)
        return REFUSED


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _detach(arguments: argparse.Namespace, command: str) -> int:
    """Check the request in this process, then carry it out in another one."""
    if arguments.plan:
        raise RequestError("--detach and --plan: give only one of them")
    out = arguments.out = prepare(arguments).out
    words = [word for word in shlex.split(command)[3:] if word != "--detach"]
    return detach(words, out, sys.stdout)


def _alone(arguments: argparse.Namespace, option: str, *values: str) -> None:
    """Refuse options beside one that takes nothing else."""
    words = vars(parser().parse_args([option.split()[0], *values]))
    names = {"space": "SPACE", "changes": "--set"}
    more = [
        names.get(name, f"--{name.replace('_', '-')}")
        for name, value in vars(arguments).items()
        if value != words[name]
    ]
    if more:
        raise RequestError(f"{option} takes nothing else; remove {', '.join(more)}")


def _list(arguments: argparse.Namespace) -> int:
    """Print what a sweep can be made of."""
    _alone(arguments, "--list")
    print_choices(_console())
    return DONE


def _watch(arguments: argparse.Namespace) -> int:
    """Watch a run folder."""
    _alone(arguments, "--watch OUT", arguments.watch)
    stored = "://" in arguments.watch
    out = in_store("--watch", arguments.watch) if stored else Path(arguments.watch).absolute()
    check_text("--watch", str(out))
    arguments.out = out
    return watch(out, _console())


def _interrupted(arguments: argparse.Namespace) -> str:
    if arguments.watch:
        return "stopped watching; the sweep is not affected"
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
