"""What became of every cell: found, missed, invented, merged, split, or with a wrong boundary.

Also how much of the lost average precision each of these causes explains, in the manner of TIDE
(Bolya et al. 2020, doi:10.1007/978-3-030-58580-8_33).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from analysis.evaluation.scores import (
    Matching,
    match_numbered,
    numbered,
    require_equal_shapes,
)
from analysis.evidence import IOUS

FOUND = "found"
CAUSES = ("missed", "invented", "merged", "split", "boundary")
"""Why a cell is not right, in the order in which figures show them."""
_MISSED, _INVENTED, _MERGED, _SPLIT, _BOUNDARY = range(len(CAUSES))
MOST = 0.5
"""Two cells belong together if they share more than this part of the smaller one."""
TP_COLUMNS = tuple(f"tp_{round(100 * iou)}" for iou in IOUS)


class Outcomes(NamedTuple):
    """What became of the cells of one image."""

    true: NDArray[np.int64]
    """(n,) labels of the true cells."""
    true_outcome: NDArray[np.str_]
    """(n,) `FOUND`, or one of `CAUSES` except 'invented'."""
    pred: NDArray[np.int64]
    """(m,) labels of the predicted cells."""
    pred_outcome: NDArray[np.str_]
    """(m,) `FOUND`, or one of `CAUSES` except 'missed'."""
    overlapped: NDArray[np.int64]
    """(m,) label of the true cell that each predicted cell overlaps most; 0 for invented ones."""
    matching: Matching
    """Pairs with an IoU of at least 0.5."""
    counts: pd.DataFrame
    """One row for each of `CAUSES`: cause, true_cells, predicted_cells, and for each of `IOUS` the
    true positives (tp_50 ...) among them. The row 'boundary' has all pairs of one true and one
    predicted cell, also those that are right."""


def outcomes(true: NDArray[np.integer], pred: NDArray[np.integer]) -> Outcomes:
    """Say what became of every cell of an image.

    A true and a predicted cell *belong together* if they share more than half of the smaller one.
    Cells that are connected by this, directly or through others, are

    - merged, if a predicted cell belongs to several true ones
    - split, if a true cell belongs to several predicted ones, and none is merged
    - found, if they are one true and one predicted cell with an IoU of at least 0.5; otherwise
      their boundary is wrong

    A true cell that belongs to no predicted one is missed, and a predicted cell that belongs to no
    true one is invented.

    Parameters
    ----------
    true, pred : (H, W) integer arrays
        Label images.

    Returns
    -------
    Outcomes

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    require_equal_shapes(true, pred)
    (a, names_a), (b, names_b) = numbered(true), numbered(pred)
    n, m = len(names_a) - 1, len(names_b) - 1
    shared = _shared_pixels(a, b, n, m)
    cause_a, cause_b = _causes(shared, _areas(a, n), _areas(b, m))
    pairs = match_numbered(a, b)
    tp = np.zeros((len(CAUSES), len(IOUS)), np.int64)
    for column, iou in enumerate(IOUS):
        # IoUs have single precision, in which 7 / 10 is a little less than 0.7
        right = pairs.true[pairs.iou >= iou - 1e-7] - 1
        tp[:, column] = np.bincount(cause_a[right], minlength=len(CAUSES))
    counts = pd.DataFrame(
        {
            "cause": CAUSES,
            "true_cells": np.bincount(cause_a, minlength=len(CAUSES)),
            "predicted_cells": np.bincount(cause_b, minlength=len(CAUSES)),
            **dict(zip(TP_COLUMNS, tp.T)),
        }
    )
    named_a, named_b = np.array(CAUSES)[cause_a], np.array(CAUSES)[cause_b]
    named_a[(cause_a == _BOUNDARY) & np.isin(np.arange(1, n + 1), pairs.true)] = FOUND
    named_b[(cause_b == _BOUNDARY) & np.isin(np.arange(1, m + 1), pairs.pred)] = FOUND
    most = _most_overlapped(shared)
    overlapped = np.where(cause_b == _INVENTED, 0, names_a[most])
    named_pairs = Matching(names_a[pairs.true], names_b[pairs.pred], pairs.iou)
    return Outcomes(names_a[1:], named_a, names_b[1:], named_b, overlapped, named_pairs, counts)


def _areas(labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    return np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)


def _shared_pixels(a: NDArray[np.int32], b: NDArray[np.int32], n: int, m: int) -> sparse.coo_array:
    """Return how many pixels each true cell (row) shares with each predicted one (column)."""
    both = (a > 0) & (b > 0)
    ones = np.ones(np.count_nonzero(both))
    shared = sparse.coo_array((ones, (a[both] - 1, b[both] - 1)), shape=(n, m))
    shared.sum_duplicates()
    return shared


def _causes(
    shared: sparse.coo_array, area_a: NDArray[np.float64], area_b: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place in `CAUSES` of each true and each predicted cell."""
    n, m = shared.shape
    row, column = shared.coords
    together = shared.data > MOST * np.minimum(area_a[row], area_b[column])
    row, column = row[together], column[together]
    of_true, of_pred = np.bincount(row, minlength=n), np.bincount(column, minlength=m)
    links = sparse.coo_array((np.ones(len(row)), (row, n + column)), shape=(n + m, n + m))
    count, part = sparse.csgraph.connected_components(links, directed=False)
    kind = np.full(count, _BOUNDARY)
    kind[part[:n][of_true > 1]] = _SPLIT
    kind[part[n:][of_pred > 1]] = _MERGED
    cause_a, cause_b = kind[part[:n]], kind[part[n:]]
    cause_a[of_true == 0], cause_b[of_pred == 0] = _MISSED, _INVENTED
    return cause_a, cause_b


def _most_overlapped(shared: sparse.coo_array) -> NDArray[np.int64]:
    """Return for each predicted cell the number, from 1, of the true cell it overlaps most; 0 if
    none, and the first of equals.
    """
    row, column = shared.coords
    most = np.zeros(shared.shape[1], np.int64)
    order = np.lexsort((-row, shared.data))  # the last one written is the largest
    most[column[order]] = row[order] + 1
    return most


def budget(counts: pd.DataFrame) -> pd.DataFrame:
    """Return how much average precision each cause costs.

    Parameters
    ----------
    counts : DataFrame
        `Outcomes.counts` of one or several images of one method.

    Returns
    -------
    DataFrame
        One row for each of `CAUSES`: cause, true_cells, predicted_cells, ap (mean AP over `IOUS`
        of these images, the same in each row), lost (the part of mean AP that this cause takes:
        together with ap they add up to 1), gives_back (by how much mean AP would rise if
        exactly the cells of this cause were right). NaN where there is no cell at all. In the row
        'boundary', true_cells and predicted_cells are all pairs of one true and one predicted cell.
    """
    table = counts.groupby("cause", sort=False)[["true_cells", "predicted_cells", *TP_COLUMNS]]
    sums = table.sum().reindex(list(CAUSES), fill_value=0)
    tp = sums[list(TP_COLUMNS)].to_numpy(float)
    true = sums["true_cells"].to_numpy(float)[:, None]
    pred = sums["predicted_cells"].to_numpy(float)[:, None]
    every = true.sum() + pred.sum() - tp.sum(0)  # TP + FP + FN at each IoU
    # with a cause set right, each of its true cells is found by one predicted cell
    tp_then = tp.sum(0) - tp + true
    every_then = true.sum() + (pred.sum() - pred + true) - tp_then
    with np.errstate(invalid="ignore", divide="ignore"):
        ap = (tp.sum(0) / every).mean()
        lost = ((true - tp + pred - tp) / every).mean(1)
        # an image from which only the invented cells are taken away has none left
        then = np.where(every_then > 0, tp_then / every_then, 1.0).mean(1)
    found = sums[["true_cells", "predicted_cells"]].reset_index()
    return found.assign(ap=ap, lost=lost, gives_back=then - ap)
