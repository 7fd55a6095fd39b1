"""Decide what a request means for its run folder, and carry it out.

`prepare` checks a request, and `decide` returns what to do with it; neither starts anything.
`start` trains the remaining trials, and `answer` writes the tables of finished ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from sweep.budget import Budget, read_caps
from sweep.cluster import connect as cluster
from sweep.cluster.joining import joined
from sweep.cluster.nodes import before_start, check_here
from sweep.cluster.probing import probe_on_gpus
from sweep.cluster.watch import RayDied
from sweep.dataset import data_options, index_data, open_data
from sweep.estimates import Estimates, as_items, count_crops, images_mb, largest_shape
from sweep.heartbeat import Heartbeat
from sweep.leaderboard import planned, write_all_tables
from sweep.ledger import Ledger, has_ended, missing
from sweep.limits import Limits
from sweep.own_code import check_own_code, modules_to_send
from sweep.packing import order_large_first
from sweep.plan import Plan, as_recorded, conflict, difference, make_plan, read_plan, write_plan
from sweep.precision import Precision
from sweep.preview import print_precision, storage_gb, warn_of_storage
from sweep.request import Request, RequestError, SweepSettings, check_encoders
from sweep.resources import (
    Gpus,
    Resources,
    at_once,
    check_limits,
    first_limits,
    local_resources,
    parse_gpus,
)
from sweep.restoring import restore_parts
from sweep.runfolder import choose_out, lock
from sweep.search.drawn_limits import DrawnLimits
from sweep.selection import requested
from sweep.throughput import CPU, THROUGHPUT
from sweep.tracking import Mode, options_of, wandb_mode
from sweep.view import View
from sweep.weights import check_weights, fetch_weights, name_weights
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet
from trainables.records import mounted
from trainables.records.files import fetched, send
from trainables.records.objects import address_of, is_stored, known
from trainables.records.store import tell_to


@dataclass(frozen=True)
class Session:
    """A request that passed all checks that need no data."""

    request: Request
    out: Path
    """The run folder, absolute."""
    recorded: dict[str, Any] | None
    """Contents of plan.json; None if there is no run yet."""
    precision: Precision | None
    """None until the sweep has joined its cluster."""
    address: str | None
    """Address of the Ray cluster; None for a private Ray on this machine."""
    resources: Resources | None
    """Resources of this machine; None with a cluster, which has not been joined yet."""
    gpus: Gpus | None
    """Value of ``--gpus``."""
    wandb: Mode
    resume: bool
    """Whether to continue unfinished runs and try failed trials again."""
    budget: Budget
    """Limits of this call."""


Action = Literal["start", "extend", "resume", "answer", "unfinished", "refuse"]


@dataclass(frozen=True)
class Decision:
    """What to do with a request on its run folder."""

    action: Action
    """``start``: there is no run yet; ``extend``: run only new trials; ``resume``: run trials that
    have not ended or have failed; ``answer``: nothing is left to do; ``unfinished``: refused
    without ``--resume``; ``refuse``: the folder contains another run."""
    trials: tuple[str, ...] = ()
    """trial_ids to run."""
    samples: int = 0
    """Number of further trials that a search will draw."""
    ended: Mapping[str, str] = field(default_factory=dict)
    """Status, by trial_id, of the trials that will not run again."""
    reason: str = ""
    """Reason of a refusal, in one line that says what to do."""


@dataclass(frozen=True)
class Outcome:
    """The content of a run folder after a request."""

    rows: list[dict[str, Any]]
    """Rows of the leaderboard."""
    missing: Mapping[str, str]
    """Missing results and files, by trial_id."""
    plan: Plan
    """With the precision of the run, on which the trial_ids depend."""
    interrupted: bool = False
    problem: str = ""
    """Why no node can train the remaining trials."""
    seconds: float | None = None
    """How long it took; None if nothing was started."""


def prepare(arguments: argparse.Namespace) -> Session:
    """Make all checks of the command line that need no data.

    Raises
    ------
    RequestError
        When the request is wrong, or its folder is not a run folder.
    """
    budget = Budget(read_caps(arguments.max_hours, arguments.max_cost, arguments.price))
    gpus = parse_gpus(arguments.gpus) if arguments.gpus else None
    wandb = wandb_mode(arguments.wandb)
    request = requested(arguments.space, arguments.changes, arguments.seeds, arguments.only)
    check_encoders(request)
    check_own_code(request)
    address = cluster.where(arguments.address)
    resources = None if address else local_resources(gpus.count if gpus else None)
    if resources is not None:
        check_limits(request.settings, resources)
    out = choose_out(arguments.out, request.space_name, arguments.data)
    recorded = read_plan(out)
    precision = before_start(recorded, request.settings, resources, gpus)
    if recorded is None and arguments.resume and not arguments.plan:
        raise RequestError(
            f"--resume: there is no run in {address_of(out)}; name its folder with --out (and make "
            "sure that its storage is mounted), or start a run without --resume"
        )
    request = name_weights(request, out, recorded)
    request = replace(request, data_options=data_options(request, recorded))
    resume = arguments.resume or arguments.start_or_resume
    return Session(
        request, out, recorded, precision, address, resources, gpus, wandb, resume, budget
    )


def list_data(session: Session, root: Path) -> DataSet:
    """List a data set and hash its files, once for all further steps, without reading pixels.

    Raises
    ------
    trainables.data.DataError
        When the files are not a valid data set.
    """
    return index_data(root, session.request.data_options)


def plan_on(session: Session, listed: DataSet) -> Plan:
    """Return the plan of a request on a data set."""
    return make_plan(session.request, listed, session.precision)


def decide(session: Session, plan: Plan) -> Decision:
    """Decide what to do with a request on its run folder.

    Parameters
    ----------
    session : Session
    plan : Plan
        The result of `plan_on`.

    Raises
    ------
    sweep.ledger.LedgerError
        When a trial's record is damaged.
    """
    out, recorded = session.out, session.recorded
    asked = [trial.trial_id for trial in plan.trials]
    if recorded is None:
        return Decision("start", tuple(asked), plan.samples if plan.drawn else 0)
    if (other := conflict(plan, recorded)) is not None:
        lines = "".join(f"\n  {line}" for line in difference(plan, recorded))
        reason = f"{out} contains another run: {other}; name another folder with --out{lines}"
        return Decision("refuse", reason=reason)
    begun, _ = _left(plan, recorded, out, retry=False)
    todo, samples = _left(plan, recorded, out, retry=session.resume)
    known = {trial["trial_id"] for trial in recorded["trials"]}
    trials = (*todo, *(i for i in asked if i not in known))
    records = Ledger(out).read()
    ended = {i: record["status"] for i, record in records.items() if i not in trials}
    if not trials and not samples:
        return Decision("answer", ended=ended)
    if begun and not session.resume:
        count = sum(map(plan.asks_for, known)) or len(begun)
        reason = (
            f"{out} contains an unfinished run ({len(begun)} of {count} trials have not ended); "
            "add --resume to continue it, or name another folder with --out"
        )
        return Decision("unfinished", trials, samples, ended, reason)
    return Decision("resume" if todo else "extend", trials, samples, ended)


def _left(plan: Plan, recorded: dict[str, Any], out: Path, retry: bool) -> tuple[list[str], int]:
    """Return the recorded trials to run, and how many a search may still draw.

    With `retry`, failed trials are among them.
    """
    records = Ledger(out).read()
    final = {i for i, r in records.items() if has_ended(r, recorded)}
    if retry:
        final -= {i for i, r in records.items() if r["status"] == "failed"}
    todo = [i for i in planned(recorded, records) if i not in final and plan.asks_for(i)]
    return todo, max(0, plan.samples - len(records)) if plan.drawn else 0


def answer(session: Session, plan: Plan, console: Console) -> Outcome:
    """Write all tables of a run with nothing left to do, including tables that a killed process
    did not write.

    Raises
    ------
    sweep.ledger.LedgerError
        When a trial's record is damaged.
    """
    assert session.recorded is not None
    records = Ledger(session.out).read()
    for line in restore_parts(session.out, records):
        console.print(line, markup=False, soft_wrap=True)
    rows = write_all_tables(session.out, session.recorded, records)
    return Outcome(rows, missing(session.out, session.recorded, records), plan)


def check(
    session: Session, plan: Plan, listed: DataSet, console: Console
) -> tuple[Session, DataSet]:
    """Read all images once, refuse data that cannot be trained on, and print notes.

    Returns
    -------
    Session, DataSet
        The session has full information on the encoder weights.

    Raises
    ------
    RequestError, trainables.data.DataError
    """
    dataset = open_data(listed, session.request, console)
    if session.resources and (emulated := check_here(plan, session.resources, session.gpus)):
        console.print(f"note: {emulated}", markup=False, soft_wrap=True)
    return replace(session, request=check_weights(session.request, session.out)), dataset


@contextmanager
def held(session: Session, console: Console) -> Iterator[Heartbeat]:
    """Lock the run folder for this process, and fetch the encoder weights into it.

    Yields
    ------
    Heartbeat
        Shows those who watch the run folder that this process lives.

    Raises
    ------
    RequestError
        When another sweep has locked or used the folder, or weights are not available.
    """
    out = session.out
    with lock(out, partial(console.print, markup=False, soft_wrap=True)), ExitStack() as at_the_end:
        at_the_end.callback(mounted.forget, out)
        if session.recorded is not None:
            mounted.expect(out)
        if read_plan(out) != session.recorded:
            raise RequestError(
                f"--out {out}: another sweep has used this folder since this command started; run "
                "it again"
            )
        with Heartbeat(out) as heart:
            fetch_weights(session.request, out)
            yield heart


def start(
    session: Session, plan: Plan, dataset: DataSet, command: str, heart: Heartbeat
) -> Outcome:
    """Train the remaining trials until all have ended or the user interrupts.

    Parameters
    ----------
    session : Session
        The result of `check`, with its folder locked by `held`.
    plan : Plan
    dataset : DataSet
    command : str
        Command line to record in plan.json.
    heart : Heartbeat
        From `held`.

    Raises
    ------
    RequestError
        When Ray cannot run the trials.
    OSError
        When the run folder's storage fails.
    """
    from sweep.screen import quiet_screen

    out, began = session.out, time.monotonic()
    log = out / "sweep.log"
    if is_stored(out) and (known(log) or not log.exists()):  # else it has lines of a killed sweep
        fetched(log)
    with quiet_screen(log) as screen, ExitStack() as at_the_end:
        at_the_end.callback(tell_to(partial(screen.print, markup=False, soft_wrap=True)))
        try:
            plan, recorded, problem = _train(session, plan, dataset, command, screen, heart)
        except RayDied as error:
            recorded, problem = _recorded(out, error), str(error)
            plan = as_recorded(plan, recorded)
        screen.print()
    send(log)
    records = Ledger(out).read()
    rows = write_all_tables(out, recorded, records)
    asked = [row["status"] for row in rows if plan.asks_for(row["trial_id"])]
    interrupted = "running" in asked or "waiting" in asked
    interrupted |= plan.drawn and len(records) < plan.samples
    seconds = time.monotonic() - began
    return Outcome(rows, missing(out, recorded, records), plan, interrupted, problem, seconds)


def _recorded(out: Path, error: RayDied) -> dict[str, Any]:
    """Return the content of plan.json after Ray has died.

    Raises
    ------
    RequestError
        When there is none yet.
    """
    if (recorded := read_plan(out)) is None:
        raise RequestError(f"{error}; nothing was started: run the same command again") from error
    return recorded


def _train(
    session: Session,
    plan: Plan,
    dataset: DataSet,
    command: str,
    screen: Console,
    heart: Heartbeat,
) -> tuple[Plan, dict[str, Any], str]:
    """Start Ray, record the plan and run its trials; return the plan, the content of plan.json,
    and why trials could not be run, if so.
    """
    out, address, gpus = session.out, session.address, session.gpus
    settings, shape = plan.request.settings, largest_shape(dataset)
    here = "starting a private Ray on this machine"
    with ExitStack() as stack:

        def estimating() -> Estimates:
            configs = {trial.trial_id: trial.config for trial in plan.trials}
            return stack.enter_context(closing(Estimates(configs, shape)))

        estimates = estimating() if plan.precision else None  # while Ray starts
        screen.print(f"connecting to the cluster at {address} ..." if address else f"{here} ...")
        modules = modules_to_send(plan.request, session.recorded)
        say = partial(screen.print, markup=False)
        ours = cluster.ray_session(address, gpus.count if gpus else None, modules, say)
        with ours as resources:
            from sweep import tuner

            if not address:
                check_limits(settings, resources)  # Ray leaves less than there is
            else:
                plan, resources, gpus = stack.enter_context(
                    joined(plan, dataset, out, resources, gpus, address, screen)
                )
            print_precision(screen, plan)
            estimates = estimates or estimating()
            recorded = _record(out, plan, dataset, command, screen)
            todo, samples = _left(plan, recorded, out, retry=session.resume)
            limits: Mapping[str, Limits]
            if plan.drawn:
                limits = _limits_of_search(settings, resources, gpus, dataset)
            else:
                configs = _configs(recorded, todo)
                limits, todo = _limits_and_order(
                    configs, settings, resources, gpus, estimates, dataset, screen
                )
            count = at_once(settings, resources, limits, todo)
            known = {} if plan.drawn else estimates.result()
            warn_of_storage(screen, storage_gb(known, count, out, settings.keep_last_state))
            tracking = options_of(out, recorded, session.wandb)
            title = f"{out.name}: {len(todo) + samples} trials, {count} at a time, W&B "
            title += f"{session.wandb}{session.budget.caps}"
            _tell(heart, plan, title, count)
            with View(screen, title, count, lambda text: heart.say(note=text)) as view:
                work = tuner.Sweep(
                    out, plan, recorded, limits, resources, tracking, view, heart, session.budget
                )
                try:
                    tuner.run(work, todo)
                except tuner.GivenUp as error:
                    return plan, recorded, str(error)
    return plan, recorded, ""


def _tell(heart: Heartbeat, plan: Plan, title: str, count: int) -> None:
    """Tell those who watch the run folder that trials begin, and which."""
    asked = [trial.trial_id for trial in plan.trials] if plan.request.only else None
    heart.say(title=title, at_once=count, asked=asked, samples=plan.samples if plan.drawn else 0)
    heart.beat()


def _record(
    out: Path, plan: Plan, dataset: DataSet, command: str, screen: Console
) -> dict[str, Any]:
    """Write plan.json; print notes if the run folder is a copy of another one, or lacked parts."""
    for line in restore_parts(out, Ledger(out).read()):
        screen.print(line, markup=False, soft_wrap=True)
    before = read_plan(out) or {}
    recorded = write_plan(out, plan, dataset, command, before or None)
    mounted.expect(out)
    source = recorded.get("copy_of")
    if source and recorded["run_token"] != before.get("run_token"):
        screen.print(
            f"note: this folder is a copy of {source}: in W&B, trials that it trains from now on "
            "are separate runs",
            markup=False,
            soft_wrap=True,
        )
    return recorded


def _configs(recorded: Mapping[str, Any], trial_ids: Collection[str]) -> dict[str, TrialConfig]:
    return {
        trial["trial_id"]: TrialConfig.model_validate(trial["config"])
        for trial in recorded["trials"]
        if trial["trial_id"] in trial_ids
    }


def _limits_of_search(
    settings: SweepSettings, resources: Resources, gpus: Gpus | None, dataset: DataSet
) -> DrawnLimits:
    """Return the limits of trials that have not been drawn yet."""
    memory = gpus.memory_gb if gpus else None
    if resources.gpus and settings.gpus_per_trial is None and memory is None:
        _, memory, _ = probe_on_gpus({}, {}, resources)
    return DrawnLimits(settings, resources, largest_shape(dataset), memory, images_mb(dataset))


def _limits_and_order(
    configs: Mapping[str, TrialConfig],
    settings: SweepSettings,
    resources: Resources,
    gpus: Gpus | None,
    estimates: Estimates,
    dataset: DataSet,
    screen: Console,
) -> tuple[dict[str, Limits], list[str]]:
    """Return the limits of trials, and their order: the longest ones first."""
    memory = gpus.memory_gb if gpus else None
    footprints = {i: f for i, f in estimates.result().items() if i in configs}
    if resources.gpus and settings.gpus_per_trial is None and configs:
        screen.print("measuring how much GPU memory the networks need ...")
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
