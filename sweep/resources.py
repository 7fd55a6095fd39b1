"""What trials need and what there is, decided without asking Ray."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from sweep.plan import RequestError, Settings


@dataclass(frozen=True)
class Resources:
    """What a cluster has."""

    cpus: float
    gpus: float


def usable_cpus() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_resources(gpus: int | None) -> Resources:
    """Return what a private Ray on this machine has: its cores, and its or the told GPUs."""
    if gpus is None:
        gpus = len([p for p in Path("/dev").glob("nvidia*") if p.name[6:].isdigit()])
    return Resources(float(usable_cpus()), float(gpus))


def growing(present: Resources, settings: Settings, gpus: int | None) -> Resources:
    """Return what a cluster will have, whose workers may come only when trials wait for them.

    Parameters
    ----------
    present : Resources
        What has joined so far; nothing but a head without cores after a fresh ``ray up``.
    settings : Settings
    gpus : int or None
        GPUs that ``--gpus`` says will come.
    """
    coming = float(gpus or 0)
    share = settings.gpus_per_trial or (1.0 if coming or present.gpus else 0.0)
    total = Resources(present.cpus, max(present.gpus, coming, math.ceil(share)))
    trials = _share(share, total.gpus) if share else 1
    return Resources(max(total.cpus, trials * settings.cpus_per_trial), total.gpus)


def gpus_per_trial(settings: Settings, resources: Resources) -> float:
    """Return the share of a GPU that each trial gets."""
    if settings.gpus_per_trial is not None:
        return settings.gpus_per_trial
    return 1.0 if resources.gpus else 0.0


def slots(settings: Settings, resources: Resources) -> int:
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
            "there are; lower it with --set cpus_per_trial=..."
        )
    if by_gpu < 1:
        raise RequestError(
            f"gpus_per_trial={gpu:g}, but there are {resources.gpus:g} GPUs; set gpus_per_trial=0 "
            "to train on CPUs, or name a cluster with --address"
        )
    return min(by_cpu, by_gpu, settings.concurrency or by_cpu)


def _share(gpu: float, gpus: float) -> int:
    if gpu > 1:
        return math.floor(gpus / gpu + 1e-9)
    return math.floor(gpus + 1e-9) * math.floor(1 / gpu + 1e-9)
