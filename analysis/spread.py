"""Where the networks of an analysis predict: here, one after the other, or on a cluster's nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from trainables.config import TrialConfig

Tick = Callable[[], None]
"""Called after each step, to show progress."""


class Job(NamedTuple):
    """A call that is independent of the others."""

    arguments: tuple[Any, ...]
    config: TrialConfig
    """The network that it loads, which decides how much memory it needs."""
    steps: int
    """How often it ticks."""


class Spread(Protocol):
    """Makes the same call for several jobs."""

    pieces: int
    """Into how many parts a long sequence of images is worth cutting."""

    def start(
        self, function: Callable[..., Any], common: tuple[Any, ...], jobs: Sequence[Job]
    ) -> Sequence[Callable[[Tick], Any]]:
        """Begin ``function(*common, *job.arguments, tick)`` for each job.

        Returns
        -------
        sequence of callables
            Each takes `tick`, and returns the result of a job or raises what it raised. They must
            be called in order.
        """


class Here:
    """In this process; a job begins when its result is asked for."""

    pieces = 1

    def start(
        self, function: Callable[..., Any], common: tuple[Any, ...], jobs: Sequence[Job]
    ) -> Sequence[Callable[[Tick], Any]]:
        """See `Spread.start`."""
        return [partial(function, *common, *job.arguments) for job in jobs]
