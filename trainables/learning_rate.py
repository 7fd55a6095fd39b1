"""The learning-rate schedule, of torch's networks and of stardist's own model. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable


def learning_rate_factor(schedule: str, steps: int) -> Callable[[int], float]:
    """Return the factor on the peak learning rate as a function of the step.

    Parameters
    ----------
    schedule : {"constant", "cosine"}
        ``cosine``: linear warm-up over 5 % of the steps, then a half cosine down to 1 %.
    steps : int
        Optimiser steps in the whole trial.
    """
    warmup = max(1, round(0.05 * steps))

    def cosine(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return cosine if schedule == "cosine" else lambda step: 1.0
