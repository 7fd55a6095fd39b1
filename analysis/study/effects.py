"""Differences between populations in every training and convention: do conclusions survive?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from analysis.evaluation.images import LabelledImage
from analysis.evidence import compared
from analysis.morphology.features import CONVENTIONS, measure
from analysis.statistics.pairs import cells_of
from analysis.statistics.units import pair_units
from analysis.study.comparisons import with_unit
from analysis.study.families import FAMILY_FEATURES
from analysis.study.objects import CellMeasurer, Labels

KEYS = ("method", "trial_id", "image", "group", "track", "population", "left_out")
COLUMNS = (
    "method",
    "trial_id",
    "convention",
    "a",
    "b",
    "feature",
    "unit_difference",
    "unit_difference_low",
    "unit_difference_high",
)


def measured_again(
    measurer: CellMeasurer, cells: pd.DataFrame, labels: Labels
) -> list[pd.DataFrame]:
    """Return cells as the report measures them, and as the other conventions do.

    Parameters
    ----------
    measurer : CellMeasurer
        How the report measures.
    cells : DataFrame
        Those of an image, see `CellMeasurer.found_cells`.
    labels : (H, W) int32 array
        Their label image.

    Returns
    -------
    list of DataFrame
        For `population_effects`, one for each convention; none where no population is known.
    """
    if not has_populations(measurer):
        return []
    tables = [cells[[*KEYS, *FAMILY_FEATURES]].assign(convention=measurer.convention)]
    named = cells[[*KEYS, "label"]]
    for convention in CONVENTIONS:
        if convention != measurer.convention:
            found = measure(labels, convention=convention)[["label", *FAMILY_FEATURES]]
            again = named.merge(found, on="label", how="left").drop(columns="label")
            tables.append(again.assign(convention=convention))
    return tables


def of_training(
    measurer: CellMeasurer, labels: Labels, image: LabelledImage, *, method: str, trial_id: str
) -> list[pd.DataFrame]:
    """Measure the cells of a further training of a method, in the report's convention; see
    `measured_again`.
    """
    if not has_populations(measurer):
        return []
    cells, _ = measurer.found_cells(labels, image, method=method, trial_id=trial_id)
    return [cells[[*KEYS, *FAMILY_FEATURES]].assign(convention=measurer.convention)]


def has_populations(measurer: CellMeasurer) -> bool:
    """Whether the population of any true cell is known."""
    return any(cell.population for cell in measurer.known.cells.values())


def population_effects(tables: Sequence[pd.DataFrame], unit: str) -> pd.DataFrame:
    """Return the differences between populations in every training and convention.

    Parameters
    ----------
    tables : sequence of DataFrame
        Of `measured_again` and `of_training`.
    unit : {"group", "image", "track"}
        The independent unit.

    Returns
    -------
    DataFrame
        See `analysis.evidence.Evidence.effects`; empty without two populations.
    """
    full = [table for table in tables if len(table)]
    if not full:
        return pd.DataFrame(columns=COLUMNS)
    cells = compared(with_unit(pd.concat(full, ignore_index=True), unit))
    cells = cells[cells["population"].notna() & cells["unit"].notna()]
    cells = cells.sort_values("population", kind="stable")
    rows = []
    keys = ["method", "trial_id", "convention"]
    for key, own in cells.groupby(keys, sort=False):
        for feature in FAMILY_FEATURES:
            levels = cells_of(own, feature, "population", "unit")
            for a, b in combinations(levels, 2):
                pair = pair_units(levels[a], levels[b])[0]
                rows.append((*key, a, b, feature, pair.difference, *pair.interval()))
    return pd.DataFrame(rows, columns=COLUMNS)
