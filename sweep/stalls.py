"""Trials that wait while none runs: after a minute, tell the user what they are waiting for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sweep.runfolder import CONTINUE

PATIENCE_SECONDS = 60.0
"""Time without a running trial before the user is told; starting a worker can take half of it."""
GIB = 2**30


class Stall:
    """Tells the user once that trials wait while none runs, and again after another one has run.

    Parameters
    ----------
    say : callable
        Takes a line for the user.
    nodes : callable
        Returns the resources of each running node that may get trials, by Ray's names.
    seconds : float
        Time without a running trial before the user is told.
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
        """Check the present state.

        Parameters
        ----------
        running : bool
            Whether a trial is running.
        needs : collection of mapping
            Resources that each waiting trial needs, by Ray's names.
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
    """Return one line that says what waiting trials are waiting for.

    Parameters
    ----------
    needs : collection of mapping
        Resources that each of them needs; at least one trial.
    nodes : sequence of mapping
        Resources of each node.

    Examples
    --------
    >>> why_none_runs([{"CPU": 1, "GPU": 0.5}], [{"CPU": 8}]).partition(";")[0]
    'no trial is running, 1 is waiting: no node that may run one has 1 CPU, 0.5 GPU'
    """
    count = f"{len(needs)} are waiting" if len(needs) > 1 else "1 is waiting"
    least = min(needs, key=lambda one: sorted(one.items()))
    fits = [n for n in nodes if all(n.get(kind, 0.0) >= x for kind, x in least.items())]
    if fits:
        why = "the cluster's nodes are busy with other work, or are starting a worker"
        when = "trials start when a node has room"
    else:
        why = f"no node that may run one has {_listed(least)}"
        when = "trials start when such a node joins"
    return f"no trial is running, {count}: {why}; {when} (to stop, press Ctrl-C; {CONTINUE} later)"


def _listed(need: Mapping[str, float]) -> str:
    parts = [f"{need[kind]:.3g} {kind}" for kind in ("CPU", "GPU") if need.get(kind)]
    if need.get("memory"):
        parts.append(f"{need['memory'] / GIB:.3g} GB of memory")
    return ", ".join(parts)
