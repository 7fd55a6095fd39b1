"""Tests of a family of differences together: how often any of them is called different by chance.

A family is declared before looking at the data. Within it, the chance to call any difference real
that is none is at most the level (family-wise error rate). The p-values are those of Westfall and
Young's step-down max-T (Ge, Dudoit and Speed 2003, doi:10.1007/BF02595811; Romano and Wolf 2005,
doi:10.1198/016214504000000539): whole units are permuted with all their features, so that features
which say the same cost no power.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.resampling import ratio, signs
from analysis.statistics.units import UnitPair

Array = NDArray[np.float64]
PERMUTATIONS_PER_BLOCK = 200
"""So many permutations for each block of a family, at least: the first p is multiplied by the
number of blocks and could otherwise never be small."""


def family_p(
    pairs: Sequence[UnitPair],
    blocks: Sequence[Hashable],
    *,
    resamples: int,
    seed: int = 0,
) -> Array:
    """Return the p-values of a family of differences, corrected for their number.

    Paired differences form one block: in each permutation the two labels are swapped within the
    same units for all of them. Unpaired differences with equal `blocks` form a block, in which
    units are exchanged between the two sides for all features together. Within a block, the
    largest statistic counts; between blocks, p-values are multiplied by the number of blocks in
    which a difference is still to be decided.

    Parameters
    ----------
    pairs : sequence of UnitPair
        Units' means of the two sides for each difference.
    blocks : sequence of hashable
        For each difference, what is compared (without the feature).
    resamples : int
        Number of permutations; more are used if the number of blocks needs them, and if there are
        no more in all, each is used once.
    seed : int

    Returns
    -------
    (differences,) array
        Two-sided p-values; NaN where there are too few units.
    """
    keys = ["" if pair.paired else block for pair, block in zip(pairs, blocks)]
    members: dict[Hashable, list[int]] = {}
    for number, (pair, key) in enumerate(zip(pairs, keys)):
        if pair.enough:
            members.setdefault((pair.paired, key), []).append(number)
    count = max(resamples, PERMUTATIONS_PER_BLOCK * len(members))
    observed, null = [], []
    for number, own in enumerate(members.values()):
        rng = np.random.default_rng([seed, number])
        part = [pairs[i] for i in own]
        statistics = (_swapped if part[0].paired else _exchanged)(part, count, rng)
        observed.append(statistics[0])
        null.append(statistics)
    result = np.full(len(pairs), math.nan)
    for own, values in zip(members.values(), step_down(observed, null)):
        result[own] = values
    return result


def step_down(observed: Sequence[Array], null: Sequence[Array]) -> list[Array]:
    """Return step-down p-values of blocks of statistics.

    Parameters
    ----------
    observed : sequence of (statistics,) array
        Statistics of each block; large values speak against its hypotheses.
    null : sequence of (permutations, statistics) array
        The same under permutation, that which changes nothing included.

    Returns
    -------
    list of (statistics,) array

    Examples
    --------
    With one block, the second largest statistic is compared with its own permutations only:

    >>> null = np.array([[3.0, 2.0], [1.0, 1.0], [0.0, 2.5], [1.0, 1.5]])
    >>> step_down([np.array([3.0, 2.0])], [null])[0].tolist()
    [0.25, 0.5]
    """
    left = [set(range(len(values))) for values in observed]
    result = [np.full(len(values), np.nan) for values in observed]
    raw = [_raw(values, draws, own) for values, draws, own in zip(observed, null, left)]
    least = 0.0
    while any(left):
        undecided = sum(map(bool, left))
        block = min((b for b, own in enumerate(left) if own), key=lambda b: min(raw[b].values()))
        one = min(raw[block], key=lambda i: raw[block][i])
        least = max(least, min(1.0, undecided * raw[block][one]))
        result[block][one] = least
        left[block].discard(one)
        raw[block] = _raw(observed[block], null[block], left[block])
    return result


def _raw(observed: Array, null: Array, left: set[int]) -> dict[int, float]:
    """Return how often the largest of the statistics that are left exceeds each of them."""
    if not left:
        return {}
    own = sorted(left)
    largest = np.sort(null[:, own].max(axis=1))
    # the same statistic computed in another order must count as equal
    reached = np.searchsorted(largest, observed[own] * (1 - 1e-9) - 1e-12)
    share = 1 - reached / len(largest)
    # the largest statistic first: equal shares are decided in this order
    order = np.argsort(-observed[own], kind="stable")
    return {own[i]: float(share[i]) for i in order}


def _swapped(pairs: Sequence[UnitPair], count: int, rng: np.random.Generator) -> Array:
    """Return |t| of the mean difference with the labels swapped in some units, the same for all.

    Returns
    -------
    (permutations, pairs) array
        In the first row, nothing is swapped.
    """
    names = sorted({name for pair in pairs for name in pair.units_a})
    place = {name: i for i, name in enumerate(names)}
    differences, known = (np.zeros((len(names), len(pairs))) for _ in range(2))
    for column, pair in enumerate(pairs):
        rows = [place[name] for name in pair.units_a]
        differences[rows, column] = pair.means_a - pair.means_b
        known[rows, column] = 1
    n = known.sum(0)
    mean = signs(len(names), count, rng) @ differences / n
    variance = ((differences**2).sum(0) - n * mean**2) / (n - 1)
    return ratio(np.abs(mean), np.sqrt(np.maximum(variance, 0) / n))


def _exchanged(pairs: Sequence[UnitPair], count: int, rng: np.random.Generator) -> Array:
    """Return |Welch's t| with units exchanged between the sides, the same for all features.

    Returns
    -------
    (permutations, pairs) array
        In the first row, nothing is exchanged.
    """
    names_a = sorted({name for pair in pairs for name in pair.units_a})
    names_b = sorted({name for pair in pairs for name in pair.units_b})
    values = np.full((len(names_a) + len(names_b), len(pairs)), np.nan)
    for column, pair in enumerate(pairs):
        values[[names_a.index(name) for name in pair.units_a], column] = pair.means_a
        rows = [len(names_a) + names_b.index(name) for name in pair.units_b]
        values[rows, column] = pair.means_b
    values -= np.nanmean(values, axis=0)  # squares of small numbers lose no digits
    known, values = np.isfinite(values).astype(float), np.nan_to_num(values)
    chosen = _sides(len(names_a), len(names_b), count, rng)
    mean, error = [], []
    for side in (chosen, 1 - chosen):
        n = side @ known
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = (side @ values) / n
            variance = ((side @ values**2) - n * middle**2) / (n - 1)
            error.append(np.where(n > 1, np.maximum(variance, 0) / n, np.inf))
        mean.append(np.where(n > 0, middle, 0.0))
    statistic: Array = ratio(np.abs(mean[0] - mean[1]), np.sqrt(error[0] + error[1]))
    return statistic


def _sides(a: int, b: int, count: int, rng: np.random.Generator) -> Array:
    """Return which units are on the first side: all choices, or `count` random ones."""
    units = a + b
    if math.comb(units, a) <= count:
        choices = np.zeros((math.comb(units, a), units))
        for row, own in enumerate(combinations(range(units), a)):
            choices[row, list(own)] = 1  # the first one is (0, ..., a - 1)
        return choices
    first = np.repeat([1.0, 0.0], [a, b])
    return np.vstack([first, rng.permuted(np.tile(first, (count, 1)), axis=1)])
