"""The means of independent units on both sides of a comparison, and what two sides share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.intervals import FEWEST_UNPAIRED, around, degrees_of_freedom
from analysis.statistics.resampling import FEWEST_UNITS

BETWEEN_GROUPS = "groups are the units, as none holds both"
Array = NDArray[np.float64]


class UnitPair(NamedTuple):
    """The units' means of two sets of cells."""

    paired: bool
    """Whether the same units are on both sides."""
    units_a: tuple[str, ...]
    """Names of the units; the same in both if paired."""
    units_b: tuple[str, ...]
    means_a: Array
    """(units_a,) mean over the cells of each unit."""
    means_b: Array
    note: str

    @property
    def enough(self) -> bool:
        """Whether there are units enough for a p-value and an interval."""
        fewest = FEWEST_UNITS if self.paired else FEWEST_UNPAIRED
        return min(len(self.units_a), len(self.units_b)) >= fewest

    @property
    def difference(self) -> float:
        """Mean over units of a minus b; NaN where a side has no unit."""
        if not len(self.means_a) or not len(self.means_b):
            return math.nan
        return float(self.means_a.mean() - self.means_b.mean())

    def error(self) -> tuple[float, float]:
        """Return the standard error of `difference` and its degrees of freedom."""
        if self.paired:
            each = self.means_a - self.means_b
            return float(each.std(ddof=1)) / math.sqrt(len(each)), len(each) - 1.0
        sides = (self.means_a, self.means_b)
        parts = np.array([side.var(ddof=1) / len(side) for side in sides])
        freedom = degrees_of_freedom(parts, np.array([len(side) - 1 for side in sides]))
        return math.sqrt(parts.sum()), max(freedom, 1.0)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of `difference`: Student's t if paired, else Welch's.

        NaN with too few units.
        """
        if not self.enough:
            return math.nan, math.nan
        error, freedom = self.error()
        return around(self.difference, error, freedom, level)


def pair_units(a: pd.DataFrame, b: pd.DataFrame) -> tuple[UnitPair, pd.DataFrame, pd.DataFrame]:
    """Find the units of two sets of cells, and average the cells of each.

    Parameters
    ----------
    a, b : DataFrame
        Columns value, unit and group, without missing values in value and unit.

    Returns
    -------
    UnitPair
    a, b : DataFrame
        The cells that count, with the units that were used.
    """
    note = ""
    if _between_groups(a, b):
        note = BETWEEN_GROUPS
        a, b = a.assign(unit=a["group"]), b.assign(unit=b["group"])
    units_a, units_b = (set(cells["unit"].unique()) for cells in (a, b))
    shared, everything = units_a & units_b, units_a | units_b
    paired = shared == everything or len(shared) >= FEWEST_UNITS
    if shared and shared != everything:  # not where groups are the units: they share none
        if paired:
            note = f"within the {len(shared)} units that hold both"
            a, b = a[a["unit"].isin(shared)], b[b["unit"].isin(shared)]
        else:
            note = f"without the {len(shared)} units that hold both"
            a, b = a[~a["unit"].isin(shared)], b[~b["unit"].isin(shared)]
    (names_a, means_a), (names_b, means_b) = _means(a), _means(b)
    return UnitPair(paired, names_a, names_b, means_a, means_b, note), a, b


def unit_numbers(cells: pd.DataFrame) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the cells' units, sorted, and the place of each cell's unit in them."""
    codes, found = pd.factorize(cells["unit"])
    names = np.array([str(name) for name in found], dtype=object)
    order = np.argsort(names, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return tuple(names[order].tolist()), place[codes]


def _means(cells: pd.DataFrame) -> tuple[tuple[str, ...], Array]:
    names, index = unit_numbers(cells)
    values = cells["value"].to_numpy(float)
    sums = np.bincount(index, values, minlength=len(names))
    return names, sums / np.bincount(index, minlength=len(names))


def _between_groups(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two sets of cells are of different groups of images, and units are parts of groups:
    they then share their group's conditions, and are no independent evidence.
    """
    if a["group"].isna().any() or b["group"].isna().any():
        return False
    if set(a["group"].unique()) & set(b["group"].unique()):
        return False
    both = pd.concat([cells[["unit", "group"]].drop_duplicates() for cells in (a, b)])
    within = both.groupby("unit", observed=True)["group"].nunique().max() == 1
    return bool(within) and both["unit"].nunique() > both["group"].nunique()
