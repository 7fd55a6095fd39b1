"""What a trial may take of its node, and what it gets after running out of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainables.config import STARDIST, TrialConfig

SMALLEST_MICRO_BATCH = 2
"""The DeepLabs and PAN normalise maps of 1x1 pixels: they cannot train on single crops."""


@dataclass(frozen=True)
class Limits:
    """What one attempt at a trial may take."""

    gpu: float = 0.0
    """GPUs: 0, a fraction whose share of the memory is enforced, or whole ones."""
    memory_gb: float | None = None
    """On CPUs, memory beyond the worker's own, reserved with Ray; on GPUs, memory of the node,
    after that was short; None: not known."""
    enforced: bool = False
    """Whether the worker may not take more memory than that (Ray does not enforce it)."""
    micro_batch: int | None = None
    """Crops per forward pass; None: the whole batch."""
    cpus: float | None = None
    """Cores; None: ``cpus_per_trial``."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `trainables.config.RunOptions` that enforce the limits.

        The device follows the share: Ray does not hide GPUs from trials that hold none.
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
    """Return what to try after a trial ran out of memory.

    First a larger share, doubled up to a whole GPU or all memory of a node (where none was
    reserved: all of it, so that the trial runs alone), since that leaves the result as it is;
    then micro-batches of half the crops each time, never below `SMALLEST_MICRO_BATCH`.

    Parameters
    ----------
    limits : Limits
        What did not suffice.
    config : TrialConfig
    most_memory_gb : float, optional
        Memory of a node; None: not known, then memory is not enlarged.

    Returns
    -------
    Limits or None
        None when nothing is left to try.

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
    """Return what to try after a trial on a GPU ran out of its node's memory.

    Neither a larger share of the GPU nor smaller batches help: first all that the node has is
    reserved for a trial that had nothing reserved, so that it runs alone there; a smaller
    reservation is doubled.

    Parameters
    ----------
    limits : Limits
        What did not suffice.
    most_memory_gb : float or None
        Memory of the node that trials may reserve; None: not known.

    Returns
    -------
    Limits or None
        None when nothing is left to try.

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
    """Return the memory, in GB, that trials may reserve on a node of the Ray cluster that is
    joined; None when the node has left.
    """
    import ray

    for one in ray.nodes():
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
    """Return what to try after a trial ran out of memory, or None; and what a user can do then.

    Parameters
    ----------
    limits : Limits
        What did not suffice.
    config : TrialConfig
    host : bool
        Whether a trial on a GPU ran out of its node's memory, rather than of the GPU's.
    node : str
        Ray's id of the node.
    most_memory_gb : float or None
        As `next_limits` takes it.
    reservable : callable
        Asks for what can be reserved on a node.
    """
    if host:
        advice = "train it on a node with more memory, or leave cores free with cpus_per_trial"
        return next_host_limits(limits, reservable(node)), advice
    advice = "it does not fit; try a smaller batch_size or crop_size"
    return next_limits(limits, config, most_memory_gb), advice


def limits_from(record: Mapping[str, Any] | None, default: Limits) -> Limits:
    """Return what an unfinished trial's record says to try next, else the default."""
    for name in ("retry", "limits"):
        if record and record["status"] == "running" and record.get(name):
            return Limits(**record[name])
    return default
