"""How trials share GPUs and cores, in which order they start, and how long a sweep takes.

Everything is computed from footprints (`trainables.footprint`) before the sweep starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainables.memory import CONTEXT_MB

TOLERANCE = 1e-9
"""Shares are floats, so a slot is full if no more than this is left."""
RESOLUTION = 10_000
"""Ray counts resources in ten-thousandths."""


class Share(NamedTuple):
    """Share of a GPU that a trial gets."""

    trials: int
    """Number of trials that share the GPU."""
    fraction: float
    """1 / `trials`, rounded down to Ray's resolution, so that this many trials fit."""


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
        Largest memory of the trial's tensors and workspaces, and memory of the GPU, in MiB.
    margin : float
        Factor on `peak_mb` that allows for fragmentation.
    context_mb : float
        Additional MiB for each process: the CUDA context and its kernels.
    most : int
        Largest number of trials on one GPU.

    Returns
    -------
    Share or None
        None if not even one trial fits.

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
    """Return the memory of a node, in MiB, that a trial on CPUs needs.

    `peak_mb` is the growth of the process during training, `margin` a factor on it that allows for
    fragmentation, and `process_mb` the memory of a worker before that (Ray, torch, Lightning: 1000
    to 1100).
    """
    return peak_mb * margin + process_mb


@dataclass(frozen=True)
class PackedTrial:
    """A trial to be placed."""

    name: str
    seconds: float
    share: float = 1.0
    """Share of a GPU; 1 for a whole slot."""
    memory_mb: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Where and when a trial runs."""

    item: PackedTrial
    slot: int
    start: float
    """Seconds after the sweep's start."""

    @property
    def end(self) -> float:
        """Seconds after the sweep's start."""
        return self.start + self.item.seconds


@dataclass(frozen=True)
class Packing:
    """The placement of all trials."""

    placements: tuple[Placement, ...]
    """Placements in the order in which trials start."""
    slots: int

    @property
    def makespan(self) -> float:
        """Seconds until the last trial ends."""
        return max((placement.end for placement in self.placements), default=0.0)

    @property
    def utilisation(self) -> float:
        """Share of all slots' time until `makespan` in which trials run."""
        used = sum(p.item.seconds * p.item.share for p in self.placements)
        return used / (self.slots * self.makespan) if self.makespan else 0.0

    def timeline(self, slot: int) -> tuple[Placement, ...]:
        """Return the placements on one slot, in the order of their start."""
        return tuple(p for p in self.placements if p.slot == slot)

    def busy(self, slot: int) -> float:
        """Return the seconds in which a slot runs at least one trial."""
        total = until = 0.0
        for placement in self.timeline(slot):
            total += max(0.0, placement.end - max(until, placement.start))
            until = max(until, placement.end)
        return total


def order_large_first(items: Sequence[PackedTrial]) -> list[PackedTrial]:
    """Sort trials by duration, then memory, largest first; equal ones keep their order."""
    return sorted(items, key=lambda item: (-item.seconds, -item.memory_mb))


def simulate(items: Sequence[PackedTrial], slots: int, *, large_first: bool = True) -> Packing:
    """Place trials like a scheduler: whenever one ends, the next one that fits starts.

    Parameters
    ----------
    items : sequence of PackedTrial
    slots : int
        Number of GPUs, or of trials at once on CPUs; the shares on each slot sum to at most 1.
    large_first : bool
        Start trials in the order of `order_large_first`, so that no long trial runs alone at the
        end; otherwise in the order of `items`.

    Returns
    -------
    Packing
        Each trial is on the fullest slot in which it fits, or the first one if several are equal.
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
        later: list[PackedTrial] = []
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
    """Write a duration in hours and minutes, or in seconds if it is short.

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
    """Return one line per slot (such as ``GPU 0``), and one with the total time."""
    rows = []
    for slot in range(packing.slots):
        count = len(packing.timeline(slot))
        trials = f"{count} trial" if count == 1 else f"{count} trials"
        rows.append((f"{slot_name} {slot}", trials, f"busy {format_time(packing.busy(slot))}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths)).rstrip() for row in rows]
    total = f"about {format_time(packing.makespan)} in all, {packing.utilisation:.0%} used"
    return [*lines, total]
