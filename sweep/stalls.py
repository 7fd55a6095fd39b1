"""Trials that wait while none runs: after a minute the user is told what they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

PATIENCE_SECONDS = 60.0
"""Without a running trial, until something is said: starting a worker takes up to half of it."""
GIB = 2**30


class Stall:
    """Says once that trials wait while none runs, and again after another one has run.

    Parameters
    ----------
    say : callable
        Takes a line for the user.
    nodes : callable
        Returns what each node that is up has, by Ray's names of resources, of those that may get
        trials.
    seconds : float
        Time without a running trial until something is said.
    """

    def __init__(
        self,
        say: Callable[[str], Any],
        nodes: Callable[[], Sequence[Mapping[str, float]]],
        seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.say, self.nodes, self.seconds = say, nodes, seconds
        self._since: float | None = None
        self._said = False

    def look(self, running: bool, needs: Collection[Mapping[str, float]]) -> None:
        """Take note of the moment.

        Parameters
        ----------
        running : bool
            Whether a trial runs.
        needs : collection of mapping
            What each waiting trial takes, by Ray's names of resources.
        """
        if running or not needs:
            self._since, self._said = None, False
        elif self._since is None:
            self._since = time.monotonic()
        elif not self._said and time.monotonic() - self._since >= self.seconds:
            self._said = True
            self.say(why_none_runs(needs, self.nodes()))


def why_none_runs(
    needs: Collection[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]
) -> str:
    """Return in one line what waiting trials wait for.

    Parameters
    ----------
    needs : collection of mapping
        What each of them takes; at least one.
    nodes : sequence of mapping
        What each node has.

    Examples
    --------
    >>> why_none_runs([{"CPU": 1, "GPU": 0.5}], [{"CPU": 8}]).partition(";")[0]
    'no trial runs, 1 waits: no node that may take one has 1 CPU, 0.5 GPU'
    """
    count = f"{len(needs)} wait" if len(needs) > 1 else "1 waits"
    least = min(needs, key=lambda one: sorted(one.items()))
    fits = [n for n in nodes if all(n.get(kind, 0.0) >= x for kind, x in least.items())]
    if fits:
        why = "the cluster's nodes are taken by other work, or are starting a worker"
        when = "trials start when there is room"
    else:
        why = f"no node that may take one has {_listed(least)}"
        when = "trials start when such a node joins"
    ending = "Ctrl-C ends the sweep, the same command with --resume goes on"
    return f"no trial runs, {count}: {why}; {when} ({ending})"


def _listed(need: Mapping[str, float]) -> str:
    parts = [f"{need[kind]:.3g} {kind}" for kind in ("CPU", "GPU") if need.get(kind)]
    if need.get("memory"):
        parts.append(f"{need['memory'] / GIB:.3g} GB of memory")
    return ", ".join(parts)
