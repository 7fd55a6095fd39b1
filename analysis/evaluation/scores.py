"""How well predicted instances agree with true ones: per object, per image, per unit, pooled.

Matching, precision, recall, F1, average precision TP / (TP + FP + FN) and panoptic quality are
computed by `stardist.matching`. Pooled scores are ratios of sums over images, so that every object
has the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from stardist.matching import label_overlap, matching

from analysis.evidence import IOUS, LENGTHS

_T = tuple(f"{round(100 * t)}" for t in IOUS)
METRICS = (
    "precision_50",
    "recall_50",
    "f1_50",
    *(f"ap_{t}" for t in _T),
    "ap_mean",
    "pq",
    "seg",
    "masd",
    "hd95",
    "iou",
)
"""precision_50, recall_50, f1_50: at IoU 0.5. ap_50 ... ap_90: TP / (TP + FP + FN) at that IoU
(Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7), and their mean. pq: panoptic quality
(Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963) at 0.5. seg: SEG of the Cell Tracking Challenge
(Maska et al. 2014, doi:10.1093/bioinformatics/btu080). masd, hd95: distances between the outlines
of matched objects, in pixels, their mean over all pairs: the mean average surface distance, and the
95th percentile of the Hausdorff distance, as `outline_distances` computes them (Maier-Hein et al.
2024, doi:10.1038/s41592-023-02151-z). iou: of the foreground."""


@dataclass(frozen=True)
class ImageScores:
    """What one image adds to the pooled scores: a numerator and a denominator for each metric."""

    above: NDArray[np.float64]
    """(metrics - 1,), in the order of `METRICS` without ap_mean."""
    below: NDArray[np.float64]
    true_objects: int
    predicted_objects: int


@dataclass(frozen=True)
class Matching:
    """True and predicted instances paired in one image."""

    true: NDArray[np.int64]
    """(n,) labels of the matched true instances."""
    pred: NDArray[np.int64]
    """(n,) labels of their predicted instances."""
    iou: NDArray[np.float64]
    """(n,) IoU of each pair."""


_NAMES = tuple(name for name in METRICS if name != "ap_mean")


def numbered(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number a label image's instances 1..n, since stardist's tables grow with the largest label.

    Returns
    -------
    small : (H, W) int32 array
    values : (n + 1,) int64 array
        ``values[k]`` is the label that became k; the first one is 0.
    """
    found, index = np.unique(labels, return_inverse=True)
    values = found.astype(np.int64)
    if not values.size or values[0] != 0:
        values, index = np.concatenate([[0], values]), index + 1
    return index.reshape(labels.shape).astype(np.int32), values


def require_equal_shapes(true: NDArray[np.integer], pred: NDArray[np.integer]) -> None:
    """Raise ValueError when two label images have different shapes."""
    if true.shape != pred.shape:
        raise ValueError(f"true labels have shape {true.shape}, but predicted ones {pred.shape}")


def match(
    true: NDArray[np.integer], pred: NDArray[np.integer], *, threshold: float = 0.5
) -> Matching:
    """Pair true and predicted instances whose IoU is at least `threshold`, one to one.

    Parameters
    ----------
    true, pred : (H, W) integer arrays
        Label images.
    threshold : float
        Smallest IoU of a pair.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    require_equal_shapes(true, pred)
    (a, names_a), (b, names_b) = numbered(true), numbered(pred)
    found = match_numbered(a, b, threshold=threshold)
    return Matching(names_a[found.true], names_b[found.pred], found.iou)


def match_numbered(
    a: NDArray[np.int32], b: NDArray[np.int32], *, threshold: float = 0.5
) -> Matching:
    """Pair the instances of two label images as `match` does, if `numbered` made them."""
    found = matching(a, b, thresh=threshold, report_matches=True)
    ok = np.asarray(found.matched_scores, float) >= threshold
    pairs = np.asarray(found.matched_pairs, np.int64).reshape(-1, 2)[ok]
    return Matching(pairs[:, 0], pairs[:, 1], np.asarray(found.matched_scores, float)[ok])


def image_scores(
    true: NDArray[np.integer], pred: NDArray[np.integer], *, boundaries: bool = True
) -> ImageScores:
    """Score one image.

    Parameters
    ----------
    true, pred : (H, W) integer arrays
        Label images.
    boundaries : bool
        Whether to measure distances between outlines, which takes most of the time.

    Returns
    -------
    ImageScores
    """
    require_equal_shapes(true, pred)
    a, b = numbered(true)[0], numbered(pred)[0]
    results = matching(a, b, thresh=list(IOUS))
    half = results[0]
    values: dict[str, tuple[float, float]] = {
        "precision_50": (half.tp, half.tp + half.fp),
        "recall_50": (half.tp, half.tp + half.fn),
        "f1_50": (2 * half.tp, 2 * half.tp + half.fp + half.fn),
    }
    for name, result in zip(_T, results):
        values[f"ap_{name}"] = (float(result.tp), float(result.tp + result.fp + result.fn))
    # stardist's panoptic quality is the mean IoU of true positives times F1
    values["pq"] = (
        half.panoptic_quality * (half.tp + half.fp / 2 + half.fn / 2),
        half.tp + half.fp / 2 + half.fn / 2,
    )
    values["seg"] = (_seg(a, b), half.n_true)
    pairs = match_numbered(a, b)
    distances = outline_distances(a, b, pairs) if boundaries else np.zeros((0, 2))
    for name, column in zip(LENGTHS, distances.T):
        values[name] = (column.sum(), len(column))
    shared, either = np.count_nonzero((a > 0) & (b > 0)), np.count_nonzero((a > 0) | (b > 0))
    values["iou"] = (float(shared), float(either))
    table = np.array([values[name] for name in _NAMES], float)
    return ImageScores(table[:, 0], table[:, 1], int(half.n_true), int(half.n_pred))


def _seg(a: NDArray[np.int32], b: NDArray[np.int32]) -> float:
    """Return the sum of the IoUs of true instances with those that cover more than half of them."""
    overlap = label_overlap(a, b).astype(float)
    area_a, area_b = overlap.sum(1), overlap.sum(0)
    inside = overlap[1:, 1:]
    if not inside.size:
        return 0.0
    best = inside.argmax(1)
    shared = inside[np.arange(len(inside)), best]
    union = area_a[1:] + area_b[1:][best] - shared
    return float(np.where(shared > 0.5 * area_a[1:], shared / union, 0.0).sum())


def outline_distances(
    a: NDArray[np.int32], b: NDArray[np.int32], pairs: Matching
) -> NDArray[np.float64]:
    """Return MASD and HD95 of each pair of instances.

    Distances are measured from every outline pixel of one instance to the nearest outline pixel of
    the other, in each direction by itself, as Metrics Reloaded defines both metrics (Maier-Hein et
    al. 2024, doi:10.1038/s41592-023-02151-z; Reinke et al. 2024,
    doi:10.1038/s41592-023-02150-0). A pixel is on the outline if one above, below, left or right
    of it is outside its instance or the image.

    Parameters
    ----------
    a, b : (H, W) int32 arrays
        Label images.
    pairs : Matching
        Their instances, paired.

    Returns
    -------
    (pairs, 2) float64 array
        Pixels. MASD: the mean of the two directions' mean distances. HD95: the larger one of the
        two directions' 95th percentiles.
    """
    boxes_a, boxes_b = ndimage.find_objects(a), ndimage.find_objects(b)
    rows = []
    for i, j in zip(pairs.true, pairs.pred):
        box = tuple(
            slice(min(u.start, v.start), max(u.stop, v.stop))
            for u, v in zip(boxes_a[i - 1], boxes_b[j - 1])
        )
        one, other = _outline(a[box] == i), _outline(b[box] == j)
        there = ndimage.distance_transform_edt(~other)[one]
        back = ndimage.distance_transform_edt(~one)[other]
        masd = (there.mean() + back.mean()) / 2
        rows.append((masd, max(np.percentile(there, 95), np.percentile(back, 95))))
    return np.array(rows, float).reshape(-1, 2)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)


def pooled(
    images: Sequence[ImageScores], weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Pool the scores of images.

    Parameters
    ----------
    images : sequence of ImageScores
    weights : (..., images) array, optional
        How often each image counts; None means once.

    Returns
    -------
    (..., metrics) array
        Scores in the order of `METRICS`; NaN if there is neither a true nor a found object.
    """
    weights = np.ones(len(images)) if weights is None else np.asarray(weights, float)
    above = weights @ np.stack([one.above for one in images])
    below = weights @ np.stack([one.below for one in images])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(below > 0, above / below, np.nan)
    first, last = _NAMES.index(f"ap_{_T[0]}"), _NAMES.index(f"ap_{_T[-1]}") + 1
    mean = ratio[..., first:last].mean(-1, keepdims=True)
    return np.concatenate([ratio[..., :last], mean, ratio[..., last:]], axis=-1)


def unit_members(units: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Return which images belong to which independent unit.

    Parameters
    ----------
    units : sequence of str
        The unit of each image.

    Returns
    -------
    names : (units,) str array
        Names of the units, sorted.
    members : (units, images) float array
        1 where the image belongs to the unit, else 0; to be used as weights for `pooled`.

    Examples
    --------
    >>> unit_members(["b", "a", "b"])[1].tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    names, index = np.unique(np.asarray(units, str), return_inverse=True)
    return names, (index == np.arange(len(names))[:, None]).astype(float)
