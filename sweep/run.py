"""Start, watch and resume a sweep: ``python -m sweep.run [SPACE] [--data PATH] ...``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.allowances import Limits
from sweep.cluster import connect as cluster
from sweep.cluster.joining import gpus_to_plan, joined
from sweep.cluster.nodes import before_start, check_here
from sweep.cluster.probing import probe_on_gpus
from sweep.completeness import has_ended, missing
from sweep.dataset import data_options, index_data, open_data
from sweep.estimates import (
    Estimates,
    as_items,
    count_crops,
    images_mb,
    largest_shape,
)
from sweep.leaderboard import planned, write_all_tables
from sweep.ledger import Ledger, LedgerError
from sweep.only import only
from sweep.options import parser
from sweep.outcome import say_next, say_result
from sweep.outfolder import choose_out
from sweep.plan import (
    Plan,
    Request,
    RequestError,
    Settings,
    Trial,
    conflict,
    load_space,
    make_plan,
    make_request,
    read_plan,
    with_recorded,
    write_plan,
)
from sweep.preview import (
    print_plan,
    print_precision,
    print_unseen,
    print_weights,
    warn_of_storage,
)
from sweep.resources import (
    Gpus,
    Resources,
    at_once,
    check_gpus_are_here,
    check_limits,
    first_limits,
    local_resources,
    parse_gpus,
)
from sweep.schedule import CPU, THROUGHPUT, order_large_first
from sweep.search.drawn_allowances import DrawnLimits
from sweep.storage import lock, say_storage_error, storage_error
from sweep.tracking import Mode, TrackingOptions, wandb_mode
from sweep.view import View, duration
from sweep.weights import check_weights, fetch_weights, name_weights
from trainables import cli
from trainables.cli import DONE, FAILED, INTERRUPTED
from trainables.config import TrialConfig
from trainables.data.dataset import DataError, DataSet
from trainables.encoders.names import check_encoder


@contextmanager
def _dataset_root(request: Request, data: str | None, out: Path, keep: bool) -> Iterator[Path]:
    """Give the folder of the data; generate the built-in ones where a space brings them."""
    if data is not None:
        yield Path(data).absolute()
        return
    builtin = request.space.builtin_data
    if builtin is None:
        raise RequestError(
            f"search space {request.space_name} needs your images: --data FOLDER (with images/ "
            "and masks/; see the README)"
        )
    from trainables.synthetic.dataset import generate

    options = builtin.model_dump()
    if keep or (out / "data").exists():
        yield generate(out / "data", **options) if not (out / "data").exists() else out / "data"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield generate(Path(folder) / "data", **options)


def _check_names(request: Request) -> None:
    drawn = request.space.dimensions.get("encoder", ())
    for name in dict.fromkeys([*(config.encoder for config in request.configs), *drawn]):
        try:
            if name != "none":  # of StarDist's own model
                check_encoder(name)
        except ValueError as error:
            raise RequestError(str(error)) from error


def _todo(plan: Plan, recorded: dict[str, Any], out: Path, retry: bool) -> tuple[list[str], int]:
    """Return the trials to run, and how many a search may still draw."""
    records = Ledger(out).read()
    final = {i for i, r in records.items() if has_ended(r, recorded)}
    if retry:
        final -= {i for i, r in records.items() if r["status"] == "failed"}
    todo = [i for i in planned(recorded, records) if i not in final and plan.asks_for(i)]
    if not plan.drawn:
        return todo, 0
    return todo, max(0, plan.samples - len(records))


def _ended(out: Path, todo: set[str]) -> dict[str, str]:
    """Return the states of the trials that will not run again."""
    return {i: r["status"] for i, r in Ledger(out).read().items() if i not in todo}


def sweep(arguments: argparse.Namespace, command: str) -> int:
    """Do what the command line asks for.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    RequestError, trainables.data.DataError
        When the request is wrong.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    gpus = parse_gpus(arguments.gpus) if arguments.gpus else None
    mode = wandb_mode(arguments.wandb)
    name, space = load_space(arguments.space)
    request = make_request(name, space, arguments.changes, arguments.seeds)
    request = only(request, arguments.only)
    _check_names(request)
    address = cluster.where(arguments.address)
    resources = None if address else local_resources(gpus.count if gpus else None)
    if resources is not None:
        check_limits(request.settings, resources)
    out = arguments.out = choose_out(arguments.out, name, arguments.data)
    recorded = read_plan(out)
    precision = before_start(recorded, request.settings, resources, gpus)
    counted = gpus_to_plan(gpus, request.settings, address) if arguments.plan else gpus
    if recorded is None and arguments.resume and not arguments.plan:
        raise RequestError(f"--resume: there is no run in {out}")
    request = name_weights(request, out, recorded)
    if arguments.plan and arguments.data is None and request.space.builtin_data is None:
        trials = tuple(Trial(config.trial_id("")[:-11], config) for config in request.configs)
        plan = Plan(request, "", "", trials, precision)
        if address:
            print_unseen(console, address, gpus, counted)
        print_plan(console, plan, resources, counted, _paper_crops, out)
        print_weights(console, check_weights(request, out).weights.values())
        console.print("no --data: your images were not checked, and an epoch is the paper's")
        return DONE
    with _dataset_root(request, arguments.data, out, keep=not arguments.plan) as root:
        options = data_options(request, recorded)
        dataset = index_data(root, options)
        plan, ended = make_plan(request, dataset, precision), {}
        if recorded is not None:
            reason = conflict(plan, recorded)
            if reason:
                raise RequestError(
                    f"{out} holds another run: {reason}; name another folder with --out"
                )
            started, _ = _todo(plan, recorded, out, retry=False)
            todo, samples = _todo(plan, recorded, out, retry=arguments.resume)
            known = {trial["trial_id"] for trial in recorded["trials"]}
            new = {trial.trial_id for trial in plan.trials} - known
            if not new and not todo and not samples:
                console.print("nothing to do: all trials of this run have ended")
                if not arguments.plan:
                    records = Ledger(out).read()
                    # also those that a driver which was killed did not come to
                    rows = write_all_tables(out, recorded, records)
                    code = say_result(
                        console, out, rows, plan.asks_for, missing(out, recorded, records)
                    )
                    say_next(console, out, rows)
                    return code
            if started and not arguments.resume:
                asked = sum(map(plan.asks_for, known))
                unfinished = (
                    f"{out} holds an unfinished run ({len(started)} of {asked or len(started)} "
                    "trials have not ended); add --resume to go on, or name another --out"
                )
                if not arguments.plan:
                    raise RequestError(unfinished)
                console.print(f"note: {unfinished}", markup=False, soft_wrap=True)
            ended = _ended(out, {*todo, *new})
        dataset = open_data(root, options, request, console)
        if resources and (emulated := check_here(plan, resources, gpus)):
            console.print(f"note: {emulated}", markup=False, soft_wrap=True)
        request = check_weights(request, out)
        if arguments.plan:
            if address:
                print_unseen(console, address, gpus, counted)
            shown = with_recorded(plan, recorded, ended)
            crops = partial(count_crops, dataset)
            print_plan(console, shown, resources, counted, crops, out, ended)
            print_weights(console, request.weights.values())
            return DONE
        if not address:
            check_gpus_are_here(gpus)
        with lock(out, partial(console.print, markup=False, soft_wrap=True)):
            if read_plan(out) != recorded:
                raise RequestError(
                    f"--out {out}: another sweep has used this folder since this command was "
                    "given; give it again"
                )
            fetch_weights(request, out)
            try:
                return _start(arguments, command, console, plan, dataset, out, gpus, mode)
            except OSError as error:
                print(say_storage_error(error, out), file=sys.stderr)
                return FAILED


def _paper_crops(crop_size: int) -> int:
    """Crops of an epoch in the paper, as far as it tells."""
    return 90


def _fit(
    plan: Plan,
    recorded: dict[str, Any],
    todo: list[str],
    resources: Resources,
    gpus: Gpus | None,
    estimates: Estimates,
    screen: Console,
    dataset: DataSet,
) -> tuple[dict[str, Limits], list[str]]:
    """Return what trials may take, and their order: those that take longest first."""
    settings = plan.request.settings
    memory = gpus.memory_gb if gpus else None
    if plan.drawn:
        if resources.gpus and settings.gpus_per_trial is None and memory is None:
            _, memory, _ = probe_on_gpus({}, {}, resources)
        shape, held = largest_shape(dataset), images_mb(dataset)
        return DrawnLimits(settings, resources, shape, memory, held), todo
    configs = {
        t["trial_id"]: TrialConfig.model_validate(t["config"])
        for t in recorded["trials"]
        if t["trial_id"] in todo
    }
    footprints = {i: f for i, f in estimates.result().items() if i in configs}
    if resources.gpus and settings.gpus_per_trial is None and configs:
        screen.print("measuring the networks' memory on a GPU ...")
        measured, seen, problems = probe_on_gpus(
            configs, footprints, resources, largest_shape(dataset)
        )
        footprints.update(measured)
        memory = memory or seen
        for problem in problems:
            screen.print(f"note: not measured: {problem}", markup=False, soft_wrap=True)
    if not resources.gpus:
        # on CPUs a trial's images count, too
        held = images_mb(dataset)
        footprints = {i: replace(f, peak_mb=f.peak_mb + held) for i, f in footprints.items()}
    limits = first_limits(settings, resources, footprints, memory, configs)
    # only the order counts: any hardware will do
    hardware = THROUGHPUT["V100"] if resources.gpus else CPU
    items = as_items(configs, footprints, limits, hardware, partial(count_crops, dataset))
    return limits, [item.name for item in order_large_first(items)]


def _tracking(
    mode: Mode, settings: Settings, recorded: dict[str, Any], out: Path
) -> TrackingOptions:
    return TrackingOptions(
        mode=mode,
        group=recorded["wandb_group"],
        folder=str(out),
        token=recorded["run_token"],
        copied="copy_of" in recorded,
        project=settings.project,
        entity=settings.entity,
        artifacts=settings.artifacts,
        tensorboard=settings.tensorboard,
    )


def _start(
    arguments: argparse.Namespace,
    command: str,
    console: Console,
    plan: Plan,
    dataset: DataSet,
    out: Path,
    gpus: Gpus | None,
    mode: Mode,
) -> int:
    from sweep.screen import quiet_screen

    began = time.monotonic()
    address = cluster.where(arguments.address)
    shape = largest_shape(dataset)
    with quiet_screen(out / "sweep.log") as screen, ExitStack() as stack:

        def estimating() -> Estimates:
            configs = {trial.trial_id: trial.config for trial in plan.trials}
            return stack.enter_context(closing(Estimates(configs, shape)))

        estimates = estimating() if plan.precision else None  # while Ray starts
        place = f"the cluster at {address}" if address else "a private Ray on this machine"
        screen.print(f"starting {place} ...")
        with cluster.ray_session(address, gpus.count if gpus else None) as resources:
            from sweep import tuner

            if not address:
                check_limits(plan.request.settings, resources)  # Ray leaves less than there is
            else:
                plan, resources, gpus = stack.enter_context(
                    joined(plan, dataset, out, resources, gpus, address, screen)
                )
            print_precision(screen, plan)
            estimates = estimates or estimating()
            before = read_plan(out) or {}
            recorded = write_plan(out, plan, dataset, command, before or None)
            source = recorded.get("copy_of")
            if source and recorded["run_token"] != before.get("run_token"):
                screen.print(
                    f"note: this folder is a copy of {source}: what it trains from now on are "
                    "runs of its own in W&B",
                    markup=False,
                    soft_wrap=True,
                )
            todo, samples = _todo(plan, recorded, out, retry=arguments.resume)
            limits, todo = _fit(plan, recorded, todo, resources, gpus, estimates, screen, dataset)
            count = at_once(plan.request.settings, resources, limits, todo)
            warn_of_storage(screen, {} if plan.drawn else estimates.result(), count, out)
            title = f"{out.name}: {len(todo) + samples} trials, {count} at a time, W&B {mode}"
            tracking = _tracking(mode, plan.request.settings, recorded, out)
            problem = ""
            with View(screen, title, count) as view:
                try:
                    tuner.run(out, plan, recorded, todo, samples, limits, resources, tracking, view)
                except tuner.NoNodeLeft as error:
                    problem = str(error)
        screen.print()
    records = Ledger(out).read()
    rows = write_all_tables(out, recorded, records)
    asked = [row for row in rows if plan.asks_for(row["trial_id"])]
    interrupted = any(row["status"] in ("running", "waiting") for row in asked)
    interrupted |= plan.drawn and len(records) < plan.samples
    code = say_result(console, out, rows, plan.asks_for, missing(out, recorded, records))
    console.print(f"this took {duration(time.monotonic() - began)}")
    if problem:
        console.print(f"{problem}; the same command with --resume goes on", soft_wrap=True)
        return FAILED
    if interrupted:
        console.print("interrupted; the same command with --resume goes on")
        return INTERRUPTED
    say_next(console, out, rows)
    return code


def _out(arguments: argparse.Namespace) -> Path:
    """Return the run folder, or before it is chosen what was given for it."""
    return Path(arguments.out or ".").absolute()


def _sweep(arguments: argparse.Namespace, command: str) -> int:
    """Run `sweep`; say in one line what storage refused."""
    try:
        return sweep(arguments, command)
    except OSError as error:
        if storage_error(error) is None:
            raise
        print(say_storage_error(error, _out(arguments)), file=sys.stderr)
        return cli.REFUSED


def _interrupted(arguments: argparse.Namespace) -> str:
    begun = not arguments.plan and (_out(arguments) / "plan.json").exists()
    then = "the same command with --resume goes on" if begun else "nothing was started"
    return f"interrupted; {then}"


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
