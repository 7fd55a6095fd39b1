"""Inference from independent units: permutation tests, and results without single units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.kernels.cliffs_delta import resampled_deltas

FEWEST_UNITS = 6
"""With fewer units, even a perfect separation of pairs does not reach p = 0.05 (2 / 2**5)."""
Array = NDArray[np.float64]


def signs_p(differences: Array, resamples: int, rng: np.random.Generator) -> float:
    """Test whether paired units differ, by swapping the two labels within units.

    Parameters
    ----------
    differences : (units,) array
        Mean of a minus mean of b for each unit.
    resamples : int
        Number of random swaps; if there are no more than this in all (2**units), each is used
        once.
    rng : numpy.random.Generator

    Returns
    -------
    float
        Two-sided p of the studentised mean; 1 if all differences are 0.
    """
    if not differences.any():
        return 1.0
    return float(
        stats.permutation_test(
            (differences,),
            _abs_t,
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            alternative="greater",
            rng=rng,
        ).pvalue
    )


def signs_interval(
    differences: Array, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> tuple[float, float]:
    """Return the confidence interval of a mean paired difference that goes with `signs_p`.

    Student's t interval of a few skewed differences may hold zero although the permutation test
    rejects it, or the other way round; this one never contradicts the test.

    Parameters
    ----------
    differences : (units,) array
        As of `signs_p`, finite.
    level : float
    resamples, seed : int
        Of `signs_p`.

    Returns
    -------
    low, high : float
        The smallest and the largest difference that the test does not reject at 1 - `level`; NaN
        with fewer than six units.
    """
    if len(differences) < FEWEST_UNITS:
        return math.nan, math.nan
    mean, reach = float(differences.mean()), float(np.ptp(differences))

    def kept(true: float) -> bool:
        rest = differences - true
        return signs_p(rest, resamples, np.random.default_rng(seed)) > 1 - level

    ends = []
    for side in (-1.0, 1.0):
        inside, outside = 0.0, reach  # all differences are then on one side
        for _ in range(30):
            middle = (inside + outside) / 2
            if kept(mean + side * middle):
                inside = middle
            else:
                outside = middle
        ends.append(mean + side * inside)
    return ends[0], ends[1]


def units_p(a: Array, b: Array, resamples: int, rng: np.random.Generator) -> float:
    """Test whether two sets of units differ, by permuting units between the sets.

    Parameters
    ----------
    a, b : (units,) array
        The units' means.
    resamples : int
        Number of random permutations; if there are no more than this in all, each is used once.
    rng : numpy.random.Generator

    Returns
    -------
    float
        Two-sided p of Welch's statistic, which keeps the level if the variances differ
        (Janssen 1997, doi:10.1016/S0167-7152(97)00043-6; Chung and Romano 2013,
        doi:10.1214/13-AOS1090); 1 if all units are equal.
    """
    if np.ptp(np.concatenate([a, b])) == 0:
        return 1.0
    return float(
        stats.permutation_test(
            (a, b),
            _abs_welch,
            permutation_type="independent",
            vectorized=True,
            n_resamples=resamples,
            alternative="greater",
            rng=rng,
        ).pvalue
    )


def least_p(units_a: int, units_b: int, paired: bool, resamples: int) -> float:
    """Return the smallest p that a test can give with this number of units."""
    distinct = 2**units_a if paired else math.comb(units_a + units_b, units_a)
    mirrored = 2 if paired or units_a == units_b else 1
    return max(mirrored / distinct, 1 / (resamples + 1) if distinct > resamples else 0.0)


def _abs_t(differences: Array, axis: int = -1) -> Array:
    mean, error = differences.mean(axis), differences.std(axis, ddof=1)
    return ratio(np.abs(mean), error)


def _abs_welch(a: Array, b: Array, axis: int = -1) -> Array:
    difference = np.abs(a.mean(axis) - b.mean(axis))
    variance = a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis]
    return ratio(difference, np.sqrt(variance))


def ratio(above: Array, below: Array) -> Array:
    """Return a statistic `above` / `below`, 0 where both are 0; `above` is not negative."""
    # units that do not vary at all are infinitely far apart, or equal; the tolerance keeps
    # rounding from making huge statistics of equal ones
    tiny = below <= 1e-12 * np.maximum(above, 1e-300)
    return np.where(tiny, np.where(above > 0, 1e300, 0.0), above / np.where(tiny, 1.0, below))


def signs(units: int, count: int, rng: np.random.Generator) -> Array:
    """Return in which units the two labels are swapped.

    Parameters
    ----------
    units, count : int
    rng : numpy.random.Generator

    Returns
    -------
    (swaps, units) array
        1, or -1 for a swap. All 2**units swaps if these are no more than `count`, else `count`
        random ones; in the first row, nothing is swapped.
    """
    if 2**units <= count:
        bits = (np.arange(2**units)[:, None] >> np.arange(units)) & 1
    else:
        bits = rng.integers(0, 2, (count + 1, units))
        bits[0] = 0
    return (1 - 2 * bits).astype(float)


def ratio_of_sums(draws: NDArray[np.int64], sums: Array, counts: Array) -> Array:
    """Return the mean over cells for each choice of units; NaN where it has no cell."""
    below = draws @ counts
    means = np.full(len(draws), np.nan)
    np.divide(draws @ sums, below, out=means, where=below > 0)
    return means


def cliffs_deltas(
    values_a: Array,
    values_b: Array,
    unit_a: NDArray[np.int64],
    unit_b: NDArray[np.int64],
    draws_a: NDArray[np.int64],
    draws_b: NDArray[np.int64],
) -> Array:
    """Return Cliff's delta for each choice of units.

    Parameters
    ----------
    values_a, values_b : (n,), (m,) array
    unit_a, unit_b : (n,), (m,) int array
        Each value's unit: a column of the draws.
    draws_a, draws_b : (choices, units) int array
        How often each unit of a and of b counts. The same array for paired units.

    Returns
    -------
    (choices,) array
        P(a > b) - P(a < b), from -1 to 1; NaN where either side has no value.
    """
    values = np.concatenate([values_a, values_b])
    side = np.repeat([0, 1], [len(values_a), len(values_b)])
    unit = np.concatenate([unit_a, unit_b])
    order = np.argsort(values, kind="stable")
    return resampled_deltas(values[order], side[order], unit[order], draws_a, draws_b)
