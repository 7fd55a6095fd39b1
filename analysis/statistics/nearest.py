"""Which means may be as near to 0 as the nearest one: biases of methods, of either sign."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.resampling import FEWEST_UNITS

Array = NDArray[np.float64]
ROUNDING = 1e-9
"""Standard errors below this share of the values are 0."""


def as_near(values: Mapping[str, Array], *, alpha: float = 0.05) -> list[str]:
    """Return the names whose mean over units may be as near to 0 as the nearest one.

    Parameters
    ----------
    values : mapping of str to (units,) arrays
        Of each method a value for every independent unit, the same units for all; finite.
    alpha : float
        How often a method that is as near as the nearest one may be left out.

    Returns
    -------
    list of str
        In the order of `values`, the nearest one included. All names with fewer than six units.

    Notes
    -----
    A bias a is further from 0 than b if a - b and a + b both have the sign of a, so both are tested
    by Student's t over units and the smaller t counts (an intersection-union test, Berger 1982,
    doi:10.1080/00401706.1982.10487790). The critical value is Tukey's for all pairs of the methods
    that are left, the most distant one leaving first.
    """
    names = list(values)
    units = len(values[names[0]])
    if units < FEWEST_UNITS or len(names) < 2:
        return names
    nearest = min(names, key=lambda name: abs(float(values[name].mean())))
    t = {name: _behind(values[name], values[nearest]) for name in names if name != nearest}
    left = list(names)
    for name in sorted(t, key=lambda name: -t[name]):
        if t[name] <= _critical(alpha, len(left), units - 1):
            break
        left.remove(name)
    return left


@cache
def _critical(alpha: float, methods: int, freedom: int) -> float:
    """Return Tukey's critical value of t; computing it takes a tenth of a second."""
    return float(stats.studentized_range.ppf(1 - alpha, methods, freedom)) / math.sqrt(2)


def _behind(one: Array, nearest: Array) -> float:
    """Return the smaller t of the two tests that `one` is further from 0."""
    signed = one * math.copysign(1.0, float(one.mean()))
    size = max(float(np.abs(one).max()), float(np.abs(nearest).max()))
    found = []
    for rest in (signed - nearest, signed + nearest):
        lead, error = float(rest.mean()), float(rest.std(ddof=1)) / math.sqrt(len(rest))
        if abs(lead) <= ROUNDING * size:
            found.append(0.0)
        else:
            found.append(lead / max(error, ROUNDING * size))
    return min(found)
