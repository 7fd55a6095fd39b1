"""The object table: one row for every cell of an image, true or found by a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.images import LabelledImage
from analysis.evaluation.outcomes import FOUND, outcomes
from analysis.evidence import TRUTH
from analysis.morphology.border import border_labels
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
    "overlap_label",
    "outcome",
    "at_border",
    "left_out",
)
"""Columns of the object table before those of `analysis.morphology.measure`; see
`analysis.evidence.Evidence.objects`."""
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
        features = self._features(image.truth)
        at_border = np.isin(features["label"], border_labels(image.truth))
        rows = features.assign(
            matched_label=features["label"].astype("Int64"),
            iou=1.0,
            overlap_label=features["label"].astype("Int64"),
            outcome=FOUND,
            at_border=at_border,
            left_out=at_border,
        )
        return self._named(rows, image, TRUTH, "")

    def found_cells(
        self, labels: Labels, image: LabelledImage, *, method: str, trial_id: str
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
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
        cells : DataFrame
            One row per cell: `KEYS`, then the columns of `analysis.morphology.measure`.
        errors : DataFrame
            What became of the cells; see `analysis.evidence.Evidence.errors`.
        """
        became = outcomes(image.truth, labels)
        pairs = became.matching
        partner = pd.DataFrame({"label": pairs.pred, "matched_label": pairs.true, "iou": pairs.iou})
        overlap = pd.DataFrame(
            {
                "label": became.pred,
                "overlap_label": became.overlapped,
                "outcome": became.pred_outcome,
            }
        )
        rows = self._features(labels)
        own = rows["label"].dtype
        for table in (partner, overlap):
            rows = rows.merge(table.astype({"label": own}), on="label", how="left")
        overlapped = rows["overlap_label"].astype("Int64")
        rows["overlap_label"] = overlapped.where(overlapped > 0)
        rows["matched_label"] = rows["matched_label"].astype("Int64")
        rows["at_border"] = np.isin(rows["label"], border_labels(labels))
        of_border_cell = rows["overlap_label"].isin(border_labels(image.truth))
        # an invented cell has no true one; at the border it is cut like the others there
        rows["left_out"] = np.where(rows["overlap_label"].isna(), rows["at_border"], of_border_cell)
        errors = became.counts.assign(
            method=method, image=image.item.stem, group=image.item.group, split=self.split
        )
        return self._named(rows, image, method, trial_id), errors

    def _features(self, labels: Labels) -> pd.DataFrame:
        return measure(labels, convention=self.convention, pixel_size_um=self.pixel_size_um)

    def _named(
        self, rows: pd.DataFrame, image: LabelledImage, method: str, trial_id: str
    ) -> pd.DataFrame:
        """Add what is known of the true cells, and where the cells are from."""
        known = [self.known.get(image.item.stem, label) for label in rows["overlap_label"]]
        table = rows.assign(
            track=pd.array([track for track, _ in known], dtype="Int64"),
            population=pd.array([population for _, population in known], dtype="string"),
            image=image.item.stem,
            group=image.item.group,
            trial_id=trial_id,
            method=method,
            split=self.split,
        )
        return table[[*KEYS, *(c for c in table.columns if c not in KEYS)]]


def together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine the object tables of single images into one."""
    full = [table for table in tables if len(table)]
    if not full:
        return tables[0]
    return pd.concat(full, ignore_index=True)
