"""How trials share GPUs and cores, in which order they start, and how long a sweep takes.

Everything is computed from footprints (`trainables.footprint`), before anything runs. Times are
for planning: for ResNet-152 on a V100 (Vasinkova et al. 2024, Table 1, 1000 epochs of 90 crops),
five of eight architectures come out at 0.7 to 1.0 times the published time; U-Net++ at 2.0,
DeepLabV3 at 3.6 and DeepLabV3+ at 0.35 do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from trainables.memory import CONTEXT_MB

TOLERANCE = 1e-9
"""Shares are floats: a bin is full when no more than this is left."""
RESOLUTION = 10_000
"""Ray counts resources in ten-thousandths."""


class Share(NamedTuple):
    """Part of a GPU that a trial gets."""

    trials: int
    """Trials that share the GPU."""
    fraction: float
    """1 / `trials`, rounded down to what Ray can count, so that so many do fit."""


def gpu_fraction(
    peak_mb: float,
    gpu_memory_mb: float,
    *,
    margin: float = 1.1,
    context_mb: float = CONTEXT_MB,
    most: int = 8,
) -> Share | None:
    """Return the smallest share of a GPU in which a trial fits.

    Parameters
    ----------
    peak_mb, gpu_memory_mb : float
        MiB that the trial's tensors and workspaces take at most, and those of the GPU.
    margin : float
        Factor on `peak_mb`, for fragmentation.
    context_mb : float
        MiB that each process takes besides: the CUDA context and its kernels.
    most : int
        Most trials on one GPU.

    Returns
    -------
    Share or None
        None when not even one trial fits.

    Examples
    --------
    >>> gpu_fraction(9000, 32 * 1024)
    Share(trials=3, fraction=0.3333)
    """
    each = peak_mb * margin + context_mb
    trials = min(most, math.floor(gpu_memory_mb / each + TOLERANCE))
    if trials < 1:
        return None
    return Share(trials, math.floor(RESOLUTION / trials) / RESOLUTION)


def cpu_memory_mb(peak_mb: float, *, margin: float = 1.1, process_mb: float = 1200.0) -> float:
    """Return the MiB of a node's memory that a trial on CPUs takes.

    `peak_mb` is what training makes the process grow by, `margin` a factor on it for
    fragmentation, `process_mb` what a worker has before (Ray, torch, Lightning: 1000 to 1100).
    """
    return peak_mb * margin + process_mb


def cpu_slots(
    peak_mb: float,
    ram_mb: float,
    cores: float,
    *,
    cpus_per_trial: float = 1.0,
    margin: float = 1.1,
    process_mb: float = 1200.0,
    reserve: float = 0.1,
) -> int:
    """Return how many trials a node runs at once on its cores.

    Parameters
    ----------
    peak_mb, margin, process_mb
        As `cpu_memory_mb` takes them.
    ram_mb, cores : float
        The node's memory in MiB and its cores, of which each trial gets `cpus_per_trial`.
    reserve : float
        Part of the memory left to the system; Ray ends workers at 95 %.

    Returns
    -------
    int
        0 when not even one trial fits.
    """
    each = cpu_memory_mb(peak_mb, margin=margin, process_mb=process_mb)
    by_ram = math.floor(ram_mb * (1 - reserve) / each + TOLERANCE)
    return min(by_ram, math.floor(cores / cpus_per_trial + TOLERANCE))


FLOAT32, TENSOR_CORES = 0.5, 0.15
"""Parts of the peak that training sustains at batches of about eight crops. NVIDIA's published
ResNet-50 figures, with batches of hundreds, come to 0.59 (V100, float32), 0.29 (A100, half
precision) and 0.17 (A100, TF32); small batches reach less."""


@dataclass(frozen=True)
class Throughput:
    """What a GPU, or a CPU core, sustains in training."""

    float32: float
    """GFLOP/s at precision ``32`` (TF32 convolutions where the GPU has them)."""
    bf16: float | None
    """GFLOP/s at precision ``bf16``; None where the hardware does not compute in it."""
    bandwidth: float
    """GB/s of memory, for the optimiser's step."""
    memory_gb: float | None = None
    """Memory of the smallest variant; None for a CPU."""
    step_seconds: float = 0.0
    """Least time of a training step: GPUs wait for thousands of launches."""


def _gpu(float32: float, bf16: float | None, bandwidth: float, memory_gb: float) -> Throughput:
    """Make an entry from sustained TFLOP/s."""
    half = None if bf16 is None else 1000 * bf16
    return Throughput(1000 * float32, half, bandwidth, memory_gb, step_seconds=0.04)


THROUGHPUT: dict[str, Throughput] = {
    "V100": _gpu(15.7 * FLOAT32, None, 900, 16),
    "T4": _gpu(8.1 * FLOAT32, None, 320, 16),
    "A100": _gpu(156 * TENSOR_CORES, 312 * TENSOR_CORES, 1555, 40),
    "H100": _gpu(494 * TENSOR_CORES, 989 * TENSOR_CORES, 3350, 80),
    "H200": _gpu(494 * TENSOR_CORES, 989 * TENSOR_CORES, 4800, 141),
    "A10G": _gpu(35 * TENSOR_CORES, 70 * TENSOR_CORES, 600, 24),
    "L4": _gpu(60 * TENSOR_CORES, 121 * TENSOR_CORES, 300, 24),
    "RTX3090": _gpu(35.6 * TENSOR_CORES, 71 * TENSOR_CORES, 936, 24),
    "RTX4090": _gpu(82.6 * TENSOR_CORES, 165 * TENSOR_CORES, 1008, 24),
}
"""By name: the vendor's dense peaks in TFLOP/s times the parts above."""

CPU = Throughput(float32=120.0, bf16=None, bandwidth=8.0)
"""One core with AVX-512."""
CPU_BF16 = Throughput(float32=120.0, bf16=240.0, bandwidth=8.0)
"""One core that computes in bfloat16 (measured on one of 2023: 150 and 300)."""


def throughput(name: str) -> Throughput | None:
    """Return the entry of a GPU by Ray's or the driver's name of it; None for unknown ones.

    Examples
    --------
    >>> throughput("Tesla V100-SXM2-32GB") is throughput("V100") is THROUGHPUT["V100"]
    True
    """
    words = re.findall(r"[A-Z0-9]+", name.upper())
    joined = {first + second for first, second in pairwise(words)}
    return next((THROUGHPUT[key] for key in THROUGHPUT if key in {*words, *joined}), None)


def estimate_seconds(
    gflops: float,
    parameters: int,
    hardware: Throughput,
    *,
    crops: int,
    epochs: int,
    batch_size: int,
    precision: str = "auto",
    share: float = 1.0,
    cores: float = 1.0,
) -> float:
    """Estimate how long a trial trains.

    Parameters
    ----------
    gflops : float
        10^9 floating-point operations of one crop's forward pass; backward takes twice as many.
    parameters : int
        Number of weights, each of which costs AdamW 40 bytes of memory traffic per step.
    hardware : Throughput
        Of the GPU, or of one core.
    crops, epochs, batch_size : int
        Crops per epoch, epochs, crops per step.
    precision : {"auto", "32", "bf16"}
    share, cores : float
        Part of the GPU, supposing that others use the rest; cores, of a trial on CPUs.

    Returns
    -------
    float
        Seconds; validation and start-up are not included.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    rate = hardware.float32 if precision == "32" else hardware.bf16 or hardware.float32
    steps = epochs * math.ceil(crops / batch_size)
    computing = 3 * gflops * crops * epochs / rate
    stepping = 40e-9 * parameters * steps / hardware.bandwidth
    # Waiting for launches overlaps between trials that share a GPU; computing does not.
    return max(hardware.step_seconds * steps, (computing + stepping) / (share * cores))


@dataclass(frozen=True)
class Item:
    """A trial to be packed."""

    name: str
    seconds: float
    share: float = 1.0
    """Part of a GPU, or 1 for a whole slot."""
    memory_mb: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Where and when a trial runs."""

    item: Item
    slot: int
    start: float
    """Seconds after the sweep's start."""

    @property
    def end(self) -> float:
        """Seconds after the sweep's start."""
        return self.start + self.item.seconds


@dataclass(frozen=True)
class Packing:
    """Trials on slots."""

    placements: tuple[Placement, ...]
    """In the order in which they start."""
    slots: int

    @property
    def makespan(self) -> float:
        """Seconds until the last trial ends."""
        return max((placement.end for placement in self.placements), default=0.0)

    @property
    def utilisation(self) -> float:
        """Part of all slots' time until `makespan` that is given to trials."""
        used = sum(p.item.seconds * p.item.share for p in self.placements)
        return used / (self.slots * self.makespan) if self.makespan else 0.0

    def timeline(self, slot: int) -> tuple[Placement, ...]:
        """Return what runs on one slot, in the order of its starts."""
        return tuple(p for p in self.placements if p.slot == slot)

    def busy(self, slot: int) -> float:
        """Return the seconds in which a slot runs at least one trial."""
        total = until = 0.0
        for placement in self.timeline(slot):
            total += max(0.0, placement.end - max(until, placement.start))
            until = max(until, placement.end)
        return total


def order_large_first(items: Sequence[Item]) -> list[Item]:
    """Sort trials by duration, then memory, longest first; equal ones stay in their order."""
    return sorted(items, key=lambda item: (-item.seconds, -item.memory_mb))


def simulate(items: Sequence[Item], slots: int, *, large_first: bool = True) -> Packing:
    """Place trials as a scheduler does: whenever one ends, the next that fits starts.

    Parameters
    ----------
    items : sequence of Item
    slots : int
        GPUs, or trials at once on CPUs; the shares on each sum to at most 1.
    large_first : bool
        Start in the order of `order_large_first`, so that no long trial runs last and alone;
        or else in that of `items`.

    Returns
    -------
    Packing
        A trial goes to the fullest slot in which it fits, the first of equal ones.
    """
    if slots < 1:
        raise ValueError(f"at least 1 slot, not {slots}")
    for item in items:
        if not 0 < item.share <= 1 + TOLERANCE or item.seconds < 0:
            raise ValueError(f"{item.name}: share {item.share}, {item.seconds} s")
    waiting = order_large_first(items) if large_first else list(items)
    smallest = min((item.share for item in items), default=1.0)
    running: list[Placement] = []
    placements: list[Placement] = []
    now = 0.0
    while waiting:
        used = [math.fsum(p.item.share for p in running if p.slot == s) for s in range(slots)]
        later: list[Item] = []
        for position, item in enumerate(waiting):
            if min(used) + smallest > 1 + TOLERANCE:  # full: spares a look at every other trial
                later += waiting[position:]
                break
            fitting = [s for s in range(slots) if used[s] + item.share <= 1 + TOLERANCE]
            if not fitting:
                later.append(item)
                continue
            slot = max(fitting, key=lambda s: (used[s], -s))
            used[slot] += item.share
            running.append(Placement(item, slot, now))
            placements.append(running[-1])
        waiting = later
        now = min(placement.end for placement in running)
        running = [placement for placement in running if placement.end > now]
    return Packing(tuple(placements), slots)


def format_time(seconds: float) -> str:
    """Write a duration in the two units that matter.

    Examples
    --------
    >>> format_time(12_000), format_time(90), format_time(7)
    ('3 h 20 min', '2 min', '7 s')
    """
    if seconds < 59.5:
        return f"{round(seconds)} s"
    hours, minutes = divmod(math.floor(seconds / 60 + 0.5), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def render(packing: Packing, *, slot_name: str = "GPU") -> list[str]:
    """Return a line per slot (a ``GPU``, or what it is called) and one with the makespan."""
    rows = []
    for slot in range(packing.slots):
        count = len(packing.timeline(slot))
        trials = f"{count} trial" if count == 1 else f"{count} trials"
        rows.append((f"{slot_name} {slot}", trials, f"busy {format_time(packing.busy(slot))}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths)).rstrip() for row in rows]
    total = f"about {format_time(packing.makespan)} in all, {packing.utilisation:.0%} used"
    return [*lines, total]
