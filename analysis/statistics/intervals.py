"""Intervals of means of independent units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.resampling import FEWEST_UNITS

LEVEL = 0.95
FEWEST_UNPAIRED = 4
"""On each side; 4 against 4 can reach p = 2 / 70 by permutation, 3 against 3 only 2 / 20."""
Values = Sequence[float] | NDArray[np.floating]


def mean_interval(values: Values, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the confidence interval of a mean: Student's t over independent units.

    Parameters
    ----------
    values : (units,) array
        One value per independent unit, such as the mean of a feature in each field; those that
        are not finite are left out.
    level : float
        How often the interval is to hold the true mean, between 0 and 1.

    Returns
    -------
    low, high : float
        In the units of `values`. NaN with fewer than six units, which are too few to tell how
        far their mean is from the true one.

    Raises
    ------
    ValueError
        For values that are not one-dimensional, or a level that is not between 0 and 1.

    Notes
    -----
    Student 1908 (doi:10.1093/biomet/6.1.1). How often it holds the true mean of skewed units is
    in docs/statistics.md.

    Examples
    --------
    >>> low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    >>> round(low, 3), round(high, 3)
    (1.537, 5.463)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    array = np.asarray(values, float)
    if array.ndim != 1:
        raise ValueError(f"one value per unit, not an array of shape {array.shape}")
    array = array[np.isfinite(array)]
    if len(array) < FEWEST_UNITS:
        return math.nan, math.nan
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    return around(float(array.mean()), error, len(array) - 1, level)


def difference_interval(a: Values, b: Values, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the confidence interval of the mean of `a` minus that of `b`, of separate units.

    Welch's: the units of both may vary by different amounts.

    Parameters
    ----------
    a, b : (units_a,), (units_b,) array
        One finite value per independent unit.
    level : float

    Returns
    -------
    low, high : float
        NaN with fewer than four units on a side.

    Notes
    -----
    Welch 1947 (doi:10.1093/biomet/34.1-2.28).
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if min(len(a), len(b)) < FEWEST_UNPAIRED:
        return math.nan, math.nan
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    freedom = degrees_of_freedom(parts, np.array([len(a) - 1, len(b) - 1]))
    return around(float(a.mean() - b.mean()), math.sqrt(parts.sum()), freedom, level)


def degrees_of_freedom(parts: NDArray[np.float64], freedoms: NDArray[np.integer]) -> float:
    """Return the degrees of freedom of a sum of independent estimates of variances.

    Satterthwaite 1946 (doi:10.2307/3002019).

    Parameters
    ----------
    parts : (n,) array
        The estimates, with their signs and factors.
    freedoms : (n,) array
        Degrees of freedom of each.
    """
    total = float(np.sum(parts**2 / freedoms))
    return float(parts.sum() ** 2 / total) if total > 0 else float(np.sum(freedoms))


def around(mean: float, error: float, freedom: float, level: float) -> tuple[float, float]:
    """Return Student's interval about a mean with a standard error."""
    reach = error * float(stats.t.ppf((1 + level) / 2, max(freedom, 1.0)))
    return mean - reach, mean + reach


def without_each(
    units_a: int, units_b: int, paired: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often units of two sides count when each unit in turn is left out.

    Returns
    -------
    (n + 1, units_a), (n + 1, units_b) int arrays
        Of 0 and 1. The first row leaves nothing out; n is the number of units, of both sides
        together unless units are `paired`.
    """
    total = units_a if paired else units_a + units_b
    counts = np.vstack([np.ones(total, np.int64), 1 - np.eye(total, dtype=np.int64)])
    return (counts, counts) if paired else (counts[:, :units_a], counts[:, units_a:])


def jackknife_interval(
    estimates: NDArray[np.float64],
    sides: tuple[int, int] | None = None,
    *,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the confidence interval of an estimate that is no mean of units, such as a ratio.

    Parameters
    ----------
    estimates : (n + 1,) array
        The estimate, and the estimates without each of n independent units in turn.
    sides : (int, int), optional
        Units of either side, where there are two; they are in this order in `estimates`.
    level : float

    Returns
    -------
    low, high : float
        NaN where an estimate is.

    Notes
    -----
    Student's t with the jackknife's variance (Tukey 1958; Miller 1974,
    doi:10.1093/biomet/61.1.1).
    """
    first, rest = float(estimates[0]), estimates[1:]
    if not np.isfinite(estimates).all():
        return math.nan, math.nan
    parts, freedoms, start = [], [], 0
    for units in sides or (len(rest),):
        one = rest[start : start + units]
        parts.append((units - 1) / units * float(((one - one.mean()) ** 2).sum()))
        freedoms.append(units - 1)
        start += units
    freedom = degrees_of_freedom(np.array(parts), np.array(freedoms))
    return around(first, math.sqrt(sum(parts)), freedom, level)


def pooled_interval(
    above: NDArray[np.floating], below: NDArray[np.floating], *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the confidence interval of ratios of sums over units, averaged: a pooled score.

    Parameters
    ----------
    above, below : (units, k) array
        Numerators and denominators of each unit, such as true positives, and true positives plus
        false positives plus false negatives, at k overlaps: the score is the mean over k of
        ``above.sum(0) / below.sum(0)``.
    level : float

    Returns
    -------
    low, high : float
        NaN with fewer than six units, or where a denominator is 0 without some unit.
    """
    above, below = np.atleast_2d(above), np.atleast_2d(below)
    if len(above) < FEWEST_UNITS:
        return math.nan, math.nan
    kept = without_each(len(above), len(above), True)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return jackknife_interval(((kept @ above) / (kept @ below)).mean(1), level=level)
