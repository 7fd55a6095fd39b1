"""Cliff's delta of many bootstrap resamples, compiled: the values are sorted once for all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled


@compiled
def resampled_deltas(
    values: NDArray[np.float64],
    side: NDArray[np.int64],
    unit: NDArray[np.int64],
    draws_a: NDArray[np.integer[Any]],
    draws_b: NDArray[np.integer[Any]],
) -> NDArray[np.float64]:
    """Return Cliff's delta in each resample.

    Parameters
    ----------
    values : (n,) float64 array
        Of both sides, ascending.
    side : (n,) int array
        0 where a value is of a, 1 where it is of b.
    unit : (n,) int array
        Each value's unit: a column of its side's draws.
    draws_a, draws_b : (resamples, units) int array
        How often each unit of a and of b counts.

    Returns
    -------
    (resamples,) float64 array
        P(a > b) - P(a < b), from -1 to 1 (Cliff 1993, doi:10.1037/0033-2909.114.3.494); NaN where
        either side has no value.
    """
    result = np.full(len(draws_a), np.nan)
    n = len(values)
    for r in range(len(draws_a)):
        above, total_a, total_b, i = 0.0, 0.0, 0.0, 0
        while i < n:  # one group of equal values after the other
            a, b = 0.0, 0.0
            j = i
            while j < n and values[j] == values[i]:
                if side[j] == 0:
                    a += draws_a[r, unit[j]]
                else:
                    b += draws_b[r, unit[j]]
                j += 1
            above += a * total_b - b * total_a
            total_a += a
            total_b += b
            i = j
        if total_a > 0 and total_b > 0:
            result[r] = above / (total_a * total_b)
    return result
