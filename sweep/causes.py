"""Why an attempt at a trial ended, as far as Ray Tune can tell."""

from __future__ import annotations

from typing import Any

from sweep.allowances import Limits
from sweep.trial import reason_of


def killed_for_memory(trial: Any, limits: Limits) -> bool:
    """Whether a worker was lost for want of its node's memory, as far as can be told."""
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
