"""GPU-hours and money that a plan is likely to take, and what limits them: lines for ``--plan``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.budget import UNITS, Caps
from sweep.packing import PackedTrial, format_time

WRONG_BY = 3.0
"""Published times of the paper's networks were up to this many times the estimate
(`sweep.throughput`)."""


@dataclass(frozen=True)
class Rented:
    """What a sweep keeps for itself while it runs."""

    gpus: int
    cores: float
    nodes: int | None
    """None if it is not known."""

    def count(self, unit: str) -> float | None:
        """Return how many of a unit of `sweep.budget.UNITS` there are; None if not known."""
        return {"gpu": float(self.gpus), "core": self.cores, "node": self.nodes}[unit]


def hours_of_trials(items: Sequence[PackedTrial], cores: float) -> str:
    """Return the hours that trials compute, in words.

    Parameters
    ----------
    items : sequence of PackedTrial
        Trials, with their share of a GPU, or of a slot on CPUs.
    cores : float
        Cores of each slot; 0 on GPUs.

    Examples
    --------
    >>> hours_of_trials([PackedTrial("a", 7200, 0.5), PackedTrial("b", 3600)], cores=0)
    '2.0 GPU-hours'
    >>> hours_of_trials([PackedTrial("a", 7200)], cores=4)
    '8.0 core-hours'
    """
    hours = sum(item.seconds * item.share for item in items) / 3600
    return f"{number(hours * cores)} core-hours" if cores else f"{number(hours)} GPU-hours"


def cost_lines(rented: Rented, seconds: float, caps: Caps) -> list[str]:
    """Return what a sweep is likely to cost, and at most; empty without a price.

    Parameters
    ----------
    rented : Rented
        Paid for from the start to the end of the last trial, used or not.
    seconds : float
        Estimated time until the last trial ends.
    caps : Caps
    """
    price = caps.price
    if price is None:
        return []
    count = rented.count(price.unit)
    if not count:
        name = UNITS[price.unit]
        return [f"cost: --plan does not know how many {name}s there will be; name a price per GPU"]
    what = f"{count:g} {UNITS[price.unit]}{'' if count == 1 else 's'}"
    rate = count * price.amount
    likely = rate * seconds / 3600
    lines = [
        f"cost: about {number(likely)} ({what} for {format_time(seconds)} at {price}); estimates "
        f"have been up to {WRONG_BY:g} times too low, so perhaps {number(WRONG_BY * likely)}"
    ]
    limits = []
    if caps.hours is not None:
        limits.append((rate * caps.hours, f"{what} for --max-hours {caps.hours:g}"))
    if caps.cost is not None:
        limits.append((caps.cost, "--max-cost"))
    if limits:
        most, why = min(limits)
        text = f"{number(most)} for this call ({why}), and the epochs that are then finished"
    else:
        text = "none: the sweep runs until all trials have ended; --max-hours or --max-cost set one"
    return [*lines, f"ceiling: {text}"]


def number(value: float) -> str:
    """Write a number with two significant digits, or all digits before the point.

    Examples
    --------
    >>> number(1234.5), number(20), number(3.04), number(0.012)
    ('1234', '20', '3.0', '0.012')
    """
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
