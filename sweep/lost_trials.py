"""Trials that end without a result: why, where they are tried again, and when to give up.

For Ray Tune a trial is finished when its function returns. Only the ledger shows whether it has a
result: if not, the result was lost, unless a scheduler stopped the trial.

Other retries are decided elsewhere: after a worker died, by Tune (`sweep.tuner.fit`); after an
error of the trial itself, by `sweep.trial`; after a lack of memory, by
`sweep.limits.after_shortage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.limits import Limits
from sweep.trial import reason_of

NO_RECORD = "it ended, but its result is not in the run folder"


class LostTrials:
    """What the driver knows about trials whose ledger entry does not say how they ended.

    Parameters
    ----------
    retries : int
        How often to retry a trial that lost its result.
    """

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.blind: set[str] = set()
        """Ids of nodes that cannot find the run folder or the data."""
        self.no_gpu: set[str] = set()
        """Ids of nodes whose GPUs torch cannot use."""
        self.again: set[str] = set()
        """Trials to run again in the next round."""
        self._before: dict[str, Mapping[str, Any] | None] = {}
        self._count: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._refused: dict[str, dict[str, Any]] = {}

    def begin(self, trial_id: str, record: Mapping[str, Any] | None) -> None:
        """Note that an attempt begins, and the ledger's record before it."""
        self.again.discard(trial_id)
        self._stopped.discard(trial_id)
        self._refused.pop(trial_id, None)
        self._before[trial_id] = record

    def hear(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note what a report to Ray Tune contains besides an epoch's metrics."""
        if result.get("refused"):
            self._refused[trial_id] = result["refused"]
        elif result.get("done"):
            # what a worker reports is never the last of it: a scheduler said so
            self._stopped.add(trial_id)

    def refused(self, trial_id: str) -> dict[str, Any] | None:
        """Return ``node``, ``name``, ``why`` and ``gpu`` if the node refused the trial."""
        return self._refused.get(trial_id)

    def was_stopped(self, trial_id: str) -> bool:
        """Whether a scheduler stopped the attempt."""
        return trial_id in self._stopped

    def is_of_this_attempt(
        self, trial_id: str, record: Mapping[str, Any] | None, this_round: str
    ) -> bool:
        """Whether a ledger entry describes the end of this attempt and not of an earlier one."""
        if record is None:
            return False
        if record["status"] == "done" or record.get("round") == this_round:
            return True
        return record != self._before.get(trial_id) and (
            record["status"] != "running" or bool(record.get("retry"))
        )

    def place_elsewhere(self, trial_id: str) -> bool:
        """Run a refused trial again elsewhere; return whether its node is new to the list."""
        refused = self._refused[trial_id]
        nodes = self.no_gpu if refused.get("gpu") else self.blind
        new = refused["node"] not in nodes
        nodes.add(refused["node"])
        self.again.add(trial_id)
        return new

    def try_again(self, trial_id: str) -> bool:
        """Count a lost result; return whether the trial runs again."""
        self._count[trial_id] = self._count.get(trial_id, 0) + 1
        if self._count[trial_id] > self.retries:
            return False
        self.again.add(trial_id)
        return True

    def tries(self, trial_id: str) -> int:
        """Return how often a trial has lost its result."""
        return self._count.get(trial_id, 0)


def killed_for_memory(trial: Any, limits: Limits) -> bool:
    """Whether a worker was probably lost because its node ran out of memory."""
    error = trial.get_pickled_error() or trial.get_error()
    name = type(error).__name__
    if "OutOfMemory" in name or "memory pressure" in str(error):
        return True  # Ray's memory monitor
    # libraries that cannot bear a failed allocation end the process
    return limits.enforced and ("ActorDied" in name or "ActorUnavailable" in name)


def root_cause(trial: Any) -> str:
    """Return why a trial's last attempt ended, in one line."""
    error = trial.get_pickled_error() or trial.get_error()
    if error is None:
        return "its worker was lost"
    cause = getattr(error, "cause", None) or error
    text = reason_of(cause)
    if "TransientError" in text:
        lines = [line.strip() for line in str(error).splitlines() if "TransientError" in line]
        return lines[-1].split("TransientError:", 1)[-1].strip() if lines else text
    if "ActorDied" in type(error).__name__ or "ActorUnavailable" in type(error).__name__:
        return f"its worker or node was lost ({type(error).__name__})"
    return text
