"""Measure the memory of networks on the GPUs of a cluster, before its first trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.cluster.nodes import NODE_LABEL, label_selector
from sweep.estimates import default_cache
from sweep.packing import gpu_fraction
from sweep.resources import Resources
from trainables.config import STARDIST, TrialConfig
from trainables.footprint import Footprint, FootprintCache, footprint_key, probe
from trainables.machine.hardware import pretended_gpu

WAIT_SECONDS = 900.0
"""Longest wait for the first GPU of a cluster that starts nodes on demand."""
ANSWER_SECONDS = 120.0
"""Longest wait for the nodes to describe their GPUs."""
PROBING_SECONDS = 600.0
"""Longest time for all measurements; for networks that have not been measured by then, the
estimate is used."""
CAUTION = 1.5
"""Factor on an estimate to get the share of a GPU for its measurement."""
MOST_PER_GPU = 4
"""Most measurements at once on a GPU; most of their time is spent importing torch."""


@dataclass(frozen=True)
class NodeGpu:
    """The smallest GPU of a node."""

    node: str
    """Ray's id of the node."""
    name: str
    """Name from the driver."""
    memory_gb: float


def gpu_of_this_machine() -> tuple[str, float | None]:
    """Return name and memory in GiB of the smallest GPU here, or why there is none, and None."""
    if (pretended := pretended_gpu()) is not None:
        return pretended.name or "GPUs are pretended here", pretended.memory_gb
    # in a process of its own: the worker would hold a CUDA context ever after
    code = (
        "import torch; p = min((torch.cuda.get_device_properties(i) for i in "
        "range(torch.cuda.device_count())), key=lambda p: p.total_memory); print(p.name); "
        "print(p.total_memory / 2**30)"
    )
    # Ray may hide GPUs from what holds no share of one
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    environment = {
        k: v for k, v in os.environ.items() if not (hidden and k == "CUDA_VISIBLE_DEVICES")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != 2:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"no GPU responds ({reason})", None
    return lines[0], float(lines[1])


def smallest_kind(gpus: Collection[NodeGpu]) -> list[NodeGpu]:
    """Return the nodes with the type of GPU that has the least memory: what fits there fits on all
    others.

    Examples
    --------
    >>> nodes = [NodeGpu("a", "A100", 40), NodeGpu("b", "V100", 16), NodeGpu("c", "V100", 16)]
    >>> [one.node for one in smallest_kind(nodes)]
    ['b', 'c']
    """
    least = min(gpus, key=lambda one: (one.memory_gb, one.name), default=None)
    if least is None:
        return []
    return [g for g in gpus if (g.name, g.memory_gb) == (least.name, least.memory_gb)]


def _gpus_of_cluster(resources: Resources) -> tuple[list[NodeGpu], str]:
    """Return the GPUs of the nodes that trials may get, and why some do not respond.

    If there is no such node yet, wait for the first one.
    """
    import ray

    away = {*(resources.avoid or ()), *resources.other_nodes}
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU", 0.0) > 0]
    if not nodes:
        selector = label_selector((), resources.avoid is not None, resources.other_types)
        first = ray.remote(num_gpus=1, num_cpus=0, label_selector=selector)(_here)
        ready, late = ray.wait([first.remote()], timeout=WAIT_SECONDS)
        if late:
            ray.cancel(late[0], force=True)
            return [], f"no GPU joined within {WAIT_SECONDS:.0f} s"
        answers = ready
    else:
        answers = [
            ray.remote(num_cpus=0, label_selector={NODE_LABEL: node})(_here).remote()
            for node in nodes
            if node not in away
        ]
        answers, late = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
        for answer in late:
            ray.cancel(answer, force=True)
    found, problem = [], "no GPU responds"
    for answer in answers:
        try:
            node, name, memory = ray.get(answer)
        except ray.exceptions.RayError as error:  # the node has left meanwhile
            problem = f"a GPU does not respond ({type(error).__name__})"
            continue
        if memory is None:
            problem = name
        elif memory > 0:
            found.append(NodeGpu(node, name, memory))
    return found, "" if found else problem


def _here() -> tuple[str, str, float | None]:
    import ray

    return (ray.get_runtime_context().get_node_id(), *gpu_of_this_machine())


def probe_on_gpus(
    configs: Mapping[str, TrialConfig],
    guesses: Mapping[str, Footprint],
    resources: Resources,
    image_shape: tuple[int, int] | None = None,
    cache: FootprintCache | None = None,
) -> tuple[dict[str, Footprint], float | None, list[str]]:
    """Measure trials on GPUs of the connected Ray cluster, on the type of GPU with the least memory
    that a trial may get; several networks are measured at once.

    Parameters
    ----------
    configs : mapping
        TrialConfig by trial_id; StarDist's own model is not measured.
    guesses : mapping
        Estimates by trial_id, as far as they exist; they give the number of measurements per GPU.
    resources : Resources
        Resources of the cluster, including the nodes that get no trial.
    image_shape : (H, W), optional
        Shape of the largest image that will be evaluated whole.
    cache : FootprintCache, optional
        The user's cache by default.

    Returns
    -------
    footprints : dict
        Measured footprint by trial_id; trials that could not be measured are missing.
    gpu_memory_gb : float or None
        Memory of the smallest GPU that responded; None if none did.
    problems : list of str
        Reasons why networks could not be measured.
    """
    cache = cache or default_cache()
    found, problem = _gpus_of_cluster(resources)
    kind = smallest_kind(found)
    if not kind:
        return {}, None, [problem]
    memory = kind[0].memory_gb
    asked = {i: c for i, c in configs.items() if c.architecture != STARDIST}
    keys = {i: footprint_key(c, kind[0].name, image_shape=image_shape) for i, c in asked.items()}
    known = {k: f for k in set(keys.values()) if (f := cache.get(k))}
    todo = {keys[i]: i for i in asked if keys[i] not in known}
    shares = {key: _share(guesses.get(i), memory) for key, i in todo.items()}
    end = time.monotonic() + PROBING_SECONDS
    nodes = [one.node for one in kind]
    probes = {key: asked[i] for key, i in todo.items()}
    measured, reasons = _probe_all(probes, shares, nodes, image_shape, end)
    # its estimate was too low, or that of what ran beside it
    short = [key for key, why in reasons.items() if "OutOfMemory" in why and shares[key] < 1]
    again, later = _probe_all(
        {key: probes[key] for key in short}, dict.fromkeys(short, 1.0), nodes, image_shape, end
    )
    measured, reasons = {**measured, **again}, {**reasons, **later}
    for key, footprint in measured.items():
        cache.put(key, footprint)
    known.update(measured)
    problems = [
        f"{probes[key].candidate}: {why}" for key, why in reasons.items() if key not in known
    ]
    return {i: known[k] for i, k in keys.items() if k in known}, memory, problems


def _share(guess: Footprint | None, memory_gb: float) -> float:
    if guess is None:
        return 1.0
    share = gpu_fraction(CAUTION * guess.peak_mb, memory_gb * 1024, most=MOST_PER_GPU)
    return share.fraction if share else 1.0


def _probe_all(
    configs: Mapping[str, TrialConfig],
    shares: Mapping[str, float],
    nodes: Sequence[str],
    image_shape: tuple[int, int] | None,
    end: float,
) -> tuple[dict[str, Footprint], dict[str, str]]:
    """Measure networks on given nodes until `end` (of `time.monotonic`); return the measurements,
    and the reasons for missing ones, by key.
    """
    import ray

    here = {NODE_LABEL: f"in({','.join(nodes)})"}
    waiting: dict[Any, str] = {}
    for key, config in configs.items():
        task = ray.remote(num_gpus=shares[key], num_cpus=0, label_selector=here)(probe)
        left = max(1.0, min(300.0, end - time.monotonic()))
        waiting[task.remote(config, "cuda", image_shape=image_shape, timeout_s=left)] = key
    measured, reasons = {}, {}
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        key = waiting.pop(ready[0])
        try:
            footprint, reason = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            footprint, reason = None, f"its node or worker was lost ({type(error).__name__})"
        if footprint is None:
            reasons[key] = reason
        else:
            measured[key] = footprint
    for answer, key in waiting.items():
        ray.cancel(answer, force=True)
        reasons[key] = f"all measurements together took longer than {PROBING_SECONDS:.0f} s"
    return measured, reasons
