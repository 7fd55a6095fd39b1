"""Which methods may be the best, from the published definitions: numpy and scipy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from tests.analysis.by_hand import Array, t_interval


class Effects(NamedTuple):
    """Mean squares of scores whose units are crossed with methods, and seeds nested in these."""

    crossed: float
    seeds: float
    rest: float
    freedoms: tuple[int, int, int]
    units: int

    def variance(self, seeds: int) -> tuple[float, float]:
        """Variance of a mean over so many seeds that other methods do not share, and its degrees
        of freedom by Satterthwaite.
        """
        parts = [self.crossed, self.seeds / seeds, -self.rest / seeds]
        freedoms = list(self.freedoms)
        if parts[1] + parts[2] < 0:
            parts, freedoms = parts[:1], freedoms[:1]
        freedom = sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, freedoms) if f)
        return sum(parts) / self.units, freedom


def effects(methods: Sequence[Array]) -> Effects:
    """Analyse the variance of the (seeds, units) scores of each method."""
    units, count = methods[0].shape[1], len(methods)
    table = np.array([one.mean(0) for one in methods])
    residual = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    crossed = float((residual**2).sum()) / ((count - 1) * (units - 1))
    more = sum(len(one) - 1 for one in methods)
    between = sum(
        units * (len(one) - 1) * one.mean(1).var(ddof=1) for one in methods if len(one) > 1
    )
    rest = 0.0
    for one in methods:
        left = one - one.mean(1)[:, None] - one.mean(0) + one.mean()
        rest += float((left**2).sum())
    freedoms = ((count - 1) * (units - 1), max(1, more), max(1, more * (units - 1)))
    return Effects(
        crossed, between / max(1, more), rest / max(1, more * (units - 1)), freedoms, units
    )


def leaving(methods: Mapping[str, Array], draws: int = 4000) -> dict[str, float]:
    """Give the p with which each method leaves the set that may be the best; 1 for the last."""
    left, p, so_far = dict(methods), {}, 0.0
    rng = np.random.default_rng(99)
    while len(left) > 1 and so_far <= 0.5:
        names, own = list(left), list(left.values())
        lead = np.subtract.outer(*[[one.mean() for one in own]] * 2)
        if max(map(len, methods.values())) > 1:
            found = effects(own)
            spread = [found.variance(len(one)) for one in own]
            error = np.sqrt(np.add.outer(*[[v for v, _ in spread]] * 2) / 2)
            ratio = lead / error
            best, worst = map(int, np.unravel_index(int(ratio.argmax()), ratio.shape))
            freedom = min(spread[best][1], spread[worst][1])
            step = float(stats.studentized_range.sf(ratio[best, worst], len(own), freedom))
        else:
            table = np.array([one[0] for one in own])
            ratio = _pairwise(table)
            worst = int(np.unravel_index(int(ratio.argmax()), ratio.shape)[1])
            hits = sum(
                _pairwise(rng.permuted(table, axis=0)).max() >= ratio.max() * (1 - 1e-9)
                for _ in range(draws)
            )
            step = (hits + 1) / (draws + 1)
        so_far = max(so_far, step)
        p[names[worst]] = so_far
        del left[names[worst]]
    return {**p, **dict.fromkeys(left, 1.0)}


def _pairwise(table: Array) -> Array:
    """Give t of each row minus each other row over their common columns."""
    apart = table[:, None] - table
    spread = apart.std(-1, ddof=1) / math.sqrt(table.shape[1])
    return np.asarray(
        np.divide(apart.mean(-1), spread, out=np.zeros_like(spread), where=spread > 0)
    )


def own_interval(name: str, methods: Mapping[str, Array]) -> tuple[float, float]:
    """Give the interval of a method's mean over units, and over seeds where there are several."""
    one = methods[name]
    seeds, units = one.shape
    if max(map(len, methods.values())) == 1:
        return t_interval(one[0])
    found = effects(list(methods.values()))
    parts = [one.mean(0).var(ddof=1), found.seeds / seeds, -found.rest / seeds]
    freedoms = [units - 1, *found.freedoms[1:]]
    if parts[1] + parts[2] < 0:
        parts, freedoms = parts[:1], freedoms[:1]
    freedom = sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, freedoms))
    reach = float(stats.t.isf(0.025, freedom)) * math.sqrt(sum(parts) / units)
    return float(one.mean()) - reach, float(one.mean()) + reach


def smallest_lead(methods: Sequence[Array], units: int | None = None) -> float:
    """Give the lead that a study of so many units shows in 80 % of cases."""
    found, seeds = effects(methods), min(map(len, methods))
    several = max(map(len, methods)) > 1
    variance, freedom = found.variance(seeds)
    if units is not None:
        variance = found.crossed / units
        if several:
            variance += max(0.0, found.seeds - found.rest) / seeds / found.units
        freedom *= (units - 1) / (found.units - 1)
    if not several:
        freedom = (units or found.units) - 1
    critical = stats.studentized_range.isf(0.05, len(methods), freedom) / math.sqrt(2)
    return float((critical + stats.t.ppf(0.8, freedom)) * math.sqrt(2 * variance))
