"""Limits for a trial on its node, and its new limits after it ran out of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainables.config import STARDIST, TrialConfig

SMALLEST_MICRO_BATCH = 2
"""DeepLabV3, DeepLabV3+ and PAN normalise maps of 1x1 pixels, so they need at least two crops."""


@dataclass(frozen=True)
class Limits:
    """Limits of one attempt at a trial."""

    gpu: float = 0.0
    """GPUs: 0, a fraction (its share of the GPU's memory is enforced), or a whole number."""
    memory_gb: float | None = None
    """On CPUs, memory to reserve with Ray in addition to the worker's own; on GPUs, memory of the
    node, after that ran short; None if unknown."""
    enforced: bool = False
    """Whether the worker must not use more memory than that (Ray does not enforce it)."""
    micro_batch: int | None = None
    """Crops per forward pass; None means the whole batch."""
    cpus: float | None = None
    """Number of cores; None means ``cpus_per_trial``."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `trainables.config.RunOptions` that enforce the limits.

        The device depends on the share, because Ray does not hide GPUs from trials without one.
        """
        threads = {} if self.cpus is None else {"threads": max(1, math.floor(self.cpus))}
        return {
            **threads,
            "device": "cuda" if self.gpu else "cpu",
            "gpu_fraction": self.gpu if 0 < self.gpu < 1 else None,
            "memory_gb": self.memory_gb if self.enforced and not self.gpu else None,
            "micro_batch": self.micro_batch,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        parts = []
        if self.gpu:
            parts.append(f"{self.gpu:.3g} GPU")
        if self.memory_gb is not None:
            parts.append(f"{self.memory_gb:.3g} GB" + (" of the node" if self.gpu else ""))
        if self.micro_batch is not None:
            parts.append(f"micro-batches of {self.micro_batch}")
        return ", ".join(parts) or "no limit"


def next_limits(
    limits: Limits, config: TrialConfig, most_memory_gb: float | None = None
) -> Limits | None:
    """Return the limits to try after a trial ran out of memory.

    First the share is doubled, up to a whole GPU or all memory of a node, which does not change the
    result. (If no memory was reserved, all of it is, so that the trial runs alone.) Then
    micro-batches are halved, but never below `SMALLEST_MICRO_BATCH`.

    Parameters
    ----------
    limits : Limits
        The limits that were too small.
    config : TrialConfig
    most_memory_gb : float, optional
        Memory of a node; None if unknown, and the reservation is then not enlarged.

    Returns
    -------
    Limits or None
        None if nothing is left to try.

    Examples
    --------
    >>> step = next_limits(Limits(gpu=0.5), TrialConfig(batch_size=8))
    >>> str(step), str(next_limits(step, TrialConfig(batch_size=8)))
    ('1 GPU', '1 GPU, micro-batches of 4')
    """
    if 0 < limits.gpu < 1:
        return replace(limits, gpu=min(1.0, 2 * limits.gpu))
    if not limits.gpu and most_memory_gb is not None:
        if limits.memory_gb is None:
            return replace(limits, memory_gb=most_memory_gb)
        if limits.memory_gb < most_memory_gb:
            return replace(limits, memory_gb=min(2 * limits.memory_gb, most_memory_gb))
    if config.architecture == STARDIST:  # its training loop takes whole batches
        return None
    now = limits.micro_batch or config.batch_size
    half = -(-now // 2)
    if half < SMALLEST_MICRO_BATCH or half == now:
        return None
    return replace(limits, micro_batch=half)


def next_host_limits(limits: Limits, most_memory_gb: float | None) -> Limits | None:
    """Return the limits to try after a trial on a GPU ran out of its node's memory.

    Neither a larger share of the GPU nor smaller batches help. If nothing was reserved, all memory
    of the node is reserved, so that the trial runs alone there; a smaller reservation is doubled.

    Parameters
    ----------
    limits : Limits
        The limits that were too small.
    most_memory_gb : float or None
        Memory of the node that trials may reserve; None if unknown.

    Returns
    -------
    Limits or None
        None if nothing is left to try.

    Examples
    --------
    >>> str(next_host_limits(Limits(gpu=0.5), 60)), next_host_limits(Limits(0.5, 60), 60)
    ('0.5 GPU, 60 GB of the node', None)
    """
    if most_memory_gb is None or (limits.memory_gb or 0.0) >= most_memory_gb:
        return None
    wanted = most_memory_gb if limits.memory_gb is None else 2 * limits.memory_gb
    return replace(limits, memory_gb=min(wanted, most_memory_gb))


def reservable_gb(node: str) -> float | None:
    """Return the memory in GB that trials may reserve on a node of the connected Ray cluster; None
    if the node has left.
    """
    import ray

    return reservable_on(ray.nodes(), node)


def reservable_on(nodes: Iterable[Mapping[str, Any]], node: str) -> float | None:
    """Return the memory in GB that trials may reserve on a node; None if it has left."""
    for one in nodes:
        if one["NodeID"] == node and one["Alive"] and "memory" in one["Resources"]:
            # never rounded up: Ray waits for ever for more memory than a node has
            return math.floor(float(one["Resources"]["memory"]) / 2**30 * 1000) / 1000
    return None


def after_shortage(
    limits: Limits,
    config: TrialConfig,
    *,
    host: bool,
    node: str,
    most_memory_gb: float | None,
    reservable: Callable[[str], float | None] = reservable_gb,
) -> tuple[Limits | None, str]:
    """Return the limits to try after a trial ran out of memory (or None), and advice for the user.

    Parameters
    ----------
    limits : Limits
        The limits that were too small.
    config : TrialConfig
    host : bool
        Whether a trial on a GPU ran out of its node's memory instead of the GPU's.
    node : str
        Ray's id of the node.
    most_memory_gb : float or None
        See `next_limits`.
    reservable : callable
        Returns the memory that can be reserved on a node.
    """
    if host:
        advice = "train it on a node with more memory, or leave cores free with cpus_per_trial"
        return next_host_limits(limits, reservable(node)), advice
    advice = "it does not fit; try a smaller batch_size or crop_size"
    return next_limits(limits, config, most_memory_gb), advice


def limits_from(record: Mapping[str, Any] | None, default: Limits) -> Limits:
    """Return the next attempt's limits from an unfinished trial's record, or else `default`."""
    for name in ("retry", "limits"):
        if record and record["status"] == "running" and record.get(name):
            return Limits(**record[name])
    return default
