"""The tied set: cases by hand, properties, and planted truths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics import tied, tied_set
from analysis.statistics.tied import _studentised


def table(values: NDArray[np.float64]) -> pd.DataFrame:
    """Make the scores of (methods, seeds, units): methods are called a, b, ..."""
    rows = [
        {"method": chr(97 + m), "seed": s, "unit": f"u{u}", "score": values[m, s, u]}
        for m, s, u in itertools.product(*map(range, values.shape))
    ]
    return pd.DataFrame(rows)


def drawn(
    seed: int,
    methods: int,
    units: int,
    seeds: int = 1,
    retraining: float = 0.0,
    leads: tuple[float, ...] = (),
) -> pd.DataFrame:
    """Draw scores: units differ by .08, methods on a unit by .04, trainings by `retraining`."""
    rng = np.random.default_rng(seed)
    values = 0.7 + rng.normal(0, 0.08, units) + rng.normal(0, 0.04, (methods, 1, units))
    values = values + rng.normal(0, retraining, (methods, seeds, 1))
    values = values + rng.normal(0, 0.02, (methods, seeds, units))
    values[: len(leads)] += np.array(leads)[:, None, None]
    return table(values)


def test_two_methods_by_hand() -> None:
    a = np.array([0.9, 0.8, 0.85, 0.7, 0.95, 0.9])
    lead = np.array([0.03, 0.01, 0.02, -0.01, 0.05, 0.02])
    found = tied_set(table(np.stack([a - lead, a])[:, None]))
    assert found["method"].tolist() == ["b", "a"]
    assert found["score"].tolist() == pytest.approx([a.mean(), (a - lead).mean()])
    swapped = lead * np.array(list(itertools.product([1, -1], repeat=6)))
    t = np.abs(swapped.mean(1)) / swapped.std(1, ddof=1)
    assert found["p"].tolist() == [1.0, np.mean(t >= t[0] - 1e-12)]
    assert found["tied"].tolist() == [True, True]
    assert tied_set(table(np.stack([a - lead, a])[:, None]), alpha=0.2)["tied"].tolist() == [
        True,
        False,
    ]
    low, high = stats.t.interval(0.95, 5, a.mean(), stats.sem(a))
    assert (found["low"][0], found["high"][0]) == pytest.approx((low, high))


def test_a_difference_in_all_six_units_is_found_and_no_smaller_number_of_units_can() -> None:
    a = np.array([0.9, 0.8, 0.85, 0.7, 0.95, 0.9])
    b = a - np.array([0.03, 0.04, 0.035, 0.03, 0.04, 0.035])
    values = np.stack([b, a])[:, None]
    assert tied_set(table(values))["tied"].tolist() == [True, False]
    few = tied_set(table(values[:, :, :5]))
    assert few["tied"].all()
    assert few[["low", "high", "p"]].isna().all(axis=None)


def test_trainings_count_where_methods_were_trained_again() -> None:
    """A lead that is certain for one checkpoint is none where retraining moves as far."""
    units = np.linspace(-0.1, 0.1, 8)
    noise = np.random.default_rng(0).normal(0, 0.002, (2, 3, 8))
    once = 0.8 + units + noise
    once[1] += 0.03
    assert tied_set(table(once[:, :1]))["tied"].tolist() == [True, False]
    shifts = np.array([[-0.06, 0.0, 0.06], [-0.04, 0.02, 0.05]])[:, :, None]
    again = tied_set(table(once + shifts))
    assert again["tied"].all()
    own = (again["high"] - again["low"]).to_numpy()
    assert (own > 0.05).all()  # three trainings that are .06 apart say little of their mean


def test_studentised_differences_are_those_of_scipy() -> None:
    scores = np.random.default_rng(2).normal(0.8, 0.1, (9, 3))
    found = _studentised(scores[None])[0]
    for i, j in itertools.permutations(range(3), 2):
        assert found[i, j] == pytest.approx(stats.ttest_rel(scores[:, i], scores[:, j]).statistic)
    assert found.diagonal().tolist() == [0, 0, 0]


def test_a_clear_winner_is_found_and_a_bad_method_hides_nothing() -> None:
    found = tied_set(drawn(3, 4, 12, leads=(0.12,)))
    assert found["tied"].tolist() == [True, False, False, False]
    assert found["method"][0] == "a"
    # b is worst by far; a still leads the rest
    found = tied_set(drawn(4, 5, 12, leads=(0.12, -0.5)))
    assert found["method"].tolist()[::4] == ["a", "b"]
    assert found["tied"].tolist() == [True, False, False, False, False]
    seeds = tied_set(drawn(5, 4, 20, seeds=3, retraining=0.02, leads=(0.12,)))
    assert seeds["tied"].tolist() == [True, False, False, False]


def test_equal_methods_stay_together() -> None:
    one = drawn(6, 1, 8)["score"].to_numpy()
    found = tied_set(table(np.stack([one, one, one])[:, None]))
    assert found["tied"].all()
    assert found["p"].tolist() == [1, 1, 1]
    constant = tied_set(table(np.full((3, 2, 8), 0.7)))
    assert constant["tied"].all()
    # ahead by the same amount everywhere: no doubt at all
    ahead = tied_set(table(np.stack([one, one + 0.01])[:, None]))
    assert ahead["tied"].tolist() == [True, False]


@given(st.integers(0, 10**6), st.sampled_from([1, 2]), st.permutations(range(4)))
def test_order_and_scale_change_nothing(seed: int, seeds: int, order: list[int]) -> None:
    scores = drawn(seed, 4, 7, seeds=seeds, leads=(0.08, 0.02))
    expected = tied_set(scores).set_index("method")
    changed = scores.sample(frac=1, random_state=seed)
    changed["method"] = changed["method"].map(dict(zip("abcd", np.array(list("abcd"))[order])))
    changed["score"] = 3 * changed["score"] + 5
    found = tied_set(changed).set_index("method")
    for old, new in zip("abcd", np.array(list("abcd"))[order]):
        before, after = (
            table.loc[name, ["score", "low", "p"]].to_numpy(float)
            for table, name in ((expected, old), (found, new))
        )
        assert after[:2] == pytest.approx(3 * before[:2] + 5)
        assert after[2] == pytest.approx(before[2], abs=0.05)
    assert found["tied"].iloc[0]
    assert (np.diff(found["score"]) <= 0).all()


def test_units_without_a_score_are_left_out_and_one_method_is_tied_with_itself() -> None:
    scores = drawn(7, 2, 8)
    scores.loc[scores["unit"] == "u3", "score"] = math.nan
    expected = tied_set(scores[scores["unit"] != "u3"])
    pd.testing.assert_frame_equal(tied_set(scores), expected)
    alone = tied_set(scores[scores["method"] == "a"])
    assert alone["tied"].tolist() == [True]
    none = tied_set(scores.iloc[:0])
    assert none.empty
    assert list(none) == ["method", "score", "low", "high", "tied", "p"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="unit"), "scores have no column unit"),
        (lambda t: t.iloc[1:], "no score of method a, seed 0 on unit u0"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "two scores of method a, seed 0 on unit u0"),
    ],
)
def test_incomplete_scores_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tied_set(change(drawn(8, 2, 6)))


def test_methods_with_fewer_seeds_are_taken_to_vary_like_the_others() -> None:
    scores = drawn(9, 3, 12, seeds=3, retraining=0.03)
    one_seed = scores[(scores["method"] != "c") | (scores["seed"] == 0)]
    found = tied_set(one_seed).set_index("method")
    width = found["high"] - found["low"]
    assert width["c"] > max(width["a"], width["b"])


def test_many_methods_are_compared_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a whole study has: never more pairs at once than fit, and the same answer."""
    scores = drawn(10, 40, 12, leads=(0.3, 0.3))
    largest: list[int] = []
    studentised = tied._studentised

    def watched(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found = studentised(values)
        largest.append(found.size)
        return found

    monkeypatch.setattr(tied, "_studentised", watched)
    found = tied_set(scores)
    assert found.loc[found["tied"], "method"].tolist() == found["method"][:2].tolist()
    assert set(found["method"][:2]) == {"a", "b"}
    assert max(largest) <= tied.BLOCK
    small = 40 * 40 * 16  # the swaps of two methods, all made, are fewer
    monkeypatch.setattr(tied, "BLOCK", small)
    largest.clear()
    again = tied_set(scores)
    assert max(largest) <= small
    assert again["tied"].tolist() == found["tied"].tolist()
