"""Which nodes a sweep may use, so that all its trials compute in the precision that they say."""

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
"""Labels that Ray gives its nodes."""
TYPE_RESOURCE = "accelerator_type:"
"""Start of the resource that names a node's GPUs."""
ANSWER_SECONDS = 120.0
"""Longest wait for the nodes' answers."""


def named_type(gpus: Gpus | None) -> list[Processor]:
    """Return the GPUs that ``--gpus`` names; none where it names no known type."""
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
    """Return a run's precision as far as it is known without asking a cluster.

    Parameters
    ----------
    recorded : dict or None
        Contents of plan.json: what it says holds.
    settings : SweepSettings
    resources : Resources or None
        Of this machine; None where the sweep will join a cluster.
    gpus : Gpus or None
        What ``--gpus`` says.
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
    """Return what trials compute on in a private Ray on this machine, and whether on GPUs."""
    on_gpus = bool(gpus_per_trial(settings, resources))
    named = named_type(gpus) if on_gpus else []
    return named or [of_this_machine(on_gpus)], on_gpus


def _wanted(plan: Plan) -> list[TrialConfig]:
    """Return a plan's configurations, with every precision that a search may draw."""
    configs, drawn = plan.request.configs, plan.request.space.dimensions.get("precision", ())
    return [*configs, *(configs[0].model_copy(update={"precision": one}) for one in drawn)]


def check_here(plan: Plan, resources: Resources, gpus: Gpus | None) -> str:
    """Return what the user should know of this machine's precision before a plan runs on it.

    Raises
    ------
    RequestError
        When its GPUs cannot compute what the trials demand.
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
        Its precision is kept, where that is decided.
    dataset : DataSet
    present : Resources
        What has joined the cluster so far.
    gpus : Gpus or None
        What ``--gpus`` says, or the cluster offers.
    screen : rich.console.Console

    Returns
    -------
    Plan, Resources
        What will be there in time, without the nodes that get no trial.

    Raises
    ------
    RequestError
        When no node can compute what the trials demand.
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
        text = f"note: {names(others)} is not the {gpus.name} that was asked for and gets no trial"
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
    """Return the nodes whose GPU is of another type than the named one; none where no node has it.

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
    """Return what trials compute on in each node of the Ray cluster that is joined.

    Nodes without a GPU (or, for trials on CPUs, without a core for them) do not count. A GPU's
    type is the node's label or resource; what these do not tell the node itself is asked.
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
    """Ask nodes by a task on each; those that give no answer are missing."""
    answers = on_each(nodes, of_this_machine, on_gpus, seconds=ANSWER_SECONDS)
    # the others have left meanwhile, or cannot start a worker
    return {node: one for node, one in answers.items() if not isinstance(one, Exception)}


def on_each(
    nodes: Sequence[str], function: Callable[..., T], *arguments: Any, seconds: float
) -> dict[str, T | Exception]:
    """Call a function on each of some nodes of the Ray cluster that is joined, all at once.

    Parameters
    ----------
    nodes : sequence of str
        Ray's ids.
    function : callable
    *arguments
        Of the function.
    seconds : float
        Longest wait for the answers, all together.

    Returns
    -------
    dict
        By node what was returned, or why nothing was: TimeoutError or an error of Ray.
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
            answers[node] = TimeoutError(f"no answer within {seconds:.0f} s")
        except ray.exceptions.RayError as error:
            answers[node] = error
    return answers


@dataclass(frozen=True)
class Nodes:
    """Which nodes a sweep may use."""

    avoid: frozenset[str] | None = frozenset()
    """Ids of nodes that do not compute in the run's precision; None: every node is used."""
    note: str = ""
    """What the user should know about it."""
    problem: str = ""
    """Why the sweep cannot run on these nodes."""


def choose_nodes(
    precision: Precision,
    configs: Collection[TrialConfig],
    processors: Sequence[Processor],
    on_gpus: bool,
) -> Nodes:
    """Leave out the nodes that cannot compute what trials demand, wherever others can.

    Where no node can, CPUs emulate bfloat16, which is slow and gives the same result up to
    rounding; on GPUs the request is refused.
    """
    if not any(precision.demands_bf16(config, on_gpus) for config in configs):
        return Nodes(None)
    cannot = [one for one in processors if one.bf16 is False]
    if not cannot or len(cannot) < len(processors):
        note = f"{names(cannot)} cannot compute in the run's precision and gets no trial"
        return Nodes(frozenset(one.node for one in cannot if one.node), note if cannot else "")
    if not on_gpus:
        note = "this CPU has no bfloat16 instructions: precision=bf16 is emulated, which is slow"
        return Nodes(None, note)
    bf16 = any(config.precision == "bf16" for config in configs)
    what = "precision=bf16" if bf16 else "this run's precision=32 with TF32"
    hint = "use GPUs that can (A100, A10G, L4 or newer), or --set precision=32 with another --out"
    return Nodes(problem=f"{names(cannot)} cannot compute in {what}: {hint}")


def label_selector(
    avoid: Collection[str], on_gpu: bool, other_types: Collection[str] = ()
) -> dict[str, str]:
    """Return Ray's label selector that keeps a trial away from nodes.

    Parameters
    ----------
    avoid : collection of str
        Ids of nodes.
    on_gpu : bool
        Whether it must not get a GPU that does not compute in bfloat16, whenever its node joins.
    other_types : collection of str
        Ray's names of further GPUs that it must not get. Nodes without the label pass.
    """
    selector = without_nodes(avoid)
    types = dict.fromkeys([*(WITHOUT_BF16 if on_gpu else ()), *sorted(other_types)])
    if types:
        selector[TYPE_LABEL] = f"!in({','.join(types)})"
    return selector


def without_nodes(nodes: Collection[str]) -> dict[str, str]:
    """Return Ray's label selector that keeps a trial away from the nodes of given ids."""
    return {NODE_LABEL: f"!in({','.join(sorted(nodes))})"} if nodes else {}


def any_node_left(blind: Collection[str], cpus: float, gpus: float) -> bool:
    """Whether the cluster has a node for a trial that is none of `blind`; Ray must be connected.

    Parameters
    ----------
    blind : collection of str
        Ids of nodes.
    cpus, gpus : float
        What a trial takes.
    """
    return any(
        there.get("CPU", 0.0) >= cpus and there.get("GPU", 0.0) >= gpus
        for there in resources_of_nodes(blind)
    )


def resources_of_nodes(
    without: Collection[str], no_gpu: Collection[str] = ()
) -> list[dict[str, float]]:
    """Return what each node has for trials of the cluster that is joined.

    Parameters
    ----------
    without : collection of str
        Ids of nodes that get none.
    no_gpu : collection of str
        Ids of nodes whose GPUs are of no use.
    """
    import ray

    return [
        {**node["Resources"], **({"GPU": 0.0} if node["NodeID"] in no_gpu else {})}
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in without
    ]
