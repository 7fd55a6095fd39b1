"""ASHA in a resumed sweep decides as in one that was never interrupted."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweep.search.asha import Halving
from sweep.trial import to_tune
from trainables.config import TrialConfig

EPOCHS, TRIALS = 20, 16
CURVES = np.cumsum(np.random.default_rng(0).random((TRIALS, EPOCHS)), axis=1) / EPOCHS


def config(seed: int) -> TrialConfig:
    return TrialConfig(seed=seed, epochs=EPOCHS)


def rows(seed: int, epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": e, "val_dataset_iou": CURVES[seed][e - 1]} for e in range(1, epochs + 1)]


def scheduler() -> Halving:
    return Halving("f", EPOCHS, 2)


def train(made: Halving, seed: int, first: int = 1, last: int = EPOCHS) -> int:
    """Train a trial until it is stopped; return its last epoch."""
    trial = SimpleNamespace(
        trial_id=f"{next(NAMES)}", config={"trial": {"config": config(seed).model_dump()}}
    )
    made.on_trial_add(None, trial)
    for epoch in range(first, last + 1):
        result = to_tune(epoch, EPOCHS, CURVES[seed][:epoch].max())
        if made.on_trial_result(None, trial, result) == "STOP":
            made.on_trial_complete(None, trial, result)
            return epoch
    if last == EPOCHS:
        made.on_trial_complete(None, trial, result)
    return last


NAMES = itertools.count()


@pytest.mark.parametrize("interrupted", range(1, TRIALS))
def test_a_resumed_sweep_stops_the_same_trials(interrupted: int) -> None:
    calm, rough = scheduler(), scheduler()
    undisturbed = [train(calm, seed) for seed in range(TRIALS)]
    assert 0 < sum(epochs < EPOCHS for epochs in undisturbed) < TRIALS
    for seed in range(interrupted):
        train(rough, seed)
    half = min(9, undisturbed[interrupted])
    train(rough, interrupted, last=half)  # it is running when the sweep ends
    resumed = scheduler()
    for seed in range(interrupted):
        resumed.remember(config(seed), rows(seed, undisturbed[seed]))
    resumed.remember(config(interrupted), rows(interrupted, half))
    later = [
        train(resumed, seed, first=half + 1 if seed == interrupted else 1)
        for seed in range(interrupted, TRIALS)
        if not (seed == interrupted and half == undisturbed[interrupted])
    ]
    assert later == undisturbed[TRIALS - len(later) :]


def test_without_what_was_before_others_are_stopped() -> None:
    calm, empty = scheduler(), scheduler()
    undisturbed = [train(calm, seed) for seed in range(TRIALS)]
    assert [train(empty, seed) for seed in range(8, TRIALS)] != undisturbed[8:]


def test_a_trial_without_validation_yet_is_not_judged() -> None:
    made = scheduler()
    made.remember(config(0), [{"epoch": 1, "val_dataset_iou": None}])
    assert train(made, 1) == EPOCHS
    assert Halving("f", 5, grace_epochs=300)
