"""The interval of a paired difference that never contradicts its permutation test."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from analysis.statistics import mean_interval, tied_set
from analysis.statistics.resampling import signs_interval, signs_p

SKEWED = np.array([0.001, 0.002, 0.003, 0.004, 0.006, 0.012, 0.04, 0.129])
"""One unit differs far more than the others: all are on one side, but the spread is large."""


def test_skewed_differences_by_hand() -> None:
    """All eight are positive: p is 2 / 2**8, and 0 is not in the interval, though in Student's."""
    assert signs_p(SKEWED, 9999, np.random.default_rng(0)) == pytest.approx(2 / 256)
    low, high = mean_interval(SKEWED)
    assert low < 0 < high
    low, high = signs_interval(SKEWED)
    assert 0 < low < SKEWED.mean() < high


def test_normal_differences_are_much_like_students() -> None:
    values = np.random.default_rng(1).normal(1, 1, 12)
    assert signs_interval(values) == pytest.approx(mean_interval(values), abs=0.12)
    few = signs_interval(values[:5])
    assert math.isnan(few[0])
    assert math.isnan(few[1])
    assert signs_interval(np.full(6, 0.25)) == pytest.approx((0.25, 0.25))


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.float64,
        st.integers(6, 9),
        elements=st.floats(-1, 1).map(lambda value: round(value, 3)),
    )
)
def test_it_never_contradicts_the_test_of_tied_methods(differences: np.ndarray) -> None:
    low, high = signs_interval(differences)
    assert low <= differences.mean() <= high
    rows = [
        {"method": method, "unit": unit, "seed": 0, "score": value}
        for unit, difference in enumerate(differences)
        for method, value in (("a", difference), ("b", 0.0))
    ]
    tied = tied_set(pd.DataFrame(rows))["tied"].all()
    tolerance = 1e-6  # ends are found by halving
    if tied:
        assert low <= tolerance
        assert high >= -tolerance
    else:
        assert low > -tolerance or high < tolerance


@pytest.mark.slow  # 800 intervals
def test_coverage() -> None:
    """95 % of intervals hold the truth, also for skewed units (400 studies: 92.4 to 97.6 %)."""
    rng = np.random.default_rng(5)
    for shape in (0.0, 4.0):
        held = []
        for _ in range(400):
            units = rng.gamma(shape, 1, (2, 8)) if shape else rng.normal(0, 1, (2, 8))
            low, high = signs_interval(units[0] - units[1], resamples=300)
            held.append(low <= 0 <= high)
        assert 0.924 <= np.mean(held) <= 0.976
