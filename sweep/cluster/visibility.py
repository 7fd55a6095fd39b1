"""Whether the nodes of a cluster can read the run folder and the data.

Trials run on all nodes and write their results to the run folder. If a node has another disk at
that path, results would be lost. So each node reads a word that the driver wrote there, writes a
reply that the driver reads back, and compares the data set with the driver's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.request import RequestError
from trainables.data.dataset import DataError, DataSet, cached_index
from trainables.data.splits import DataOptions
from trainables.machine.addresses import name_of
from trainables.records.objects import address_of, fetched_folder, place
from trainables.records.sight import PATIENCE_SECONDS, arrived, reply_in

ANSWER_SECONDS = 600.0
"""Longest wait for all nodes, as each starts a worker and reads the whole data set."""
HINT = "put --out and --data on storage that all nodes share, such as /shared"


@dataclass(frozen=True)
class Sight:
    """The result of the check on one node."""

    node: str
    """Ray's id of the node."""
    name: str
    """Host and address, for messages."""
    problems: tuple[str, ...] = ()
    """Problems, each as the rest of a sentence about the node; empty if there are none."""


def look(
    answer: str,
    out: str | None = None,
    token: str = "",
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    patience: float = PATIENCE_SECONDS,
) -> tuple[str, ...]:
    """Check a run folder and a data set from this machine.

    Parameters
    ----------
    answer : str
        Name of the reply file beside the token.
    out : str or None
        Absolute run folder, which contains `token`; None skips this check.
    token : str
        The result of `token_in`.
    data : str or None
        Absolute folder of the data set; None skips this check.
    options : mapping or None
        Fields of `trainables.data.DataOptions`: how the data are split.
    fingerprint : str
        The driver's fingerprint of the data set.
    patience : float
        Seconds to wait for a file before it counts as missing.

    Returns
    -------
    tuple of str
        Problems, each as the rest of a sentence about this node; empty if there are none.
    """
    problems = [reply_in(place(out), token, answer, patience) if out else ""]
    if data is not None:
        problems.append(_data_problem(data, options or {}, fingerprint))
    return tuple(problem for problem in problems if problem)


def _data_problem(data: str, options: Mapping[str, Any], fingerprint: str) -> str:
    try:
        folder = fetched_folder(data)
        if not folder.is_dir():
            return f"cannot find the data set {data}"
        found = cached_index(str(folder), DataOptions(**options)).fingerprint
    except (DataError, OSError) as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        return f"cannot read the data set {data} ({reason})"
    return "" if found == fingerprint else f"has different files in the data set {data}"


def ask_nodes(
    nodes: Sequence[Mapping[str, Any]],
    out: Path | None,
    token: str = "",
    seconds: float = ANSWER_SECONDS,
    **data: Any,
) -> list[Sight]:
    """Run the check on each node with one task per node; Ray must be connected.

    Parameters
    ----------
    nodes : sequence of dict
        Nodes from ``ray.nodes()``.
    out : Path or None
        Absolute run folder; None skips this check.
    token : str
        The result of `token_in`.
    seconds : float
        Longest wait for the results.
    **data
        ``data``, ``options`` and ``fingerprint`` of `look`.

    Returns
    -------
    list of Sight
        One result for each node, in the same order.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        sent = task.options(scheduling_strategy=where).remote(
            node["NodeID"], address_of(out) if out else None, token, **data
        )
        asked.append(sent)
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=seconds, fetch_local=False)
    sights = []
    for node, answer in zip(nodes, asked, strict=True):
        problems = _answer(answer, seconds)
        if not problems and out is not None and not arrived(out, token, node["NodeID"]):
            problems = (f"writes to {address_of(out)}, but its files do not appear here",)
        sights.append(Sight(node["NodeID"], name_of(node), problems))
    return sights


def _answer(answer: Any, seconds: float) -> tuple[str, ...]:
    import ray

    try:
        return tuple(ray.get(answer, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        return (f"did not respond within {seconds:.0f} s",)
    except ray.exceptions.RayError as error:
        return (f"cannot run a task ({_last(error)})",)


def _last(error: Exception) -> str:
    """Return the line of a remote error that describes the problem."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def problems_of(sights: Sequence[Sight]) -> str:
    """Return all nodes and their problems in one line; '' if there are none."""
    return "; ".join(f"{one.name} {' and '.join(one.problems)}" for one in sights if one.problems)


def check_visibility(
    out: Path,
    token: str,
    dataset: DataSet,
    avoid: Collection[str],
    *,
    cpus: float,
    gpus: float,
    scouts: int,
    say: Callable[[str], Any],
) -> None:
    """Check that all nodes that may get trials can read the run folder and the data.

    If there is no such node yet, wait for the first one: a cluster starts nodes when tasks wait for
    them.

    Parameters
    ----------
    out : Path
        Absolute run folder.
    token : str
        The result of `token_in`.
    dataset : DataSet
    avoid : collection of str
        Ids of nodes that get no trial.
    cpus, gpus : float
        Resources that a trial needs.
    scouts : int
        Number of tasks that wait for nodes if there are none yet.
    say : callable
        Takes a line for the user.

    Raises
    ------
    RequestError
        When a node cannot; the message names every such node and its problems.
    """
    import ray

    data: dict[str, Any] = {
        "data": address_of(dataset.root),
        "options": dataset.options.model_dump(),
        "fingerprint": dataset.fingerprint,
    }
    nodes = [
        node
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] not in avoid
        and node["Resources"].get("CPU", 0.0) >= cpus
        and node["Resources"].get("GPU", 0.0) >= min(gpus, 1.0)
    ]
    if nodes:
        sights = ask_nodes(nodes, out, token, **data)
    else:
        say("waiting for the first node with room for a trial ...")
        sights = [_ask_first(out, token, cpus, gpus, scouts, data)]
    if problem := problems_of(sights):
        raise RequestError(f"{problem}; {HINT} (nothing was started)")


def this_node() -> dict[str, str]:
    """Return this worker's node in the form of ``ray.nodes()``, with the fields for `name_of`."""
    import ray
    from ray.util import get_node_ip_address

    return {
        "NodeID": ray.get_runtime_context().get_node_id(),
        "NodeManagerHostname": os.uname().nodename,
        "NodeManagerAddress": get_node_ip_address(),
    }


def _scout(out: str, token: str, data: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    node = this_node()
    return node, look(node["NodeID"], out, token, **data)


def _ask_first(
    out: Path, token: str, cpus: float, gpus: float, scouts: int, data: dict[str, Any]
) -> Sight:
    """Run the check on the first node with room; ask for as many nodes as all trials need."""
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_scout)
    waiting = [task.remote(address_of(out), token, data) for _ in range(scouts)]
    (first, *_), late = ray.wait(waiting)
    for one in late:
        ray.cancel(one)
    try:
        node, problems = ray.get(first)
    except ray.exceptions.RayError as error:
        raise RequestError(
            f"the cluster's first node cannot run a task ({_last(error)}); see ray status"
        ) from error
    if not problems and not arrived(out, token, node["NodeID"]):
        problems = (f"writes to {address_of(out)}, but its files do not appear here",)
    return Sight(node["NodeID"], name_of(node), problems)
