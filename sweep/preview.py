"""What ``--plan`` prints: trials, what each may take, and how long it will all take."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from sweep.budget import Caps
from sweep.cluster.probing import gpu_of_this_machine
from sweep.costs import Rented, cost_lines, hours_of_trials
from sweep.estimates import Estimates, as_items
from sweep.limits import Limits
from sweep.packing import PackedTrial, format_time, render, simulate
from sweep.plan import Plan
from sweep.request import SweepSettings
from sweep.resources import Gpus, Resources, at_once, first_limits, gpus_per_trial, growing, slots
from sweep.search.dimensions import say
from sweep.throughput import CPU, CPU_BF16, Throughput, throughput
from trainables.encoders.sources import WeightsInfo
from trainables.footprint import Footprint
from trainables.machine.addresses import knock
from trainables.machine.hardware import cpu_computes_bf16
from trainables.records.resumable import KEPT

NO_CAPS = Caps()
KNOWN = "V100, A100, H100, H200, T4, A10G, L4, RTX3090, RTX4090"
"""GPUs with a known speed in `sweep.throughput`."""


def _cpu() -> Throughput:
    return CPU_BF16 if cpu_computes_bf16() else CPU


def _share(limits: Limits, cpus: float) -> str:
    text = f"{limits.cpus or cpus:g} CPU"
    if limits.gpu:
        return f"{text}, {limits.gpu:.3g} GPU"
    return f"{text}, {limits.memory_gb:.1f} GB" if limits.memory_gb is not None else text


def print_plan(
    console: Console,
    plan: Plan,
    resources: Resources | None,
    gpus: Gpus | None,
    crops: Callable[[int], int],
    out: Path,
    ended: Mapping[str, str] | None = None,
    caps: Caps = NO_CAPS,
) -> None:
    """Print trials with their resources and estimates, their placement, and the total time.

    Parameters
    ----------
    console : rich.console.Console
    plan : Plan
    resources : Resources or None
        Resources of this machine; None for a cluster, which the plan does not join.
    gpus : Gpus or None
        Value of ``--gpus``.
    crops : callable
        Returns the number of crops per epoch for a crop size.
    out : Path
        The future run folder.
    ended : mapping, optional
        Status by trial_id of trials that have ended; they are marked, and need neither time nor
        disk space.
    caps : Caps
        Limits of the command, and the price of an hour.
    """
    settings, ended = plan.request.settings, ended or {}
    print_precision(console, plan)
    if plan.drawn:
        _print_search(console, plan, len(ended))
        _print_slots(console, plan, resources)
        return
    configs = {trial.trial_id: trial.config for trial in plan.trials}
    left = {i: config for i, config in configs.items() if i not in ended}
    present = resources or unseen(settings, len(left), gpus)
    on_gpus = bool(gpus_per_trial(settings, present))
    hardware, memory = _hardware(gpus, on_gpus, here=resources is not None)
    estimates = Estimates(configs)
    if estimates.waiting > 4:
        console.print(f"estimating {estimates.waiting} networks ...")
    footprints = estimates.result()
    limits = first_limits(settings, present, footprints, memory, configs)
    items: list[PackedTrial] = []
    if hardware is not None:
        cores = max(1.0, settings.cpus_per_trial)
        items = as_items(left, footprints, limits, hardware, crops, cores)
    times = {item.name: format_time(item.seconds) for item in items}
    console.print(_trials(plan, footprints, limits, {**times, **ended}))
    console.print(f"{len(configs)} trials{_past(ended, configs)}")
    if plan.request.data_options.folds is not None:
        _print_folds(console, plan, items)
    if not left:
        return
    _print_slots(console, plan, resources)
    count = at_once(settings, present, limits, list(left))
    new = {i: f for i, f in footprints.items() if i in left}
    print_storage(console, storage_gb(new, count, out, settings.keep_last_state))
    if hardware is None or (resources is None and not on_gpus):
        _print_no_makespan(console, items)
        return
    nodes = 1 if resources is not None else None
    if on_gpus:
        apart = {item.name for item in items if not limits.get(item.name, limits[""]).gpu}
        seconds = _print_packing(console, items, int(present.gpus), "GPU", apart)
        items = [item for item in items if item.name not in apart]
        rented, cores = Rented(int(present.gpus), present.cpus, nodes), 0.0
    else:
        seconds = _print_packing(console, items, count, "slot")
        rented, cores = Rented(0, present.cpus, nodes), max(1.0, settings.cpus_per_trial)
    if items:
        console.print(f"trials train for about {hours_of_trials(items, cores)}")
    for line in cost_lines(rented, seconds, caps):
        console.print(line, markup=False, soft_wrap=True)


def _print_folds(console: Console, plan: Plan, items: Sequence[PackedTrial]) -> None:
    """Print how many trials the folds are, and what each costs; `items` may be empty."""
    counts = Counter(trial.config.fold for trial in plan.trials)
    each = " or ".join(dict.fromkeys(str(count) for count in counts.values()))
    text = f"folds={plan.request.data_options.folds}: {counts.total()} trials, {each} in each fold"
    if items:
        seconds = sum(item.seconds for item in items)
        text += f"; about {format_time(seconds / len(counts))} of computing for each fold"
    console.print(text, soft_wrap=True)


def _hardware(
    gpus: Gpus | None, on_gpus: bool, here: bool
) -> tuple[Throughput | None, float | None]:
    """Return the speed of the trials' processor, and a GPU's memory in GiB; None if unknown."""
    if not on_gpus:
        return _cpu(), gpus.memory_gb if gpus else None
    name, memory = (gpus.name, gpus.memory_gb) if gpus else ("", None)
    if gpus is None and here:
        name, memory = gpu_of_this_machine()
    hardware = throughput(name)
    return hardware, memory or (hardware.memory_gb if hardware else None)


def _print_search(console: Console, plan: Plan, ended: int) -> None:
    """Print the values that a search draws from."""
    settings = plan.request.settings
    past = f" ({ended} have ended)" if ended else ""
    console.print(f"{plan.samples} trials{past}, drawn by {settings.search} from")
    for line in say(plan.request.space.dimensions):
        console.print(line, markup=False, soft_wrap=True)
    if plan.samples < settings.samples:
        console.print(
            f"note: samples={settings.samples}, but only {plan.samples} combinations exist"
        )


def _print_no_makespan(console: Console, items: Sequence[PackedTrial]) -> None:
    """Say how to get an estimate of the total time; `items` may have times for one CPU core."""
    if items:
        hours = format_time(sum(item.seconds for item in items))
        console.print(f"about {hours} in all if trials run one after another on a CPU core")
    console.print(f"to estimate the time, name the GPUs, such as --gpus 4xV100-32 ({KNOWN})")


def _print_packing(
    console: Console,
    items: Sequence[PackedTrial],
    slots: int,
    slot_name: str,
    apart: Collection[str] = (),
) -> float:
    """Print which trials run on which slot, and how long that takes; return the seconds.

    Parameters
    ----------
    console : rich.console.Console
    items : sequence of PackedTrial
    slots : int
    slot_name : str
    apart : collection of str
        Names of trials that run on CPU cores while others run on GPUs.
    """
    if not slots:
        return 0.0
    packing = simulate([i for i in items if i.name not in apart], slots)
    for line in render(packing, slot_name=slot_name):
        console.print(line)
    longest = max((item.seconds for item in items if item.name in apart), default=0.0)
    if apart:
        which = "1 trial" if len(apart) == 1 else f"{len(apart)} trials"
        console.print(
            f"in addition, {which} on CPU cores; the longest takes about {format_time(longest)}"
        )
    console.print("rough estimate; excludes validation and start-up")
    return max(packing.makespan, longest)


def _trials(
    plan: Plan,
    footprints: Mapping[str, Footprint],
    limits: Mapping[str, Limits],
    times: Mapping[str, str],
) -> Table:
    """Return the trials as a table; `times` also has the status of those that have ended."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("trial_id", "loss", "batch", "crop", "epochs", "M params", "resources", "time"):
        table.add_column(column, no_wrap=True)
    for trial in plan.trials:
        i, c = trial.trial_id, trial.config
        need = footprints.get(i)
        table.add_row(
            i,
            c.loss,
            str(c.batch_size),
            str(c.crop_size),
            str(c.epochs),
            f"{need.parameters / 1e6:.1f}" if need else "",
            _share(limits.get(i, limits[""]), plan.request.settings.cpus_per_trial),
            times.get(i, ""),
        )
    return table


def _past(ended: Mapping[str, str], configs: Collection[str]) -> str:
    """Say how many of the listed trials have ended, and how many are left."""
    states = Counter(state for i, state in ended.items() if i in configs)
    if not states:
        return ""
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    return f": {listed}, {len(configs) - states.total()} to run"


def unseen(settings: SweepSettings, trials: int, gpus: Gpus | None) -> Resources:
    """Return the resources that a plan assumes for a cluster that it does not join: the GPUs of
    ``--gpus``, and enough CPU cores for `trials` trials.
    """
    there = growing(Resources(0.0, 0.0), settings, gpus.count if gpus else None)
    return replace(there, cpus=max(there.cpus, trials * settings.cpus_per_trial))


def print_unseen(console: Console, address: str, asked: Gpus | None, counted: Gpus | None) -> None:
    """Say that a plan does not join the cluster at an address, and what it assumes instead.

    Parameters
    ----------
    console : rich.console.Console
    address : str
    asked, counted : Gpus or None
        Value of ``--gpus``, and the GPUs that the plan assumes.
    """
    if asked:
        assumed = "the GPUs of --gpus"
    elif counted:
        kind = f" ({counted.name})" if counted.name else ""
        gpus = "GPU" if counted.count == 1 else "GPUs"
        assumed = f"the {counted.count} {gpus}{kind} that its autoscaler may start"
    else:
        assumed = "no GPUs (name them with --gpus)"
    console.print(
        f"note: --plan does not join the cluster at {address}; it assumes {assumed}, and enough "
        "CPU cores",
        markup=False,
        soft_wrap=True,
    )
    try:
        knock(address)
    except (OSError, ValueError) as error:
        console.print(
            f"note: nothing responds at {address} now ({error}): start the cluster before the "
            "sweep",
            markup=False,
            soft_wrap=True,
        )


def print_weights(console: Console, weights: Iterable[WeightsInfo | str]) -> None:
    """Print which weights encoders start from: training data, licence, revision and SHA-256."""
    for info in weights:
        if isinstance(info, WeightsInfo):
            console.print(
                f"encoder weights {info.name}: {info.terms}"
                + (f" (according to {info.terms.source})" if info.terms.source else "")
                + (f"; revision {info.revision}" if info.revision else "")
                + (f"; SHA-256 {info.sha256}" if info.sha256 else "")
                + f"; from {info.source}",
                markup=False,
                soft_wrap=True,
            )


class Storage(NamedTuple):
    """Disk space in GB that checkpoints and saved states of a sweep take."""

    usual: float
    """Largest sum if the trials that run save their states one after another."""
    most: float
    """Largest sum if all of them save at once and end together."""
    stays: float
    """What is left when all trials have ended."""
    free: float
    """Free space of the disk."""


STATE = 4
"""Size of a saved state, in checkpoints: weights, two moments, and the best weights."""


def storage_gb(
    footprints: Mapping[str, Footprint], count: int, out: Path, keep_last: bool = False
) -> Storage:
    """Estimate the disk space that trials need.

    Parameters
    ----------
    footprints : mapping of str to Footprint
    count : int
        Number of trials that run at once. Each has two saved states until it ends, and a third one
        while it saves.
    out : Path
        The run folder, which need not exist yet.
    keep_last : bool
        Whether finished trials keep their last state.
    """
    sizes = sorted((4e-9 * one.parameters for one in footprints.values()), reverse=True)
    running, ended = sum(sizes[:count]), 1 + STATE * keep_last
    stays, states = ended * sum(sizes), STATE * KEPT * running
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    return Storage(
        usual=max(stays, stays - ended * running + states + STATE * max(sizes, default=0.0)),
        most=stays + states + STATE * running,
        stays=stays,
        free=shutil.disk_usage(there).free / 1e9,
    )


def print_storage(console: Console, need: Storage) -> None:
    """Print how much disk space trials need, and whether there is so much."""
    console.print(
        f"checkpoints need about {need.usual:.1f} GB of disk; {need.free:.0f} GB are free"
    )
    console.print(
        f"  {need.stays:.1f} GB stay at the end; {need.most:.1f} GB if all trials save at once"
    )
    warn_of_storage(console, need)


def warn_of_storage(console: Console, need: Storage) -> None:
    """Print a note if checkpoints may fill the disk."""
    if need.most > need.free:
        console.print(
            f"note: checkpoints may need {need.most:.0f} GB, but only {need.free:.0f} GB are free: "
            "trials whose checkpoint cannot be written fail; free some space, then --resume tries "
            "them again"
        )


def print_precision(console: Console, plan: Plan) -> None:
    """Say what ``precision=auto`` means in a run, and why."""
    if plan.precision is not None:
        text = f"precision=auto is {plan.precision.auto} in this run: {plan.precision.why}"
    elif any(config.precision == "auto" for config in plan.request.configs):
        text = (
            "precision=auto: the sweep will decide after joining the cluster, so the ends of the "
            "trial_ids will differ from those below; to decide it now, give --gpus COUNTxTYPE"
        )
    else:
        return
    console.print(text, markup=False, soft_wrap=True)


def _print_slots(console: Console, plan: Plan, resources: Resources | None) -> None:
    if resources is not None:
        console.print(
            f"at least {slots(plan.request.settings, resources)} trials run in parallel on "
            f"{resources.cpus:g} CPUs and {resources.gpus:g} GPUs (of this machine, or --gpus)"
        )
