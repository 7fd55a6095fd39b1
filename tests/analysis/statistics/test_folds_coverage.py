"""The quick form of benchmarks/folds.py: intervals over the groups of all folds."""

from __future__ import annotations

import numpy as np

from benchmarks.folds import FEATURES, Groups, draw, rates, scores


def test_a_group_is_scored_by_a_classifier_that_did_not_see_it() -> None:
    """What is only in its own pixels cannot help: labels by chance are no better than chance."""
    rng = np.random.default_rng(0)
    data = draw(rng, 6)
    half = data._replace(features=data.features[..., :FEATURES])
    assert scores(half, 3).mean() > 0.5
    by_chance = Groups(half.features, rng.random(half.foreground.shape) < 0.5)
    # says foreground for one half of the pixels, at random: IoU 1 / 3
    assert abs(scores(by_chance, 3).mean() - 1 / 3) < 0.05


def test_intervals_are_only_a_little_too_narrow() -> None:
    found = rates(200, 8, 4)
    assert found.covered > 0.88
    assert 0.9 < found.ratio < 1.25
    assert found.missed < 0.12
