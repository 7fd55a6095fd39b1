"""Intersection over union, per image and over a data set.

An image without cells in truth and prediction is perfectly segmented: its IoU is 1. It adds
nothing to the sums of the data-set IoU, which is 1 only when no image has any cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["dataset_iou", "per_image_iou"]


def overlap_counts(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[int, int]:
    """Pixels in the intersection and in the union of two masks.

    Parameters
    ----------
    pred, true : bool arrays of one shape

    Returns
    -------
    (intersection, union) : tuple of int

    Raises
    ------
    ValueError
        When shapes differ or an array is not boolean.

    Examples
    --------
    >>> overlap_counts(np.array([True, True, False]), np.array([True, False, False]))
    (1, 2)
    """
    pred, true = np.asarray(pred), np.asarray(true)
    if pred.shape != true.shape:
        raise ValueError(f"pred has shape {pred.shape}, true has shape {true.shape}")
    if pred.dtype != bool or true.dtype != bool:
        raise ValueError(f"masks must be boolean, not {pred.dtype} and {true.dtype}")
    return int(np.count_nonzero(pred & true)), int(np.count_nonzero(pred | true))


def _iou(intersection: int, union: int) -> float:
    return intersection / union if union else 1.0


def iou_from_counts(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Data-set IoU and per-image IoU from the counts of each image.

    Parameters
    ----------
    counts : sequence of (intersection, union)
        One pair per image, as `overlap_counts` gives.

    Returns
    -------
    (dataset_iou, image_iou) : tuple of float
        Sums divided once, and the mean of the images' ratios.

    Raises
    ------
    ValueError
        When there is no image.
    """
    if not counts:
        raise ValueError("IoU of no images is not defined")
    dataset = _iou(sum(i for i, _ in counts), sum(u for _, u in counts))
    return dataset, float(np.mean([_iou(i, u) for i, u in counts]))


def dataset_iou(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """IoU of a data set: intersections and unions summed over images, then divided.

    Of Jaccard 1912 (doi:10.1111/j.1469-8137.1912.tb05611.x).

    Parameters
    ----------
    pred, true : (N, H, W) bool arrays

    Returns
    -------
    float
        Between 0 and 1; 1 when neither holds any foreground.
    """
    return _iou(*overlap_counts(pred, true))


def per_image_iou(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Mean over images of each image's IoU; an image empty in both counts as 1.

    Of Jaccard 1912 (doi:10.1111/j.1469-8137.1912.tb05611.x).

    Parameters
    ----------
    pred, true : (N, H, W) bool arrays

    Returns
    -------
    float
    """
    pred, true = np.asarray(pred), np.asarray(true)
    if pred.shape != true.shape:
        raise ValueError(f"pred has shape {pred.shape}, true has shape {true.shape}")
    return iou_from_counts([overlap_counts(p, t) for p, t in zip(pred, true)])[1]
