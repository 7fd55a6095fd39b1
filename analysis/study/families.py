"""The differences that a report tests, declared before looking at them, and their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.evidence import TRUTH
from analysis.morphology.margin import half_pixel
from analysis.statistics.equivalence import (
    UNDECIDED,
    equivalence_p,
    family_level,
    further_units,
    verdict,
)
from analysis.statistics.families import family_p
from analysis.statistics.pairs import cells_of
from analysis.statistics.units import UnitPair, pair_units

FAMILY_FEATURES = ("area", "perimeter", "circularity", "solidity")
"""Features whose differences are tested. Radius and shape index follow from area and circularity:
they get intervals."""
TRUTH_FAMILY = "methods against truth"
POPULATION_FAMILY = "populations"
UNLABELLED = "unlabelled"
"""The comparison of methods on images without masks, and its family: all pairs of methods."""
POWERS = {"area": 2, "perimeter": 1, "radius": 1}
"""Powers of a length; other features have none."""


def family_of(
    comparison: str,
    method: str,
    a: str,
    b: str,
    recommended: str | None,
    annotator: str | None = None,
) -> str:
    """Return the family of a comparison, whatever its result; '' for exploratory ones."""
    if comparison == "methods" and annotator in (a, b):
        return ""  # the two people's difference is the margin
    if comparison == "methods" and TRUTH in (a, b):
        return TRUTH_FAMILY
    if comparison == "populations" and method == recommended:
        return POPULATION_FAMILY
    return UNLABELLED if comparison == UNLABELLED else ""


def length_unit(objects: pd.DataFrame, feature: str) -> tuple[str, str]:
    """Return the column that holds a feature, in um where the pixel size is known, and its unit."""
    power = POWERS.get(feature)
    if power is None:
        return feature, ""
    unit = "um2" if power == 2 else "um"
    physical = f"{feature}_{unit}"
    if physical in objects and objects[physical].notna().any():
        return physical, unit
    return feature, "px2" if power == 2 else "px"


class Question(NamedTuple):
    """Cells of which all pairs of levels are compared, feature by feature."""

    comparison: str
    """'methods', 'populations', 'groups' or 'unlabelled'."""
    method: str
    """Whose cells are compared; '' for methods (also those of 'unlabelled')."""
    cells: pd.DataFrame
    by: str
    """Column with the levels."""


class Annotators(NamedTuple):
    """Two people's labels of the same images, whose disagreement is the margin."""

    second: str
    """Name of the second person's label images among the methods."""
    cells: pd.DataFrame
    """The cells of both, with the column ``unit``."""


def disagreement(cells: pd.DataFrame, feature: str, second: str) -> float:
    """Return how far the means of two people's cells are apart in a typical unit.

    Parameters
    ----------
    cells : DataFrame
        Columns method (`TRUTH` or `second`), unit and `feature`.
    feature : str
        A column of numbers.
    second : str
        The second person's name.

    Returns
    -------
    float
        Mean over the units with cells of both people of the absolute difference of their means;
        NaN if there is no such unit. In the feature's unit.
    """
    known = cells[cells[feature].notna() & cells["unit"].notna()]
    means = known.groupby(["method", "unit"], observed=True)[feature].mean()
    if not {TRUTH, second} <= set(means.index.get_level_values("method")):
        return math.nan
    return float((means[TRUTH] - means[second]).abs().mean())


def with_verdicts(
    found: pd.DataFrame,
    questions: Sequence[Question],
    *,
    recommended: str | None,
    convention: str,
    resamples: int,
    seed: int,
    annotators: Annotators | None = None,
) -> pd.DataFrame:
    """Test the families of a report, and say of each difference in them what it means.

    Parameters
    ----------
    found : DataFrame
        `analysis.statistics.compare` of all `questions` and features, with comparison and method.
    questions : sequence of Question
    recommended : str or None
        The method whose populations are tested.
    convention, resamples, seed
        See `analysis.study.comparisons.comparisons`.
    annotators : Annotators, optional
        Two people whose `disagreement` is the margin, where it is known. The difference between
        these two is then in no family.

    Returns
    -------
    DataFrame
        `found` with further columns:

        - family: 'methods against truth', 'populations', 'unlabelled', or '' (exploratory: no
          verdict)
        - margin: the difference that half a pixel of boundary makes
          (`analysis.morphology.margin.half_pixel`), for cells as in this comparison; or that of
          two people
        - p_family: p of unit_difference, corrected for all differences of its family
          (`analysis.statistics.families.family_p`)
        - p_equivalent: p of two one-sided tests that the difference is within the margin
        - verdict: 'equivalent', 'different', 'undecided'; '' where there is none
        - further_units: about how many more units would decide, where undecided
    """
    asked = {(one.comparison, one.method): one for one in questions}
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in found.to_dict("records")
    ]
    pairs: dict[int, UnitPair] = {}
    kinds: dict[tuple[str, str, str], tuple[_Margins, dict[Any, pd.DataFrame]]] = {}
    for number, row in enumerate(rows):
        kind = (row["comparison"], row["method"], row["feature"])
        in_family = row["feature"] in FAMILY_FEATURES
        if kind not in kinds:
            question = asked[kind[:2]]
            column, _ = length_unit(question.cells, row["feature"])
            cells = cells_of(question.cells, column, question.by, "unit") if in_family else {}
            kinds[kind] = _Margins(question, row["feature"], convention, annotators), cells
        margins, cells = kinds[kind]
        second = annotators.second if annotators else None
        row["family"] = family_of(*kind[:2], row["a"], row["b"], recommended, second)
        row["margin"] = margins.of(row["a"], row["b"])
        row |= {"p_family": math.nan, "p_equivalent": math.nan, "verdict": ""}
        row["further_units"] = math.nan
        if in_family and row["family"] and row["n_a"] and row["n_b"]:
            pairs[number] = pair_units(cells[row["a"]], cells[row["b"]])[0]
    for family in (TRUTH_FAMILY, POPULATION_FAMILY, UNLABELLED):
        own = [number for number in pairs if rows[number]["family"] == family]
        blocks = [(rows[number]["a"], rows[number]["b"]) for number in own]
        tested = family_p([pairs[n] for n in own], blocks, resamples=resamples, seed=seed)
        for number, p in zip(own, tested.tolist()):
            rows[number] |= _verdict(pairs[number], p, rows[number]["margin"], len(own))
    return pd.DataFrame(rows)


def _verdict(pair: UnitPair, p: float, margin: float, size: int) -> dict[str, Any]:
    """Return the columns that a test of a family of `size` differences adds."""
    equivalent = equivalence_p(pair, margin)
    said = verdict(p, equivalent)
    more = None
    if said == UNDECIDED:
        more = further_units(pair, margin, level=family_level(pair, p, size))
    return {
        "p_family": p,
        "p_equivalent": equivalent,
        "verdict": said,
        "further_units": math.nan if more is None else more,
    }


class _Margins:
    """The margins of one feature in one question: of two people, if they are known; else what half
    a pixel does, to true cells where there are any.
    """

    def __init__(
        self,
        question: Question,
        feature: str,
        convention: str,
        annotators: Annotators | None,
    ) -> None:
        self.feature, self.convention, self.cells = feature, convention, question.cells
        self.by, self.annotators = question.by, annotators
        column, _ = length_unit(question.cells, feature)
        power = POWERS.get(feature, 0)
        pixel = 1.0
        self.column = column
        if column != feature:
            pixel = float(np.sqrt((self.cells["area_um2"] / self.cells["area"]).median()))
        self.scale = pixel**power
        self.known: dict[tuple[object, object], float] = {}

    def of(self, a: object, b: object) -> float:
        """Return the margin between two levels."""
        if self.by == "method":
            levels = [TRUTH] if (self.cells[self.by] == TRUTH).any() else [a, b]
        else:
            levels = [a, b]
        key = (levels[0], levels[-1])
        if key not in self.known:
            # each level counts the same, however many cells it has
            each = [self._one(level) for level in dict.fromkeys(levels)]
            self.known[key] = float(np.mean(each))
        return self.known[key]

    def _one(self, level: object) -> float:
        """Return the margin of one level's cells."""
        if self.annotators is not None:
            both, second = self.annotators.cells, self.annotators.second
            if self.by != "method":
                column = self.by if self.by in both else "group"  # 'between' is the group
                both = both[both[column] == level]
            people = disagreement(both, self.column, second)
            if not math.isnan(people):
                return people
        areas = self.cells.loc[self.cells[self.by] == level, "area"].dropna().to_numpy(float)
        return self.scale * half_pixel(areas, self.feature, convention=self.convention)
