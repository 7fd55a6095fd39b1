"""Equivalent, different or undecided: what a difference within its margin says."""

from __future__ import annotations

import math

from scipy import stats

from analysis.statistics.units import UnitPair

ALPHA = 0.05
EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "different", "undecided"
USUALLY = 0.8
"""Power for which the number of further units is computed."""
MOST_UNITS = 10_000


def equivalence_p(pair: UnitPair, margin: float) -> float:
    """Return the p-value of two one-sided tests that a difference is within a margin.

    Parameters
    ----------
    pair : UnitPair
    margin : float
        Largest difference, in either direction, that is of no consequence.

    Returns
    -------
    float
        The larger p of two one-sided t tests over units (Schuirmann 1987,
        doi:10.1007/BF01068419): at most 5 % of studies whose true difference is as large as the
        margin get 0.05 or less. NaN with too few units, or without a margin.
    """
    if not pair.enough or not margin > 0:
        return math.nan
    error, freedom = pair.error()
    inside = margin - abs(pair.difference)
    if error <= 1e-12 * max(margin, abs(pair.difference)):  # units that do not vary
        return 0.0 if inside > 0 else 1.0
    return float(stats.t.sf(inside / error, freedom))


def verdict(p_different: float, p_equivalent: float) -> str:
    """Return what the two tests say together; '' where there are too few units for either.

    A difference that is real but within the margin is of no consequence: equivalent.
    """
    if math.isnan(p_different) and math.isnan(p_equivalent):
        return ""
    if p_equivalent <= ALPHA:
        return EQUIVALENT
    return DIFFERENT if p_different <= ALPHA else UNDECIDED


def family_level(pair: UnitPair, p_family: float, size: int) -> float:
    """Return the level at which a single t test of a difference is about as strict as its family.

    Parameters
    ----------
    pair : UnitPair
    p_family : float
        Its corrected p.
    size : int
        Number of differences in the family.

    Returns
    -------
    float
        Between 0.05 / `size` and 0.05.
    """
    error, freedom = pair.error()
    if error == 0 or not p_family > 0:
        return ALPHA
    alone = 2 * float(stats.t.sf(abs(pair.difference) / error, freedom))
    return ALPHA * min(1.0, max(1.0 / size, alone / p_family))


def further_units(pair: UnitPair, margin: float, *, level: float = ALPHA) -> int | None:
    """Return how many more units would usually, in 80 % of studies, decide.

    The true difference and the spread of units are taken to be as estimated.

    Parameters
    ----------
    pair : UnitPair
    margin : float
        As for `equivalence_p`.
    level : float
        Of the two-sided test that there is a difference, see `family_level`.

    Returns
    -------
    int or None
        Further units, on each side if unpaired; None with too few units to tell, or if more than
        10,000 are needed.
    """
    if not pair.enough:
        return None
    error, freedom = pair.error()
    now = min(len(pair.units_a), len(pair.units_b))
    away, inside = abs(pair.difference), margin - abs(pair.difference)

    def decided(units: int) -> bool:
        more = freedom * (units - 1) / (now - 1)
        reach = error * math.sqrt(now / units)
        usually = stats.t.ppf(USUALLY, more)
        different = away >= (stats.t.ppf(1 - level / 2, more) + usually) * reach
        return bool(different or inside >= (stats.t.ppf(1 - ALPHA, more) + usually) * reach)

    if not decided(now + MOST_UNITS):
        return None
    low, high = now, now + MOST_UNITS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - now
