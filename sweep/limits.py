"""What a trial may take of its node, and what it gets after running out of memory."""

from __future__ import annotations

from collections.abc import Mapping
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
    """On CPUs, memory beyond the worker's own, reserved with Ray; None: not known."""
    enforced: bool = False
    """Whether the worker may not take more memory than that (Ray does not enforce it)."""
    micro_batch: int | None = None
    """Crops per forward pass; None: the whole batch."""

    def options(self) -> dict[str, Any]:
        """Return the fields of `trainables.config.RunOptions` that enforce the limits."""
        return {
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
        elif self.memory_gb is not None:
            parts.append(f"{self.memory_gb:.3g} GB")
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


def limits_from(record: Mapping[str, Any] | None, default: Limits) -> Limits:
    """Return what an unfinished trial's record says to try next, else the default."""
    for name in ("retry", "limits"):
        if record and record["status"] == "running" and record.get(name):
            return Limits(**record[name])
    return default
