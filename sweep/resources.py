"""The resources that trials need and those that exist, computed without Ray."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sweep.limits import Limits
from sweep.packing import cpu_memory_mb, gpu_fraction
from sweep.request import RequestError, SweepSettings
from trainables.config import STARDIST, TrialConfig
from trainables.footprint import Footprint
from trainables.machine.cores import usable_cpus
from trainables.machine.hardware import count_gpus, pretended_gpu

STARDIST_CPUS = 4.0
"""Most cores that a trial of StarDist's own model gets while others train on GPUs."""


class Node(NamedTuple):
    """A node of a cluster."""

    cpus: float
    memory_gb: float


@dataclass(frozen=True)
class Resources:
    """The resources of a cluster."""

    cpus: float
    gpus: float
    memory_gb: float | None = None
    """Memory of the largest node; None if unknown."""
    avoid: frozenset[str] | None = None
    """Ids of the nodes that do not compute in the run's precision: they and similar nodes that
    join later get no trial. None means that every node is used."""
    token: str = ""
    """Word in the run folder that a node must read to get a trial; '' if that is not checked."""
    node_cpus: float | None = None
    """Cores of the largest node; None if unknown."""
    nodes: tuple[Node, ...] = ()
    """The nodes that are there now; empty if there is one node, with all cores and memory."""
    other_nodes: frozenset[str] = frozenset()
    """Ids of the nodes whose GPUs are not of the requested type; they get no trial on a GPU."""
    other_types: frozenset[str] = frozenset()
    """Ray's names for these types, for nodes that join later."""


@dataclass(frozen=True)
class Gpus:
    """The value of ``--gpus``."""

    count: int
    name: str = ""
    memory_gb: float | None = None


def parse_gpus(text: str) -> Gpus:
    """Read ``2``, ``4xV100`` or ``4xV100-32``.

    Raises
    ------
    RequestError
        When the text has another form.
    """
    match = re.fullmatch(r"(\d+)(?:x([A-Za-z][A-Za-z0-9]*)(?:-(\d+(?:\.\d+)?))?)?", text)
    if not match:
        raise RequestError(f"--gpus {text}: write a number or COUNTxNAME-GB, such as 4xV100-32")
    count, name, memory = match.groups()
    return Gpus(int(count), name or "", float(memory) if memory else None)


def node_memory_gb() -> float:
    """Return the memory of this machine in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def local_resources(gpus: int | None) -> Resources:
    """Return the resources of a private Ray on this machine; `gpus` is the count of ``--gpus``."""
    if gpus is None:
        gpus = count_gpus()
    cpus = float(usable_cpus())
    return Resources(cpus, float(gpus), node_memory_gb(), node_cpus=cpus)


def check_gpus_are_here(gpus: Gpus | None) -> None:
    """Refuse to start a private Ray with more GPUs than this machine has, as trials would not find
    them.

    Raises
    ------
    RequestError
        When ``--gpus`` asks for more GPUs than exist, and GPUs are not pretended.
    """
    if gpus is None or pretended_gpu() is not None:
        return
    here = count_gpus()
    if gpus.count > here:
        raise RequestError(
            f"--gpus {gpus.count}: this machine has {here}; remove --gpus, name a cluster with "
            "--address, or add --plan to see what would run"
        )


def growing(present: Resources, settings: SweepSettings, gpus: int | None) -> Resources:
    """Return the future resources of a cluster, which may start workers only when trials wait.

    Parameters
    ----------
    present : Resources
        Resources that have joined so far; right after ``ray up``, only a head without cores.
    settings : SweepSettings
    gpus : int or None
        Number of GPUs that will join according to ``--gpus``.
    """
    coming = float(gpus or 0)
    share = settings.gpus_per_trial or (1.0 if coming or present.gpus else 0.0)
    total = replace(present, gpus=max(present.gpus, coming, math.ceil(share)))
    trials = _share(share, total.gpus) if share else 1
    return replace(total, cpus=max(total.cpus, trials * settings.cpus_per_trial))


def gpus_per_trial(settings: SweepSettings, resources: Resources) -> float:
    """Return the share of a GPU that each trial gets."""
    if settings.gpus_per_trial is not None:
        return settings.gpus_per_trial
    return 1.0 if resources.gpus else 0.0


def slots(settings: SweepSettings, resources: Resources) -> int:
    """Return how many trials run at once.

    Raises
    ------
    RequestError
        When not even one trial fits.
    """
    gpu = gpus_per_trial(settings, resources)
    by_cpu = math.floor(resources.cpus / settings.cpus_per_trial + 1e-9)
    by_gpu = _share(gpu, resources.gpus) if gpu else by_cpu
    if by_cpu < 1:
        raise RequestError(
            f"cpus_per_trial={settings.cpus_per_trial:g} is more than the {resources.cpus:g} CPUs "
            "available; lower it with --set cpus_per_trial=..."
        )
    if by_gpu < 1:
        raise RequestError(
            f"gpus_per_trial={gpu:g}, but {resources.gpus:g} GPUs are available; use --set "
            "gpus_per_trial=0 to train on CPUs, or name a cluster with --address"
        )
    return min(by_cpu, by_gpu, settings.concurrency or by_cpu)


def check_limits(settings: SweepSettings, resources: Resources) -> None:
    """Refuse resources that a private Ray on this machine never has: trials would wait forever.

    Raises
    ------
    RequestError
        When a trial asks for more than this machine has.
    """
    slots(settings, resources)
    on_gpus, there = gpus_per_trial(settings, resources) > 0, resources.memory_gb
    asked = settings.memory_per_trial
    if not on_gpus and asked and there and asked > there:
        raise RequestError(
            f"memory_per_trial={asked:g}, but trials can use {there:.1f} GB on this machine; lower "
            "it with --set memory_per_trial=..."
        )
    cores = settings.stardist_cpus
    if on_gpus and cores and cores > resources.cpus:
        raise RequestError(
            f"stardist_cpus={cores:g} is more than the {resources.cpus:g} CPUs available; lower it "
            "with --set stardist_cpus=..."
        )


def _share(gpu: float, gpus: float) -> int:
    if gpu > 1:
        return math.floor(gpus / gpu + 1e-9)
    return math.floor(gpus + 1e-9) * math.floor(1 / gpu + 1e-9)


def stardist_limits(settings: SweepSettings, resources: Resources, others: Limits) -> Limits:
    """Return the limits of a trial of StarDist's own model if other trials have limits `others`.

    It never reserves a share of a GPU that it does not use. While others train on GPUs it gets
    cores instead, at most half of a node's, so that other trials can start.
    """
    if not others.gpu:
        return others
    if settings.stardist_gpus:
        return Limits(settings.stardist_gpus)
    most = STARDIST_CPUS if resources.node_cpus is None else resources.node_cpus // 2
    cpus = settings.stardist_cpus or max(settings.cpus_per_trial, min(STARDIST_CPUS, most))
    return Limits(cpus=cpus)


def first_limits(
    settings: SweepSettings,
    resources: Resources,
    footprints: Mapping[str, Footprint] | None = None,
    gpu_memory_gb: float | None = None,
    configs: Mapping[str, TrialConfig] | None = None,
) -> dict[str, Limits]:
    """Return the limits of trials at their first attempt.

    Parameters
    ----------
    settings : SweepSettings
    resources : Resources
    footprints : mapping, optional
        Needs of the trials by trial_id, as far as known.
    gpu_memory_gb : float, optional
        Memory of each GPU; None if unknown, and trials then get whole GPUs.
    configs : mapping, optional
        TrialConfig by trial_id, to find the trials of StarDist's own model.

    Returns
    -------
    dict
        `Limits` by trial_id, and under ``""`` those of all others: on GPUs the smallest share 1/k
        in which the trial fits; on CPUs a reservation of memory if it could run short on one of
        the nodes. Reservations are rounded up, as only trials with equal needs share a worker.
    """
    gpu = gpus_per_trial(settings, resources)
    memory = None if gpu else settings.memory_per_trial
    limits = {"": Limits(gpu, memory, enforced=memory is not None)}
    needs = footprints or {}
    if gpu and settings.gpus_per_trial is None and gpu_memory_gb is not None:
        for trial_id, footprint in needs.items():
            share = gpu_fraction(footprint.peak_mb, gpu_memory_gb * 1024)
            # what does not fit a whole GPU meets its end there, or smaller batches
            limits[trial_id] = Limits(share.fraction if share else 1.0)
    elif not gpu and memory is None and needs and resources.memory_gb:
        # beside training, the best weights so far are kept in memory: 4 bytes a parameter
        needed = {
            i: cpu_memory_mb(one.peak_mb + one.parameters * 4 / 2**20) / 1024
            for i, one in needs.items()
        }
        if _could_run_short(max(needed.values()), settings, resources):
            for trial_id, gb in needed.items():
                rounded = 2.0 ** math.ceil(math.log2(gb))
                # never rounded up: Ray waits for ever for more memory than a node has
                most = math.floor(resources.memory_gb * 1000) / 1000
                limits[trial_id] = Limits(0.0, min(rounded, most))
    for trial_id, config in (configs or {}).items():
        if gpu and config.architecture == STARDIST:
            limits[trial_id] = stardist_limits(settings, resources, limits[""])
    return limits


def _nodes(resources: Resources) -> tuple[Node, ...]:
    """Return the nodes; their memory must be known."""
    return resources.nodes or (Node(resources.cpus, resources.memory_gb or 0.0),)


def _could_run_short(each_gb: float, settings: SweepSettings, resources: Resources) -> bool:
    """Whether trials on CPUs that need so much memory could need more than a node has."""
    most = slots(settings, resources)
    return any(
        each_gb * min(most, math.floor(node.cpus / settings.cpus_per_trial + 1e-9)) > node.memory_gb
        for node in _nodes(resources)
    )


def at_once(
    settings: SweepSettings,
    resources: Resources,
    limits: Mapping[str, Limits],
    trials: Sequence[str],
) -> int:
    """Estimate how many of the given trials run at once under their own limits."""
    count = slots(settings, resources)
    mine = [limits.get(i, limits[""]) for i in trials]
    if resources.gpus and settings.gpus_per_trial is None and mine:
        cores = sum(one.cpus or settings.cpus_per_trial for one in mine)
        by_cpu = math.floor(resources.cpus * len(mine) / cores + 1e-9)
        shares = sum(one.gpu for one in mine)
        by_gpu = math.floor(resources.gpus * len(mine) / shares) if shares else by_cpu
        count = max(1, min(by_gpu, by_cpu, settings.concurrency or by_cpu))
    needed = [one.memory_gb for one in mine if one.memory_gb is not None]
    if needed and resources.memory_gb and not resources.gpus:
        each = sum(needed) / len(needed)
        fit = (
            min(math.floor(n.cpus / settings.cpus_per_trial + 1e-9), math.floor(n.memory_gb / each))
            for n in _nodes(resources)
        )
        count = max(1, min(count, sum(fit)))
    return count
