"""Which nodes a sweep may use, so that all its trials compute in the recorded precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rich.console import Console

from sweep.plan import Plan, make_plan
from sweep.precision import (
    WITH_BF16,
    WITHOUT_BF16,
    Precision,
    Processor,
    decide,
    gpu_computes_bf16,
    is_type,
    names,
    of_this_machine,
)
from sweep.request import RequestError, SweepSettings
from sweep.resources import Gpus, Resources, gpus_per_trial, growing
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet

T = TypeVar("T")
TYPE_LABEL, NODE_LABEL = "ray.io/accelerator-type", "ray.io/node-id"
"""Labels of Ray's nodes."""
TYPE_RESOURCE = "accelerator_type:"
"""Prefix of the resource that names a node's GPUs."""
ANSWER_SECONDS = 120.0
"""Longest wait for the nodes' answers."""


def named_type(gpus: Gpus | None) -> list[Processor]:
    """Return the GPUs that ``--gpus`` names; none if it names no known type."""
    if gpus is None or not gpus.name:
        return []
    named = Processor(gpus.name, gpu_computes_bf16(gpus.name))
    return [] if named.bf16 is None else [named]


def before_start(
    recorded: Mapping[str, Any] | None,
    settings: SweepSettings,
    resources: Resources | None,
    gpus: Gpus | None,
) -> Precision | None:
    """Return a run's precision if it is known before joining a cluster.

    Parameters
    ----------
    recorded : dict or None
        Contents of plan.json, which has priority.
    settings : SweepSettings
    resources : Resources or None
        Resources of this machine; None if the sweep will join a cluster.
    gpus : Gpus or None
        Value of ``--gpus``.
    """
    if recorded and recorded.get("precision"):
        return Precision(**recorded["precision"])
    if resources is None:
        named = named_type(gpus) if settings.gpus_per_trial != 0 else []
        return decide(named, on_gpus=True) if named else None
    return decide(*_here(settings, resources, gpus))


def _here(
    settings: SweepSettings, resources: Resources, gpus: Gpus | None
) -> tuple[list[Processor], bool]:
    """Return this machine's processors for trials in a private Ray, and whether they are GPUs."""
    on_gpus = bool(gpus_per_trial(settings, resources))
    named = named_type(gpus) if on_gpus else []
    return named or [of_this_machine(on_gpus)], on_gpus


def _wanted(plan: Plan) -> list[TrialConfig]:
    """Return a plan's configurations, with every precision that a search may draw."""
    configs, drawn = plan.request.configs, plan.request.space.dimensions.get("precision", ())
    return [*configs, *(configs[0].model_copy(update={"precision": one}) for one in drawn)]


def check_here(plan: Plan, resources: Resources, gpus: Gpus | None) -> str:
    """Return a note for the user on this machine's precision, before a plan runs on it.

    Raises
    ------
    RequestError
        When its GPUs cannot compute in the precision of the trials.
    """
    if plan.precision is None:
        return ""
    found, on_gpus = _here(plan.request.settings, resources, gpus)
    nodes = choose_nodes(plan.precision, _wanted(plan), found, on_gpus)
    if nodes.problem:
        raise RequestError(nodes.problem)
    return nodes.note


def join(
    plan: Plan, dataset: DataSet, present: Resources, gpus: Gpus | None, screen: Console
) -> tuple[Plan, Resources]:
    """Decide precision and nodes of a sweep on the Ray cluster that it has joined.

    Parameters
    ----------
    plan : Plan
        The plan, whose precision is kept if it has been decided.
    dataset : DataSet
    present : Resources
        Resources that have joined the cluster so far.
    gpus : Gpus or None
        Value of ``--gpus``, or the GPUs that the cluster offers.
    screen : rich.console.Console

    Returns
    -------
    Plan, Resources
        The future resources, without nodes that get no trial.

    Raises
    ------
    RequestError
        When no node can compute in the precision of the trials.
    """
    settings, count = plan.request.settings, gpus.count if gpus else None
    on_gpus = bool(gpus_per_trial(settings, growing(present, settings, count)))
    found = of_cluster(on_gpus)
    named = named_type(gpus) if on_gpus else []
    others = other_kinds(found, gpus.name) if on_gpus and gpus and gpus.name else []
    found = [one for one in found if one not in others]
    if plan.precision is None:
        plan = make_plan(plan.request, dataset, decide([*found, *named], on_gpus))
    assert plan.precision is not None
    nodes = choose_nodes(plan.precision, _wanted(plan), [*found, *named], on_gpus)
    if nodes.problem:
        raise RequestError(nodes.problem)
    if nodes.note:
        screen.print(f"note: {nodes.note}", markup=False, soft_wrap=True)
    if others and gpus:
        text = f"note: {names(others)} is not the requested {gpus.name} and gets no trial"
        screen.print(text, markup=False, soft_wrap=True)
    lost = sum(one.gpus for one in found if one.node in (nodes.avoid or ()))
    lost += sum(one.gpus for one in others)
    usable = growing(replace(present, gpus=present.gpus - lost), settings, count)
    return plan, replace(
        usable,
        avoid=nodes.avoid,
        other_nodes=frozenset(one.node for one in others),
        other_types=unwanted_types(gpus.name) if others and gpus else frozenset(),
    )


def other_kinds(processors: Sequence[Processor], name: str) -> list[Processor]:
    """Return the nodes with another type of GPU than the named one; none if no node has that type.

    Examples
    --------
    >>> a100, v100 = Processor("NVIDIA A100-SXM4-40GB", True), Processor("V100", False)
    >>> other_kinds([a100, v100], "A100") == [v100], other_kinds([v100], "A100")
    (True, [])
    """
    others = [one for one in processors if not is_type(one.name, name)]
    return others if len(others) < len(processors) else []


def unwanted_types(name: str) -> frozenset[str]:
    """Return the known types of GPUs that are not the named one."""
    return frozenset(one for one in (*WITHOUT_BF16, *WITH_BF16) if not is_type(one, name))


def of_cluster(on_gpus: bool) -> list[Processor]:
    """Return the processor of trials on each node of the connected Ray cluster.

    Nodes without a GPU (or, for trials on CPUs, without a core for them) do not count. The type of
    a GPU comes from the node's label or resource; if these do not say it, the node is asked.
    """
    import ray

    kind = "GPU" if on_gpus else "CPU"
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get(kind, 0.0) > 0]
    found = {n["NodeID"]: _by_label(n) if on_gpus else Processor("CPU", None) for n in nodes}
    unknown = [node for node, one in found.items() if one.bf16 is None]
    for node, answer in _ask(unknown, on_gpus).items():
        name = answer.name if found[node].name in ("CPU", "GPU") else found[node].name
        found[node] = replace(answer, name=name)
    gpus = {n["NodeID"]: n["Resources"].get("GPU", 0.0) for n in nodes}
    return [replace(one, node=node, gpus=gpus[node]) for node, one in found.items()]


def _by_label(node: Mapping[str, Any]) -> Processor:
    kinds = [k.removeprefix(TYPE_RESOURCE) for k in node["Resources"] if TYPE_RESOURCE in k]
    name = (node.get("Labels") or {}).get(TYPE_LABEL) or next(iter(kinds), "GPU")
    return Processor(name, gpu_computes_bf16(name))


def _ask(nodes: Sequence[str], on_gpus: bool) -> dict[str, Processor]:
    """Ask nodes with a task on each; those that do not respond are missing."""
    answers = on_each(nodes, of_this_machine, on_gpus, seconds=ANSWER_SECONDS)
    # the others have left meanwhile, or cannot start a worker
    return {node: one for node, one in answers.items() if not isinstance(one, Exception)}


def on_each(
    nodes: Sequence[str], function: Callable[..., T], *arguments: Any, seconds: float
) -> dict[str, T | Exception]:
    """Call a function on several nodes of the connected Ray cluster at the same time.

    Parameters
    ----------
    nodes : sequence of str
        Ray's ids of the nodes.
    function : callable
    *arguments
        Arguments of the function.
    seconds : float
        Longest wait for all results together.

    Returns
    -------
    dict
        Result of the function by node, or the error: TimeoutError or an error of Ray.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(function)
    asked = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(*arguments)
        for node in nodes
    }
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    answers: dict[str, T | Exception] = {}
    for node, answer in asked.items():
        try:
            answers[node] = ray.get(answer, timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            answers[node] = TimeoutError(f"no response within {seconds:.0f} s")
        except ray.exceptions.RayError as error:
            answers[node] = error
    return answers


@dataclass(frozen=True)
class Nodes:
    """Which nodes a sweep may use."""

    avoid: frozenset[str] | None = frozenset()
    """Ids of nodes that do not compute in the run's precision; None means that all are used."""
    note: str = ""
    """Note for the user."""
    problem: str = ""
    """Why the sweep cannot run on these nodes."""


def choose_nodes(
    precision: Precision,
    configs: Collection[TrialConfig],
    processors: Sequence[Processor],
    on_gpus: bool,
) -> Nodes:
    """Leave out the nodes that cannot compute in the precision of the trials, if others can.

    If no node can, CPUs emulate bfloat16, which is slow and gives the same result up to rounding;
    on GPUs the request is refused.
    """
    if not any(precision.demands_bf16(config, on_gpus) for config in configs):
        return Nodes(None)
    cannot = [one for one in processors if one.bf16 is False]
    if not cannot or len(cannot) < len(processors):
        note = f"{names(cannot)} cannot compute in the run's precision and gets no trial"
        return Nodes(frozenset(one.node for one in cannot if one.node), note if cannot else "")
    if not on_gpus:
        note = "this CPU has no bfloat16 instructions, so precision=bf16 is emulated, which is slow"
        return Nodes(None, note)
    bf16 = any(config.precision == "bf16" for config in configs)
    what = "precision=bf16" if bf16 else "this run's precision=32 with TF32"
    hint = "use GPUs that can (A100, A10G, L4 or newer), or --set precision=32 with another --out"
    return Nodes(problem=f"{names(cannot)} cannot compute in {what}; {hint}")


def label_selector(
    avoid: Collection[str], on_gpu: bool, other_types: Collection[str] = ()
) -> dict[str, str]:
    """Return Ray's label selector that keeps a trial away from nodes.

    Parameters
    ----------
    avoid : collection of str
        Ids of the nodes.
    on_gpu : bool
        Whether the trial must not get a GPU without bfloat16, even on a node that joins later.
    other_types : collection of str
        Ray's names of further GPUs that it must not get. Nodes without the label are allowed.
    """
    selector = without_nodes(avoid)
    types = dict.fromkeys([*(WITHOUT_BF16 if on_gpu else ()), *sorted(other_types)])
    if types:
        selector[TYPE_LABEL] = f"!in({','.join(types)})"
    return selector


def without_nodes(nodes: Collection[str]) -> dict[str, str]:
    """Return Ray's label selector that keeps a trial away from the nodes with given ids."""
    return {NODE_LABEL: f"!in({','.join(sorted(nodes))})"} if nodes else {}


def any_node_left(blind: Collection[str], cpus: float, gpus: float) -> bool:
    """Whether the cluster has a node for a trial outside `blind`; Ray must be connected.

    Parameters
    ----------
    blind : collection of str
        Ids of nodes that cannot be used.
    cpus, gpus : float
        Resources that a trial needs.
    """
    return any(
        there.get("CPU", 0.0) >= cpus and there.get("GPU", 0.0) >= gpus
        for there in resources_of_nodes(blind)
    )


def resources_of_nodes(
    without: Collection[str], no_gpu: Collection[str] = ()
) -> list[dict[str, float]]:
    """Return the resources for trials of each node of the connected cluster.

    Parameters
    ----------
    without : collection of str
        Ids of nodes that get no trial.
    no_gpu : collection of str
        Ids of nodes whose GPUs cannot be used.
    """
    import ray

    return [
        {**node["Resources"], **({"GPU": 0.0} if node["NodeID"] in no_gpu else {})}
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in without
    ]
