"""Which methods may be the best: the set that the data cannot reduce further.

The best is found by looking at all methods, so a test of it against each of the others would
find differences between equal ones. Here all pairs are tested at once; the worst leaves the set
as long as that test rejects, as in the model confidence set of Hansen, Lunde and Nason 2011
(doi:10.3982/ECTA5771).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.intervals import LEVEL, around, degrees_of_freedom, mean_interval
from analysis.statistics.resampling import FEWEST_UNITS

PERMUTATIONS = 1999
PERMUTATIONS_OF_MANY = 999
MANY = 30
"""Methods above which a test makes fewer permutations: its time grows with their square."""
BLOCK = 2**22
"""Numbers of the pairs of methods that are held in memory at once."""
CLEARLY_TIED = 0.5
"""Where a test's p is above this, the methods that are left are not tested further."""
MOST_EXACT = 12
"""Units of two methods up to which all swaps are made, instead of random ones."""
Array = NDArray[np.float64]


def tied_set(scores: pd.DataFrame, *, alpha: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Return the methods that are statistically tied with the best.

    Parameters
    ----------
    scores : DataFrame
        Columns method, unit, seed and score, larger being better: the score of each training of
        a method (its seeds are numbered) on each independent unit, such as a group of images.
        Every training has a score on every unit. Units where a score is NaN are left out.
    alpha : float
        How often the truly best method may be excluded.
    seed : int
        Of the random permutations.

    Returns
    -------
    DataFrame
        One row per method, best first:

        - method
        - score : mean over seeds and units
        - low, high : 95 % confidence interval of the method's own mean score; NaN with fewer than
          six units
        - tied : whether the method may be the best. True of all with fewer than six units
        - p : the largest `alpha` with which the method would still be in the set; 1 of all that
          are left once it would be above 0.5; NaN with fewer than six units

    Raises
    ------
    ValueError
        When a column or a score is missing, or a score is there twice.

    Notes
    -----
    With one seed of every method the statement is about these trainings: labels of methods are
    permuted within units, and the statistic is the largest studentised difference over all pairs.
    With several seeds it is about methods: units are crossed with methods, seeds nested in them,
    both random, and all pairs are compared by the studentised range (Tukey) with Satterthwaite's
    degrees of freedom (doi:10.2307/3002019). Methods with fewer seeds than others are taken to
    vary from seed to seed as the others do.
    """
    trials = trials_of(scores)
    units = next(iter(trials.values())).shape[1] if trials else 0
    means = [float(one.mean()) if units else math.nan for one in trials.values()]
    order = np.argsort([-mean for mean in means], kind="stable")
    names = [list(trials)[i] for i in order]
    table = pd.DataFrame({"method": names, "score": [means[i] for i in order]})
    table[["low", "high"]] = [_own_interval(n, trials) for n in names] or np.empty((0, 2))
    p = dict.fromkeys(names, math.nan)
    if units >= FEWEST_UNITS:
        p = _leaving({name: trials[name] for name in names}, seed)
    # not above alpha: left the set; what is NaN stays
    table["tied"] = [not p[name] <= alpha for name in names]
    table["p"] = [p[name] for name in names]
    return table


def trials_of(scores: pd.DataFrame) -> dict[object, Array]:
    """Return each method's scores, (seeds, units), on the units where all have one."""
    missing = {"method", "unit", "seed", "score"} - set(scores.columns)
    if missing:
        raise ValueError(f"scores have no column {', '.join(sorted(missing))}")
    double = scores.duplicated(["method", "unit", "seed"])
    if double.any():
        where = scores.loc[double, ["method", "seed", "unit"]].iloc[0].tolist()
        raise ValueError("two scores of method {}, seed {} on unit {}".format(*where))
    wide = scores.pivot(index=["method", "seed"], columns="unit", values="score")
    if wide.size != len(scores):
        there = set(scores[["method", "seed", "unit"]].itertuples(index=False, name=None))
        needed = ((*trial, unit) for trial in wide.index for unit in wide.columns)
        where = list(next(key for key in needed if key not in there))
        raise ValueError("no score of method {}, seed {} on unit {}".format(*where))
    wide = wide.loc[:, wide.notna().all()].astype(float)
    return {name: part.to_numpy() for name, part in wide.groupby(level="method", sort=False)}


def _leaving(trials: dict[object, Array], seed: int) -> dict[object, float]:
    """Return of each method the level at which it leaves the set; 1 of what never does."""
    left, p, so_far = list(trials), {}, 0.0
    several = any(len(one) > 1 for one in trials.values())
    rng = np.random.default_rng(seed)
    while len(left) > 1 and so_far <= CLEARLY_TIED:
        if several:
            step, worst = _by_variances([trials[name] for name in left])
        else:
            step, worst = _by_permutation(np.stack([trials[name][0] for name in left], 1), rng)
        so_far = max(so_far, step)
        p[left.pop(worst)] = so_far
    return {**p, **dict.fromkeys(left, 1.0)}


def _by_permutation(scores: Array, rng: np.random.Generator) -> tuple[float, int]:
    """Test whether methods are equal, from (units, methods) scores.

    Returns
    -------
    p : float
        That labels permuted within units give so large a studentised difference of any pair.
    worst : int
        The method that is furthest behind any other.
    """
    units, methods = scores.shape
    scores = scores - scores.mean(1, keepdims=True)
    observed = _studentised(scores[None])[0]
    if methods == 2 and units <= MOST_EXACT:
        signs = np.array(list(itertools.product([1.0, -1.0], repeat=units)))
        permuted = scores[None] * signs[:, :, None]
        exceeds = _studentised(permuted).max((1, 2)) >= observed.max() * (1 - 1e-9)
        return float(exceeds.mean()), int(observed.max(0).argmax())
    total = PERMUTATIONS if methods <= MANY else min(PERMUTATIONS, PERMUTATIONS_OF_MANY)
    count, done, block = 1, 0, max(1, BLOCK // (methods * max(units, methods)))
    while done < total:
        size = min(block, total - done)
        permuted = rng.permuted(np.broadcast_to(scores, (size, *scores.shape)), axis=2)
        largest = _studentised(permuted).max((1, 2))
        count += int(np.count_nonzero(largest >= observed.max() * (1 - 1e-9)))
        done += size
    return count / (total + 1), int(observed.max(0).argmax())


def _studentised(scores: Array) -> Array:
    """Return t of method i minus method j at [:, i, j], for (n, units, methods) scores."""
    units = scores.shape[1]
    means = scores.mean(1)
    rest = scores - means[:, None]
    products = rest.transpose(0, 2, 1) @ rest
    own = np.einsum("nii->ni", products)
    variances = (own[:, :, None] + own[:, None] - 2 * products) / (units - 1)
    lead = means[:, :, None] - means[:, None]
    # methods that differ by the same amount everywhere are infinitely far apart; the tolerance
    # keeps rounding from making huge statistics of equal ones
    size = np.abs(scores).max((1, 2), keepdims=True)
    lead = np.where(np.abs(lead) <= 1e-12 * size, 0.0, lead)
    variances = np.maximum(variances, (1e-9 * size) ** 2)
    error = np.sqrt(variances / units)
    ratio: Array = np.divide(lead, error, out=np.zeros_like(lead), where=error > 0)
    return ratio


@dataclass(frozen=True)
class Variances:
    """What varies between trainings and units, of methods whose differences are of interest."""

    units: int
    crossed: float
    """Mean square of method x unit, per seed: expects var(method x unit) + var(rest) / seeds."""
    crossed_freedom: int
    seeds: float
    """Mean square of seeds within methods: expects units * var(seed) + var(rest)."""
    seeds_freedom: int
    rest: float
    """Mean square of seed x unit within methods: expects var(rest)."""

    @classmethod
    def of(cls, trials: list[Array]) -> Variances:
        """Estimate them from the (seeds, units) scores of each method."""
        units = trials[0].shape[1]
        per_unit = np.stack([one.mean(0) for one in trials])
        crossed = per_unit - per_unit.mean(1, keepdims=True) - per_unit.mean(0) + per_unit.mean()
        crossed_freedom = max(1, (len(trials) - 1) * (units - 1))
        seeds_freedom = sum(len(one) - 1 for one in trials)
        between = rest = 0.0
        for one in trials:
            of_seed = one.mean(1) - one.mean()
            between += units * float((of_seed**2).sum())
            rest += float(((one - one.mean(0) - of_seed[:, None]) ** 2).sum())
        return cls(
            units,
            float((crossed**2).sum()) / crossed_freedom,
            crossed_freedom,
            between / max(1, seeds_freedom),
            max(1, seeds_freedom),
            rest / max(1, seeds_freedom * (units - 1)),
        )

    def of_mean(self, seeds: int, units: int = 0) -> tuple[float, float]:
        """Return the variance, as far as it is not shared with other methods, of the mean of so
        many seeds on so many units (0: as many as there are), and its degrees of freedom.
        """
        seed = max(0.0, self.seeds - self.rest) / seeds / self.units
        parts = np.array([self.crossed, self.seeds / seeds, -self.rest / seeds]) / self.units
        freedoms = np.array(
            [self.crossed_freedom, self.seeds_freedom, self.seeds_freedom * (self.units - 1)]
        )
        # the difference of the last two estimates a variance and may come out negative
        if parts[1] + parts[2] < 0:
            parts, freedoms = parts[:1], freedoms[:1]
        variance, freedom = float(parts.sum()), degrees_of_freedom(parts, freedoms)
        if not units:
            return variance, freedom
        # what varies with units shrinks, what varies with trainings does not
        return self.crossed / units + seed, freedom * (units - 1) / (self.units - 1)


def _by_variances(trials: list[Array]) -> tuple[float, int]:
    """Test whether methods are equal, from the (seeds, units) scores of each.

    Returns
    -------
    p : float
        Of the studentised range (Tukey; for unequal numbers of seeds Kramer's form).
    worst : int
        The method that is furthest behind any other.
    """
    found = Variances.of(trials)
    means = np.array([one.mean() for one in trials])
    spread = np.array([found.of_mean(len(one)) for one in trials])
    lead = means[:, None] - means
    error = np.sqrt((spread[:, None, 0] + spread[:, 0]) / 2)
    size = max(float(np.abs(one).max()) for one in trials)
    lead = np.where(np.abs(lead) <= 1e-12 * size, 0.0, lead)
    ratio = lead / np.maximum(error, 1e-9 * size) if size else lead
    best, worst = np.unravel_index(int(ratio.argmax()), ratio.shape)
    freedom = min(spread[best, 1], spread[worst, 1], 1e4)
    p = stats.studentized_range.sf(ratio[best, worst], len(trials), max(freedom, 1.0))
    return float(p), int(worst)


def _own_interval(name: object, trials: dict[object, Array]) -> tuple[float, float]:
    """Return the interval of a method's mean over units and, if there are several, over seeds."""
    one = trials[name]
    seeds, units = one.shape
    if all(len(other) == 1 for other in trials.values()) or units < FEWEST_UNITS:
        return mean_interval(one.mean(0))
    found = Variances.of(list(trials.values()))
    parts = np.array([one.mean(0).var(ddof=1), found.seeds / seeds, -found.rest / seeds]) / units
    freedoms = np.array([units - 1, found.seeds_freedom, found.seeds_freedom * (units - 1)])
    if parts[1] + parts[2] < 0:
        parts, freedoms = parts[:1], freedoms[:1]
    freedom = degrees_of_freedom(parts, freedoms)
    return around(float(one.mean()), math.sqrt(float(parts.sum())), freedom, LEVEL)
