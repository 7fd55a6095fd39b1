"""Limits of one call of a sweep, in hours (``--max-hours``) and in money (``--max-cost``).

Both count from the start of the command that gives them. When a limit is reached, the sweep ends as
after Ctrl-C: trials finish their epoch and save their state, and ``--resume`` continues it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.request import RequestError

UNITS = {"gpu": "GPU", "node": "node", "core": "core"}
"""What a price can be for, and how it is called."""
LOOK_SECONDS = 10.0
"""Time between two counts of what is paid for."""


@dataclass(frozen=True)
class Price:
    """What an hour of something costs, in any currency."""

    amount: float
    unit: str
    """One of `UNITS`."""

    def __str__(self) -> str:
        return f"{self.amount:g} per {UNITS[self.unit]}-hour"


@dataclass(frozen=True)
class Caps:
    """The limits that a command gives."""

    hours: float | None = None
    cost: float | None = None
    price: Price | None = None

    def __str__(self) -> str:
        """Return the limits for the title of the screen; empty without any."""
        hours = "" if self.hours is None else f", --max-hours {self.hours:g}"
        return hours + ("" if self.cost is None else f", --max-cost {self.cost:g}")


def read_caps(hours: float | None, cost: float | None, price: str | None) -> Caps:
    """Return the limits of a command line.

    Parameters
    ----------
    hours, cost : float or None
        Values of ``--max-hours`` and ``--max-cost``.
    price : str or None
        Value of ``--price``, such as ``1.21/gpu``.

    Raises
    ------
    RequestError
        When a value is not possible, or a cost is given without a price.

    Examples
    --------
    >>> str(read_caps(2, None, "1.21/gpu").price)
    '1.21 per GPU-hour'
    """
    for name, value in (("--max-hours", hours), ("--max-cost", cost)):
        if value is not None and not 0 < value < math.inf:
            raise RequestError(f"{name} {value:g}: must be above 0")
    if cost is not None and price is None:
        raise RequestError(
            "--max-cost: needs --price, such as --price 1.21/gpu (also per node: 1.21/node, or per "
            "core: 0.05/core; always for one hour)"
        )
    return Caps(hours, cost, None if price is None else _read_price(price))


def _read_price(text: str) -> Price:
    number, _, unit = text.partition("/")
    try:
        amount = float(number)
    except ValueError:
        amount = -1.0
    if unit not in UNITS or not 0 <= amount < math.inf:
        raise RequestError(
            f"--price {text}: write what one hour costs, without a currency: of a GPU (1.21/gpu), "
            "of a node (1.21/node) or of a core (0.05/core)"
        )
    return Price(amount, unit)


class Budget:
    """Whether a command has reached its limits.

    Parameters
    ----------
    caps : Caps
    now : callable
        Returns seconds of a clock that never jumps.

    Attributes
    ----------
    spent : float
        Cost so far of all that was up while the sweep ran; 0 without a price.
    why : str
        Which limit was reached; empty before.
    """

    def __init__(self, caps: Caps, now: Callable[[], float] = time.monotonic) -> None:
        self.caps, self._now, self.spent, self.why = caps, now, 0.0, ""
        self._began = now()
        self._looked: float | None = None
        self._up = 0.0

    def look(self, up: Callable[[str], float]) -> bool:
        """Return whether a limit has been reached just now.

        Parameters
        ----------
        up : callable
            Returns how many of a unit of `UNITS` are up, and so paid for, now.
        """
        if self.why:
            return False
        caps, now = self.caps, self._now()
        if caps.hours is not None and now - self._began >= 3600 * caps.hours:
            self.why = f"--max-hours {caps.hours:g} is over"
        if caps.price is not None and (self._looked is None or now >= self._looked + LOOK_SECONDS):
            if self._looked is not None:  # as many as at the last look
                self.spent += caps.price.amount * self._up * (now - self._looked) / 3600
            self._looked, self._up = now, up(caps.price.unit)
            if caps.cost is not None and self.spent >= caps.cost:
                self.why = f"--max-cost {caps.cost:g} is spent"
        return bool(self.why)

    def text(self) -> str:
        """Return what this command has cost; empty without a price."""
        if self.caps.price is None or self._looked is None:
            return ""
        return f"about {self.spent:.2f} for all that was up, at {self.caps.price}"


def units_up(unit: str) -> float:
    """Return how many GPUs, nodes or cores of the connected Ray cluster are up."""
    import ray

    return count_up(ray.nodes(), unit)


def count_up(nodes: Sequence[Mapping[str, Any]], unit: str) -> float:
    """Return how many GPUs, nodes or cores `nodes`, as Ray lists them, have together.

    Examples
    --------
    >>> nodes = [
    ...     {"Alive": True, "Resources": {"CPU": 8.0}},
    ...     {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}},
    ...     {"Alive": False, "Resources": {"GPU": 4.0}},
    ... ]
    >>> [count_up(nodes, unit) for unit in ("gpu", "node", "core")]
    [4.0, 2.0, 16.0]
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if unit == "node":
        return float(len(alive))
    return float(sum(one.get({"gpu": "GPU", "core": "CPU"}[unit], 0.0) for one in alive))
