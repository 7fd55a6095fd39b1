"""Families of tests: by hand, against all permutations, and what they find and do not find."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.families import family_p, step_down
from analysis.statistics.units import UnitPair

Array = NDArray[np.float64]


def paired(differences: Array | list[float], first: int = 0) -> UnitPair:
    each = np.asarray(differences, float)
    names = tuple(f"u{first + i:02d}" for i in range(len(each)))
    return UnitPair(True, names, names, each, np.zeros(len(each)), "")


def unpaired(a: Array | list[float], b: Array | list[float]) -> UnitPair:
    names_a, names_b = (tuple(f"{k}{i}" for i in range(len(v))) for k, v in (("a", a), ("b", b)))
    return UnitPair(False, names_a, names_b, np.asarray(a, float), np.asarray(b, float), "")


def t_of(each: Array) -> float:
    return float(abs(each.mean()) / (each.std(ddof=1) / math.sqrt(len(each))))


def test_step_down_by_hand() -> None:
    # largest of both: 5, 4, 3, 2; the second alone: 1, 4, 0, 2
    null = np.array([[5.0, 1.0], [2.0, 4.0], [3.0, 0.0], [1.0, 2.0]])
    (found,) = step_down([np.array([5.0, 1.5])], [null])
    assert found.tolist() == [0.25, 0.5]
    # never smaller than that of a larger statistic
    (found,) = step_down([np.array([4.0, 4.0])], [null])
    assert found.tolist() == [0.5, 0.5]
    # two blocks: doubled until one is done
    found, other = step_down([np.array([5.0]), np.array([3.0])], [null[:, :1], null[:, :1]])
    assert (found.tolist(), other.tolist()) == ([0.5], [0.5])
    assert step_down([], []) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_paired_p_are_those_of_all_sign_changes(seed: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(0.4, 1, (7, features))
    found = family_p([paired(column) for column in data.T], [0] * features, resamples=128)
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    null = np.array([[t_of(s * column) for column in data.T] for s in signs])
    observed = null[0]
    order = np.argsort(-observed)
    least = 0.0
    for place, number in enumerate(order):
        left = order[place:]
        share = (null[:, left].max(1) >= observed[number] - 1e-9).mean()
        least = max(least, float(share))
        assert found[number] == pytest.approx(least)


def test_one_unpaired_difference_is_welchs_permutation_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 5), rng.normal(1.5, 2, 6)
    (found,) = family_p([unpaired(a, b)], ["ab"], resamples=1000)
    both = np.concatenate([a, b])

    def welch(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(11) if i not in chosen]
        return abs(float(stats.ttest_ind(both[list(chosen)], both[rest], equal_var=False)[0]))

    values = [welch(chosen) for chosen in itertools.combinations(range(11), 5)]
    assert found == pytest.approx(np.mean(np.array(values) >= welch((0, 1, 2, 3, 4)) - 1e-9))


def test_features_that_repeat_each_other_cost_nothing() -> None:
    each = np.random.default_rng(0).normal(0.5, 1, 8)
    (alone,) = family_p([paired(each)], [0], resamples=256)
    repeated = family_p([paired(each), paired(3 * each), paired(-each)], [0, 0, 0], resamples=256)
    assert repeated.tolist() == pytest.approx([alone] * 3)


def test_many_levels_can_be_told_apart() -> None:
    """91 pairs of 14 levels, each perfectly separated in 12 units: all are found."""
    rng = np.random.default_rng(0)
    levels = [10 * k + rng.normal(0, 0.1, 12) for k in range(14)]
    pairs = [paired(a - b) for a, b in itertools.combinations(levels, 2)]
    assert family_p(pairs, list(range(91)), resamples=999).max() <= 0.05
    sides = [rng.normal(10 * k, 0.1, 8) for k in range(14)]
    some = [unpaired(a, b) for a, b in itertools.combinations(sides, 2)]
    assert family_p(some, list(range(91)), resamples=999).max() <= 0.05


def test_units_that_lack_a_feature_and_too_few_units() -> None:
    each = np.random.default_rng(1).normal(1, 0.3, 9)
    found = family_p(
        [paired(each), paired(each[:7]), paired(each[:5]), unpaired(each[:3], each[3:])],
        ["a", "b", "c", "d"],
        resamples=600,
    )
    assert found[0] <= found[1] <= 0.05
    assert np.isnan(found[2:]).all()
    assert family_p([], [], resamples=10).shape == (0,)


def test_equal_units_are_not_different_and_constant_ones_are() -> None:
    found = family_p([paired([0.0] * 6), paired([2.0] * 6)], [0, 0], resamples=64)
    assert found.tolist() == pytest.approx([1, 2 / 64])


@pytest.mark.parametrize("shape", [4.0, 0.0])
def test_family_errs_in_at_most_5_per_cent(shape: float) -> None:
    """Three features of two methods, correlated, without any difference: 400 studies."""
    rng = np.random.default_rng(7)
    wrong = 0
    for study in range(400):
        common = rng.gamma(shape, size=(10, 1)) if shape else rng.normal(size=(10, 1))
        own = rng.gamma(shape, size=(10, 6)) if shape else rng.normal(size=(10, 6))
        other = rng.gamma(shape, size=(10, 6)) if shape else rng.normal(size=(10, 6))
        each = own - other + 0 * common
        p = family_p([paired(c) for c in each.T], [0] * 6, resamples=199, seed=study)
        wrong += p.min() <= 0.05
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
