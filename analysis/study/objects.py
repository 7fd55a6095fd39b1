"""The object table: one row for every cell of an image, true or found by a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.images import LabelledImage
from analysis.evaluation.scores import match
from analysis.evidence import TRUTH
from analysis.morphology.features import measure
from analysis.study.annotations import CellAnnotations as CellAnnotations

KEYS = (
    "trial_id",
    "method",
    "image",
    "group",
    "split",
    "label",
    "matched_label",
    "iou",
    "track",
    "population",
)
"""Columns of the object table before those of `analysis.morphology.measure`."""
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class CellMeasurer:
    """Measures the cells of images and pairs them with the true cells."""

    split: str
    """Split of the images: 'test', or 'other' if another data set is measured."""
    known: CellAnnotations
    """Tracks and populations of the true cells."""
    convention: str
    pixel_size_um: float | None
    """See `analysis.morphology.measure`."""

    def true_cells(self, image: LabelledImage) -> pd.DataFrame:
        """Measure the true cells of an image; see `found_cells`."""
        return self._rows(image.truth, image, TRUTH, "")

    def found_cells(
        self, labels: Labels, image: LabelledImage, *, method: str, trial_id: str
    ) -> pd.DataFrame:
        """Measure the cells that a method has found in an image.

        Parameters
        ----------
        labels : (H, W) int32 array
            The method's label image.
        image : LabelledImage
        method, trial_id : str
            Method and trial that found these cells.

        Returns
        -------
        DataFrame
            One row per cell: `KEYS`, then the columns of `analysis.morphology.measure`.
        """
        return self._rows(labels, image, method, trial_id)

    def _rows(
        self, labels: Labels, image: LabelledImage, method: str, trial_id: str
    ) -> pd.DataFrame:
        features = measure(labels, convention=self.convention, pixel_size_um=self.pixel_size_um)
        pairs = match(image.truth, labels)
        partner = pd.DataFrame(
            {"label": pairs.pred, "matched_label": pairs.true, "iou": pairs.iou}
        ).astype({"label": features["label"].dtype, "matched_label": "Int64", "iou": float})
        table = features.merge(partner, on="label", how="left")
        table["image"], table["group"] = image.item.stem, image.item.group
        cells = [self.known.get(image.item.stem, m) for m in table["matched_label"]]
        table["track"] = pd.array([c[0] for c in cells], dtype="Int64")
        table["population"] = pd.array([c[1] for c in cells], dtype="string")
        table["trial_id"], table["method"], table["split"] = trial_id, method, self.split
        return table[[*KEYS, *(c for c in table.columns if c not in KEYS)]]


def together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine the object tables of single images into one."""
    full = [table for table in tables if len(table)]
    if not full:
        return tables[0]
    return pd.concat(full, ignore_index=True)
