"""Statistics: hand-computed tables, planted truths, null data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics import mean_interval
from analysis.statistics.pairs import COLUMNS, TOO_FEW, agreement, compare
from analysis.statistics.resampling import cliffs_deltas, least_p, signs_p, units_p
from analysis.statistics.units import BETWEEN_GROUPS


def cells(values: Mapping[tuple[str, Any], list[float]]) -> pd.DataFrame:
    rows = [(by, unit, v) for (by, unit), found in values.items() for v in found]
    return pd.DataFrame(rows, columns=["method", "image", "area"])


def only(table: pd.DataFrame, **options: object) -> pd.Series:
    found = compare(table, feature="area", by="method", unit="image", **options)  # type: ignore[arg-type]
    assert tuple(found.columns) == COLUMNS
    assert len(found) == 1
    return found.iloc[0]


def study(
    rng: np.random.Generator, units: int, *, paired: bool, effect: float = 0.0, icc: float = 0.5
) -> pd.DataFrame:
    """Draw cells of units whose cells resemble each other."""
    values: dict[tuple[str, object], list[float]] = {}
    for unit in range(units):
        shared = rng.normal(0, math.sqrt(icc / 2))
        for side in "ab" if paired else "ab"[unit % 2]:
            own = shared + rng.normal(0, math.sqrt(icc / 2)) + effect * (side == "b")
            noise = rng.normal(0, math.sqrt(1 - icc), int(rng.integers(5, 60)))
            values[side, unit] = list(own + noise)
    return cells(values)


def test_hand_computed_row() -> None:
    row = only(cells({("a", 1): [1, 2, 3], ("b", 2): [2, 3, 4, 9]}))
    assert (row["n_a"], row["n_b"], row["units_a"], row["units_b"]) == (3, 4, 1, 1)
    assert (row["mean_a"], row["mean_b"], row["difference"]) == (2, 4.5, -2.5)
    assert (row["median_a"], row["median_b"]) == (2, 3.5)
    assert row["u"] == 2  # (2, 2) and (3, 3) are ties, (3, 2) is larger: 1/2 + 1/2 + 1
    assert row["cliffs_delta"] == pytest.approx((1 - 9) / 12)
    u = stats.mannwhitneyu([1, 2, 3], [2, 3, 4, 9], alternative="two-sided")
    assert row["p_mann_whitney"] == u.pvalue
    assert row["note"] == TOO_FEW
    assert math.isnan(row["p_unit"])
    assert math.isnan(row["delta_low"])


def test_paired_p_is_that_of_all_swaps_by_hand() -> None:
    d = np.array([0.3, -0.1, 0.5, 0.2, 0.9, 0.4])

    def t(v: NDArray[np.float64]) -> float:
        return float(abs(v.mean()) / v.std(ddof=1))

    swaps = [t(d * s) for s in itertools.product([1, -1], repeat=6)]
    expected = np.mean([s >= t(d) - 1e-12 for s in swaps])
    assert signs_p(d, 9999, np.random.default_rng(0)) == pytest.approx(expected)
    table = cells({(m, u): [d[u] if m == "a" else 0.0] * (u + 1) for m in "ab" for u in range(6)})
    row = only(table)
    assert row["design"] == "paired"
    assert row["p_unit"] == pytest.approx(expected)
    assert row["unit_difference"] == pytest.approx(d.mean())


def test_unpaired_p_is_that_of_all_permutations_by_hand() -> None:
    a, b = np.array([1.0, 2.0, 1.5, 1.2]), np.array([3.0, 2.8, 4.1, 1.9])
    everything = np.concatenate([a, b])

    def welch(x: np.ndarray, y: np.ndarray) -> float:
        return float(abs(x.mean() - y.mean()) / math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 4))

    found = [
        welch(everything[list(c)], np.delete(everything, list(c)))
        for c in itertools.combinations(range(8), 4)
    ]
    expected = np.mean([f >= welch(a, b) - 1e-12 for f in found])
    assert units_p(a, b, 9999, np.random.default_rng(0)) == pytest.approx(expected)
    values: dict[tuple[str, object], list[float]] = {("a", i): [v] for i, v in enumerate(a)}
    values |= {("b", 10 + i): [v, v] for i, v in enumerate(b)}
    row = only(cells(values))
    assert row["design"] == "unpaired"
    assert row["p_unit"] == pytest.approx(expected)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert row["unit_difference_low"] == pytest.approx(interval.low)
    assert row["unit_difference_high"] == pytest.approx(interval.high)


def test_least_p_is_reached_by_perfect_separation() -> None:
    for n in (6, 8):
        p = signs_p(np.linspace(1, 1.1, n), 9999, np.random.default_rng(0))
        assert p == pytest.approx(least_p(n, n, True, 9999)) == pytest.approx(2 / 2**n)
    a, b = np.linspace(0, 1, 4), np.linspace(9, 10, 4)
    assert units_p(a, b, 9999, np.random.default_rng(0)) == pytest.approx(2 / 70)
    assert least_p(4, 4, False, 9999) == pytest.approx(2 / 70)
    assert least_p(3, 5, False, 9999) == pytest.approx(1 / 56)
    assert least_p(40, 40, True, 999) == 1 / 1000


@pytest.mark.parametrize("units", [2, 5])
def test_below_six_units_no_p_value(units: int) -> None:
    row = only(study(np.random.default_rng(0), units, paired=True))
    assert row["note"] == TOO_FEW
    for name in ("p_unit", "p_least", "difference_low", "delta_high", "unit_difference_low"):
        assert math.isnan(row[name])
    assert not math.isnan(row["unit_difference"])


@pytest.mark.parametrize("paired", [False, True])
def test_planted_effect_is_found_and_null_is_not(paired: bool) -> None:
    rng = np.random.default_rng(3)
    row = only(study(rng, 20, paired=paired, effect=2.0))
    assert row["p_unit"] < 0.01
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0
    assert row["delta_low"] < row["cliffs_delta"] < row["delta_high"] < 0
    nulls = [only(study(rng, 12, paired=paired), resamples=499) for _ in range(60)]
    assert np.mean([r["p_unit"] <= 0.05 for r in nulls]) < 0.15
    assert np.mean([r["p_mann_whitney"] <= 0.05 for r in nulls]) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_false_positive_rate_over_2000_null_studies(paired: bool) -> None:
    rng = np.random.default_rng(0)
    found = np.zeros(2)
    for _ in range(2000):
        row = only(study(rng, int(rng.integers(8, 21)), paired=paired), resamples=1999)
        found += row["p_unit"] <= 0.05, row["p_mann_whitney"] <= 0.05
    ours, naive = found / 2000
    assert 0.04 <= ours <= 0.06
    assert naive > 3 * ours


def test_partly_shared_units() -> None:
    rng = np.random.default_rng(1)
    table = study(rng, 10, paired=True)
    without = table[~((table["method"] == "b") & (table["image"] >= 8))]
    row = only(without)
    assert row["design"] == "paired"
    assert "within the 8 units" in row["note"]
    few = table[~((table["method"] == "b") & (table["image"] >= 2))]
    row = only(few)
    assert row["design"] == "unpaired"
    assert row["units_b"] == 2
    assert TOO_FEW in row["note"]
    assert "without the 2 units" in row["note"]


def test_bootstrap_deltas_are_those_of_repeated_units() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 12).astype(float), rng.integers(0, 6, 9).astype(float)
    unit_a, unit_b = rng.integers(0, 4, 12), rng.integers(0, 4, 9)
    draws = rng.multinomial(4, np.full(4, 0.25), size=20)
    for draw, found in zip(draws, cliffs_deltas(a, b, unit_a, unit_b, draws, draws)):
        x, y = np.repeat(a, draw[unit_a]), np.repeat(b, draw[unit_b])
        if len(x) and len(y):
            assert found == pytest.approx(np.sign(x[:, None] - y[None]).mean())
        else:
            assert math.isnan(found)


def test_same_seed_same_numbers_and_equal_values_differ_nowhere() -> None:
    table = study(np.random.default_rng(5), 30, paired=False)
    pd.testing.assert_series_equal(only(table), only(table))
    table["area"] = 1.0
    row = only(table)
    assert row["p_unit"] == row["p_mann_whitney"] == 1
    assert row["cliffs_delta"] == 0


def test_missing_values_are_left_out_and_empty_groups_are_named() -> None:
    table = study(np.random.default_rng(0), 8, paired=True)
    table.loc[table["method"] == "b", "area"] = np.nan
    row = only(table)
    assert row["n_b"] == 0
    assert row["note"] == "no cells in b"
    assert compare(table.iloc[:0], feature="area", by="method", unit="image").empty
    assert compare(table[table["method"] == "a"], feature="area", by="method", unit="image").empty


def test_bad_requests() -> None:
    table = cells({("a", 1): [1.0], ("b", 1): [2.0]})
    with pytest.raises(KeyError, match="frame"):
        compare(table, feature="area", by="method", unit="frame")
    with pytest.raises(ValueError, match="independent unit"):
        compare(table, feature="area", by="image", unit="image")
    with pytest.raises(ValueError, match="is not numeric"):
        compare(table, feature="method", by="method", unit="image")


def test_too_few_on_one_side_is_too_few() -> None:
    values = {("a", i): [float(i)] for i in range(9)} | {("b", 20 + i): [9.0 + i] for i in range(3)}
    row = only(cells(values))  # twelve units, but no interval of a mean of three
    assert TOO_FEW in row["note"]
    assert math.isnan(row["p_unit"])
    assert math.isnan(row["unit_difference_low"])
    row = only(cells(values | {("b", 30): [12.0]}))
    assert row["p_unit"] == pytest.approx(2 / math.comb(13, 4))
    assert row["unit_difference_low"] < row["unit_difference"] < row["unit_difference_high"] < 0


def test_paired_intervals_by_hand() -> None:
    """The jackknife of a mean of units is Student's t."""
    d = np.array([0.3, -0.1, 0.5, 0.2, 0.9, 0.4])
    values = {("b", i): [float(i)] for i in range(6)} | {("a", i): [i + d[i]] for i in range(6)}
    row = only(cells({k: values[k] for k in sorted(values)}))
    low, high = stats.t.interval(0.95, 5, d.mean(), stats.sem(d))
    for name in ("difference", "unit_difference"):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high))


def wells(effect: float = 0.0) -> pd.DataFrame:
    """Two wells of each treatment with 10 fields each, which share their well's conditions."""
    rng = np.random.default_rng(0)
    rows = []
    for well, treatment in (("w1", "a"), ("w2", "b"), ("w3", "a"), ("w4", "b")):
        own = rng.normal(0, 1) + effect * (treatment == "b")
        rows += [
            (treatment, f"{well}/{field}", well, own + rng.normal(0, 0.1))
            for field in range(10)
            for _ in range(3)
        ]
    return pd.DataFrame(rows, columns=["method", "image", "group", "area"])


def test_what_differs_between_groups_is_tested_over_groups() -> None:
    row = only(wells())
    assert (row["units_a"], row["units_b"], row["design"]) == (2, 2, "unpaired")
    assert BETWEEN_GROUPS in row["note"]
    assert TOO_FEW in row["note"]
    assert math.isnan(row["p_unit"])
    # fields are units of what differs within a well
    table = wells()
    table["method"] = np.resize(["a", "b", "b"], len(table))
    row = only(table)
    assert (row["units_a"], row["design"], row["note"]) == (40, "paired", "")
    assert row["p_unit"] > 0.05
    # patients that are more than one well are units as they are
    table = wells().rename(columns={"image": "field"}).assign(image="p")
    table["image"] += (table["group"].isin(["w3", "w4"])).astype(str)
    assert BETWEEN_GROUPS not in only(table)["note"]


def test_mean_interval_is_students_t() -> None:
    values = np.random.default_rng(0).gamma(4, 1, 9)
    expected = stats.t.interval(0.9, 8, values.mean(), stats.sem(values))
    assert mean_interval([*values, math.nan], level=0.9) == pytest.approx(expected)
    assert np.isnan(mean_interval(values[:5])).all()
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            mean_interval(values, level=level)
    with pytest.raises(ValueError, match="one value per unit"):
        mean_interval(values.reshape(3, 3))


def test_agreement_by_hand() -> None:
    pairs = pd.DataFrame({"t": [1.0, 2.0, 3.0], "p": [1.5, 2.5, 3.5], "u": [0, 1, 2]})
    found = agreement(pairs, feature_true="t", feature_pred="p", unit="u")
    assert found["bias"] == pytest.approx(0.5)
    assert found["sd"] == pytest.approx(0)
    # variances 2/3 each, covariance 2/3, squared bias 1/4
    assert found["ccc"] == pytest.approx(2 * (2 / 3) / (4 / 3 + 1 / 4))
    assert math.isnan(found["bias_low"])
    assert (found["n"], found["units"]) == (3, 3)
    same = agreement(pairs.assign(p=pairs["t"]), feature_true="t", feature_pred="p", unit="u")
    assert same["ccc"] == pytest.approx(1)


def test_agreement_counts_units_not_cells() -> None:
    """Three cells of one unit are 1 too large, one cell of the other is 5 too large."""
    pairs = pd.DataFrame({"t": [1.0, 2, 3, 8], "p": [2.0, 3, 4, 13], "u": [0, 0, 0, 1]})
    found = agreement(pairs, feature_true="t", feature_pred="p", unit="u")
    assert found["bias"] == pytest.approx(3)
    # each unit's mean square is 4; four cells
    assert found["sd"] == pytest.approx(math.sqrt(4 * 4 / 3))
    assert found["loa_low"] == pytest.approx(3 - 1.96 * found["sd"])


def test_agreement_interval_holds_the_planted_bias() -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(20), 15)
    true = rng.normal(100, 10, 300)
    pred = true + 4 + rng.normal(0, 2, 20)[unit] + rng.normal(0, 1, 300)
    pairs = pd.DataFrame({"t": true, "p": pred, "u": unit})
    found = agreement(pairs, feature_true="t", feature_pred="p", unit="u")
    assert found["bias_low"] < 4 < found["bias_high"]
    assert found["bias_high"] - found["bias_low"] > 1.2  # four SDs of 2 / sqrt(20), not of cells
    assert found["loa_low"] < found["bias"] < found["loa_high"]
    assert found["ccc_low"] < found["ccc"] < found["ccc_high"] < 1
