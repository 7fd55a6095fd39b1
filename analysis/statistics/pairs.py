"""Which differences are real: between methods, between populations, and with the truth.

Cells of one image, field or track resemble each other, so they are not independent: a test that
treats them as independent finds differences that do not exist, several times more often than its
p-value claims. Here the paper's test of single cells stands beside one of independent units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.intervals import jackknife_interval, without_each
from analysis.statistics.resampling import (
    FEWEST_UNITS,
    cliffs_deltas,
    least_p,
    ratio_of_sums,
    signs_p,
    units_p,
)
from analysis.statistics.units import BETWEEN_GROUPS, UnitPair, pair_units, unit_numbers

RESAMPLES = 9999
"""Number of permutations of units, unless fewer are possible."""
TOO_FEW = "too few independent units"
COLUMNS = (
    "feature",
    "a",
    "b",
    "n_a",
    "n_b",
    "units_a",
    "units_b",
    "design",
    "mean_a",
    "mean_b",
    "median_a",
    "median_b",
    "difference",
    "difference_low",
    "difference_high",
    "u",
    "p_mann_whitney",
    "cliffs_delta",
    "delta_low",
    "delta_high",
    "unit_difference",
    "unit_difference_low",
    "unit_difference_high",
    "p_unit",
    "p_least",
    "note",
)
Array = NDArray[np.float64]


# Long: its docstring describes a table of 26 columns.
def compare(
    objects: pd.DataFrame,
    *,
    feature: str,
    by: str,
    unit: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare a feature between all pairs of groups of cells.

    Parameters
    ----------
    objects : DataFrame
        One row per cell. Rows with a feature that is not finite, or without group or unit, are
        left out.
    feature : str
        Column with the feature's values.
    by : str
        Column with the groups: method, population, ...
    unit : str
        Column of what is independent of each other: image, field, track, patient, ... The same
        value in two groups means the same unit. Where `objects` have a column ``group`` (of
        images that share a specimen, a well, a film) and two sets of cells lie in different
        groups, the groups are their units, whatever `unit` says, and `note` says so.
    resamples : int
        Permutations for `p_unit`.
    seed : int
        Random seed.

    Returns
    -------
    DataFrame
        One row per pair of groups, in the order in which the groups appear:

        - feature, a, b; n_a, n_b: numbers of cells; units_a, units_b: numbers of units
        - design: ``paired`` if units contain cells of both groups, else ``unpaired``
        - mean_a, mean_b, median_a, median_b, and difference = mean_a - mean_b, over cells
        - u, p_mann_whitney: Mann-Whitney U of a, and its two-sided p over single cells
          (`scipy.stats.mannwhitneyu`: exact with at most 8 cells in a group and no ties, else
          normal approximation with tie and continuity correction). It assumes that cells are
          independent
        - cliffs_delta: P(a > b) - P(a < b) over all pairs of cells, from -1 to 1 (Cliff 1993,
          doi:10.1037/0033-2909.114.3.494)
        - unit_difference: mean over units of the difference of their means (paired), or the
          difference of the means of units; every unit counts the same
        - p_unit: two-sided, by permutation. Paired: the labels a and b are swapped within units.
          Unpaired: units are permuted between a and b
        - p_least: the smallest p that so few units could give
        - \*_low, \*_high: 95 % confidence intervals that count units. Of unit_difference by
          Student's t (paired) or Welch's; of difference and cliffs_delta (as delta) by the
          jackknife over units. How often they hold the truth is in docs/statistics.md
        - note: what to know of the row; with fewer than six paired units, or four on a side,
          'too few independent units', and no p_unit and no intervals

    Raises
    ------
    KeyError
        When a column is missing.
    ValueError
        When the feature is not numeric, or `unit` and `by` are the same column.

    Notes
    -----
    Groups that share only some units are compared within the shared units if there are at least
    six of these, else without the shared units. The note says so.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    parts = cells_of(objects, feature, by, unit)
    rows = []
    for number, (a, b) in enumerate(combinations(parts, 2)):
        rng = np.random.default_rng([seed, number])
        found = _pair(parts[a], parts[b], resamples, rng)
        rows.append({"feature": feature, "a": a, "b": b, **found})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def cells_of(objects: pd.DataFrame, feature: str, by: str, unit: str) -> dict[Any, pd.DataFrame]:
    """Return the cells of each group, in the order in which the groups appear; see `compare`.

    Returns
    -------
    dict of DataFrame
        Columns value, by, unit and group of the cells that count, by name of the group.
    """
    for column in (feature, by, unit):
        if column not in objects:
            raise KeyError(
                f"no column {column!r} in the object table: {', '.join(map(str, objects))}"
            )
    if unit == by:
        raise ValueError(f"{by!r} cannot be both the groups to compare and the independent unit")
    try:
        numbers = pd.to_numeric(objects[feature]).to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError):
        raise ValueError(f"column {feature!r} is not numeric") from None
    # who compares groups themselves has said what their units are
    group = "group" if "group" in objects and by != "group" else unit
    columns = {"by": by, "unit": unit, "group": group}
    taken = {name: objects[column].to_numpy(object) for name, column in columns.items()}
    table = pd.DataFrame({"value": numbers, **taken})
    for name in ("unit", "group"):  # compared often; as categories, by their numbers
        table[name] = table[name].astype("category")
    levels = [level for level in table["by"].drop_duplicates() if not pd.isna(level)]
    table = table[np.isfinite(table["value"]) & table["by"].notna() & table["unit"].notna()]
    return {level: table.loc[table["by"] == level] for level in levels}


def _pair(
    a: pd.DataFrame, b: pd.DataFrame, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    values_a, values_b = a["value"].to_numpy(float), b["value"].to_numpy(float)
    row: dict[str, Any] = dict.fromkeys(COLUMNS[3:], math.nan)
    row.update(
        n_a=len(a),
        n_b=len(b),
        units_a=a["unit"].nunique(),
        units_b=b["unit"].nunique(),
        design="",
        note="",
    )
    if not len(a) or not len(b):
        row["note"] = "no cells in " + " and ".join(n for n, t in (("a", a), ("b", b)) if t.empty)
        return row
    u = stats.mannwhitneyu(values_a, values_b, alternative="two-sided", method="auto")
    row.update(
        mean_a=values_a.mean(),
        mean_b=values_b.mean(),
        median_a=np.median(values_a),
        median_b=np.median(values_b),
        difference=values_a.mean() - values_b.mean(),
        u=float(u.statistic),
        p_mann_whitney=float(u.pvalue),
        cliffs_delta=2 * float(u.statistic) / (len(a) * len(b)) - 1,
    )
    pair, a, b = pair_units(a, b)
    row["note"] = pair.note
    if pair.note == BETWEEN_GROUPS:
        row.update(units_a=len(pair.units_a), units_b=len(pair.units_b))
    row["design"] = "paired" if pair.paired else "unpaired"
    row.update(_by_units(pair, a, b, resamples, rng))
    return row


def _by_units(
    pair: UnitPair, a: pd.DataFrame, b: pd.DataFrame, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return what counts independent units: p, and intervals."""
    found: dict[str, Any] = {"unit_difference": pair.difference}
    if not pair.enough:
        return {**found, "note": "; ".join(n for n in (TOO_FEW, pair.note) if n)}
    units_a, units_b = len(pair.units_a), len(pair.units_b)
    if pair.paired:
        found["p_unit"] = signs_p(pair.means_a - pair.means_b, resamples, rng)
    else:
        found["p_unit"] = units_p(pair.means_a, pair.means_b, resamples, rng)
    found["p_least"] = least_p(units_a, units_b, pair.paired, resamples)
    unit_a, unit_b = (unit_numbers(t)[1] for t in (a, b))
    values_a, values_b = a["value"].to_numpy(float), b["value"].to_numpy(float)
    draws_a, draws_b = without_each(units_a, units_b, pair.paired)
    differences = ratio_of_sums(draws_a, *_totals(values_a, unit_a, units_a))
    differences -= ratio_of_sums(draws_b, *_totals(values_b, unit_b, units_b))
    deltas = cliffs_deltas(values_a, values_b, unit_a, unit_b, draws_a, draws_b)
    sides = None if pair.paired else (units_a, units_b)
    intervals = {
        "unit_difference": pair.interval(),
        "difference": jackknife_interval(differences, sides),
        "delta": jackknife_interval(deltas, sides),
    }
    for name, (low, high) in intervals.items():
        found[f"{name}_low"], found[f"{name}_high"] = low, high
    for end in ("delta_low", "delta_high"):
        found[end] = min(1.0, max(-1.0, found[end]))
    return found


def _totals(values: Array, unit: NDArray[np.int64], units: int) -> tuple[Array, Array]:
    """Return the sum and the number of each unit's values."""
    return (
        np.bincount(unit, values, minlength=units).astype(float),
        np.bincount(unit, minlength=units).astype(float),
    )


AGREEMENT = (
    "bias",
    "bias_low",
    "bias_high",
    "sd",
    "loa_low",
    "loa_high",
    "ccc",
    "ccc_low",
    "ccc_high",
)


def agreement(
    pairs: pd.DataFrame,
    *,
    feature_true: str,
    feature_pred: str,
    unit: str,
) -> Mapping[str, float]:
    """Measure how well predicted values agree with true ones, for cells that have both.

    Parameters
    ----------
    pairs : DataFrame
        One row per cell.
    feature_true, feature_pred : str
        Columns with the two values.
    unit : str
        Column of what is independent.

    Returns
    -------
    mapping
        bias (mean over units of their mean pred - true), sd of these differences of cells, loa_low
        and loa_high (limits of agreement, bias -+ 1.96 sd: Bland and Altman 1986,
        doi:10.1016/S0140-6736(86)90837-8), ccc (concordance correlation, Lin 1989,
        doi:10.2307/2532051: 1 only when all values are equal), each of bias and ccc with a 95 %
        confidence interval (bias_low, ...) by the jackknife over units, NaN with fewer than six;
        n, units. Every unit has the same weight, however many cells it has.

    Raises
    ------
    KeyError
        When a column is missing.
    """
    for column in (feature_true, feature_pred, unit):
        if column not in pairs:
            raise KeyError(f"no column {column!r} in the table: {', '.join(map(str, pairs))}")
    table = pairs[[feature_true, feature_pred, unit]].dropna()
    true, pred = table[feature_true].to_numpy(float), table[feature_pred].to_numpy(float)
    names, index = np.unique(table[unit].astype(str), return_inverse=True)
    result = dict.fromkeys(AGREEMENT, math.nan)
    result.update(n=len(table), units=len(names))
    if not len(table):
        return result
    # means of each unit, from which bias and concordance without any unit follow; taken relative
    # to the mean of all, so that squares lose no digits
    x, y = true - true.mean(), pred - true.mean()
    moments = (np.ones_like(x), x, y, x * x, y * y, x * y)
    means = np.stack([np.bincount(index, v) for v in moments]) / np.bincount(index)
    bias, ccc = _bias_and_ccc(np.ones((1, len(names))), means)
    sd = math.nan
    if len(table) > 1:
        squares = np.bincount(index, (y - x - bias[0]) ** 2) / np.bincount(index)
        sd = math.sqrt(squares.mean() * len(table) / (len(table) - 1))
    result.update(
        bias=float(bias[0]),
        sd=sd,
        loa_low=float(bias[0]) - 1.96 * sd,
        loa_high=float(bias[0]) + 1.96 * sd,
        ccc=float(ccc[0]),
    )
    if len(names) >= FEWEST_UNITS:
        biases, cccs = _bias_and_ccc(without_each(len(names), len(names), True)[0], means)
        result["bias_low"], result["bias_high"] = jackknife_interval(biases)
        low, high = jackknife_interval(cccs)
        result["ccc_low"], result["ccc_high"] = max(-1.0, low), min(1.0, high)
    return result


def _bias_and_ccc(draws: NDArray[Any], means: Array) -> tuple[Array, Array]:
    n, x, y, xx, yy, xy = (draws @ one for one in means)
    mx, my = x / n, y / n
    vx, vy, cov = xx / n - mx**2, yy / n - my**2, xy / n - mx * my
    below = vx + vy + (mx - my) ** 2
    ccc = np.divide(2 * cov, below, out=np.full(len(n), np.nan), where=below > 0)
    return my - mx, ccc
