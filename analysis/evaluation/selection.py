"""Score each method on validation images over all seeds, never on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members


@dataclass(frozen=True)
class Selected:
    """The validation scores of one method."""

    score: float
    """Mean average precision, averaged over seeds; NaN if images have no true and no found cell."""
    units: int
    """Number of independent units that the images come from."""
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
        For each method and each of its seeds, the scores of all validation images.
    units : sequence of str
        The independent unit of each image.

    Returns
    -------
    dict of str to Selected
        Estimates and the spread of the data. They do not show which differences between methods
        are real.
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
