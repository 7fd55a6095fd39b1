"""Where each method stands: by validation images and seeds, never by test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members


@dataclass(frozen=True)
class Selected:
    """One method's standing on validation."""

    score: float
    """Mean over seeds of the mean average precision; NaN where no image shows or has a cell."""
    units: int
    """Independent units that the images come from."""
    lowest: float
    highest: float
    """Mean average precision (mean over seeds) of the lowest and of the highest unit."""


def select(
    methods: Mapping[str, Sequence[Sequence[ImageScores]]], units: Sequence[str]
) -> dict[str, Selected]:
    """Score every method on validation.

    Parameters
    ----------
    methods : mapping of str to sequences
        Of each method, for each of its seeds, the scores of all validation images.
    units : sequence of str
        The independent unit of each image.

    Returns
    -------
    dict of str to Selected
        Estimates and the spread of the data. Which differences between methods are real does not
        follow from them.
    """
    column = METRICS.index("ap_mean")
    names, members = unit_members(units)
    found = {}
    for method, seeds in methods.items():
        whole = np.array([pooled(images)[column] for images in seeds])
        each = np.stack([pooled(images, members)[:, column] for images in seeds])
        means = each.mean(axis=0)  # a unit without cells is NaN with every seed or with none
        known = means[~np.isnan(means)]
        lowest, highest = (known.min(), known.max()) if known.size else (np.nan, np.nan)
        found[method] = Selected(_mean(whole), len(names), float(lowest), float(highest))
    return found


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
