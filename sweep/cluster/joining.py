"""What a sweep checks about a cluster before its first trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sweep.cluster.autoscaler import address_here, offered
from sweep.cluster.nodes import join
from sweep.cluster.visibility import check_visibility
from sweep.plan import Plan
from sweep.request import RequestError, SweepSettings
from sweep.resources import Gpus, Resources, gpus_per_trial, slots
from trainables.data.dataset import DataSet
from trainables.records.sight import token_in

MOST_SCOUTS = 100


@contextmanager
def joined(
    plan: Plan,
    dataset: DataSet,
    out: Path,
    present: Resources,
    gpus: Gpus | None,
    address: str,
    screen: Console,
) -> Iterator[tuple[Plan, Resources, Gpus | None]]:
    """Decide on which nodes of a cluster a sweep runs, and check that they can read its folders.

    Parameters
    ----------
    plan : Plan
    dataset : DataSet
    out : Path
        Absolute run folder; must exist.
    present : Resources
        Resources that have joined the cluster so far.
    gpus : Gpus or None
        Value of ``--gpus``.
    address : str
        The user's address of the cluster.
    screen : rich.console.Console

    Yields
    ------
    Plan, Resources, Gpus or None
        The plan with its precision, the future resources, and the GPUs that may join.

    Raises
    ------
    RequestError
        When the cluster cannot run the trials; the message says what is missing on which node.
    """
    settings = plan.request.settings
    coming = gpus_to_come(gpus, settings, present, address)
    if coming is not None and coming != gpus:
        named = f" ({coming.name})" if coming.name else ""
        screen.print(
            f"the cluster may start up to {coming.count} GPUs{named}; --gpus overrides this"
        )
    plan, resources = join(plan, dataset, present, coming, screen)
    with token_in(out) as token:
        check_visibility(
            out,
            token,
            dataset,
            {*(resources.avoid or ()), *resources.other_nodes},
            cpus=settings.cpus_per_trial,
            gpus=gpus_per_trial(settings, resources),
            scouts=min(MOST_SCOUTS, slots(settings, resources)),
            say=screen.print,
        )
        yield plan, replace(resources, token=token), coming


def gpus_to_come(
    asked: Gpus | None, settings: SweepSettings, present: Resources, address: str
) -> Gpus | None:
    """Return the GPUs that a cluster will have; Ray must be connected.

    Parameters
    ----------
    asked : Gpus or None
        Value of ``--gpus``, which has priority.
    settings : SweepSettings
    present : Resources
        Resources that have joined so far.
    address : str
        The user's address of the cluster.

    Raises
    ------
    RequestError
        When the cluster has no resources yet, and its future ones are unknown.
    """
    import ray

    if asked is not None or settings.gpus_per_trial == 0:
        return asked
    offer = offered(ray.get_runtime_context().gcs_address)
    if offer is not None and offer.gpus:
        return Gpus(math.floor(max(offer.gpus, present.gpus)), offer.gpu_name)
    nothing = present.cpus < settings.cpus_per_trial and not present.gpus
    if settings.gpus_per_trial is None and nothing and not (offer and offer.cpus):
        raise RequestError(
            f"the cluster at {address} has no cores for a trial and no GPUs yet, and this node "
            "does not know which nodes it may start; name the GPUs, such as --gpus 4xA10G, or use "
            "--set gpus_per_trial=0 to train on CPUs"
        )
    return None


def gpus_to_plan(asked: Gpus | None, settings: SweepSettings, address: str | None) -> Gpus | None:
    """Return the GPUs that a plan assumes without joining the cluster: those of ``--gpus``, or
    those that the cluster's autoscaler may start, if it runs on this machine.

    Parameters
    ----------
    asked : Gpus or None
        Value of ``--gpus``, which has priority.
    settings : SweepSettings
    address : str or None
        The user's address of the cluster; None without a cluster.
    """
    if address is None or asked is not None or settings.gpus_per_trial == 0:
        return asked
    offer = offered(address_here(address))
    count = math.floor(offer.gpus) if offer else 0
    return Gpus(count, offer.gpu_name) if offer and count else None
