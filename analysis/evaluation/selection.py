"""Score each method on validation images over all seeds, never on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members
from analysis.statistics.tied import tied_set


@dataclass(frozen=True)
class Selected:
    """The validation scores of one method."""

    score: float
    """Mean over independent units, and over seeds, of a unit's mean average precision. NaN where
    no unit shows or has a cell."""
    low: float
    high: float
    """The score's 95 % confidence interval, within 0 and 1; NaN with fewer than six units."""
    tied: bool
    """Whether the method may be the best (`analysis.statistics.tied_set`)."""
    units: int
    """Independent units that have a score."""
    lowest: float
    highest: float
    """The score (mean over seeds) of the lowest and of the highest unit."""


def unit_scores(
    methods: Mapping[str, Sequence[Sequence[ImageScores]]], units: Sequence[str]
) -> pd.DataFrame:
    """Return the mean average precision of each method's seeds on each unit.

    Parameters
    ----------
    methods : mapping of str to sequences
        For each method and each of its seeds, the scores of all validation images.
    units : sequence of str
        The independent unit of each image.

    Returns
    -------
    DataFrame
        Columns method, seed (numbered from 0), unit and score, as `tied_set` takes them. In a unit
        without true cells a method that shows none scores 1 if others show some, else all are NaN.
    """
    column = METRICS.index("ap_mean")
    names, members = unit_members(units)
    rows = [
        (method, seed, str(unit), score)
        for method, seeds in methods.items()
        for seed, images in enumerate(seeds)
        for unit, score in zip(names, pooled(images, members)[:, column])
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "unit", "score"])
    return table.assign(score=without_cells(table["score"], [table["unit"]]))


def without_cells(
    scores: pd.Series, units: Sequence[pd.Series], counts: pd.Series | None = None
) -> pd.Series:
    """Return scores that are also known in units without true cells, where a method shows some.

    Who shows nothing where nothing is has made no mistake, where others have invented cells.

    Parameters
    ----------
    scores : Series
        Average precision of each method; NaN where it shows no cell and there is none.
    units : sequence of Series
        What scores have to share to be of the same unit: its name, and the metric, for example.
    counts : Series of bool, optional
        The scores whose methods count as others; all by default.

    Returns
    -------
    Series
        `scores`, with 1 in the place of NaN where another method has a score.
    """
    known = scores.notna() if counts is None else scores.notna() & counts
    shown = known.groupby(list(units)).transform("any")
    return scores.where(scores.notna() | ~shown, 1.0)


def select(scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Selected]:
    """Say where every method stands on validation.

    Parameters
    ----------
    scores : DataFrame
        As `unit_scores` gives them.
    seed : int
        See `analysis.statistics.tied_set`.

    Returns
    -------
    dict of str to Selected
        Best first.
    """
    known = scores[scores.groupby("unit")["score"].transform(lambda s: s.notna().all())]
    each = known.groupby(["method", "unit"])["score"].mean().groupby(level="method")
    lowest, highest, count = each.min(), each.max(), known["unit"].nunique()
    nan = float("nan")
    return {
        row["method"]: Selected(
            row["score"],
            max(0.0, row["low"]) if row["low"] == row["low"] else nan,
            min(1.0, row["high"]) if row["high"] == row["high"] else nan,
            row["tied"],
            count,
            float(lowest.get(row["method"], nan)),
            float(highest.get(row["method"], nan)),
        )
        for row in tied_set(scores, seed=seed).to_dict("records")
    }
