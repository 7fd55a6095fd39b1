"""Star-convex polygons: training targets, decoding, thresholds. No torch, no TensorFlow.

Targets, non-maximum suppression and rendering are stardist's own compiled functions (Schmidt et
al. 2018, "Cell Detection with Star-convex Polygons", doi:10.1007/978-3-030-00934-2_30).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainables.metrics import iou_from_counts, overlap_counts

MOST_CANDIDATES = 50_000
"""Largest number of polygons for non-maximum suppression: an untrained network marks every pixel,
and comparing a million takes minutes."""
PROBS = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.998,
    0.999,
    0.9998,
    0.9999,
)
"""Probability thresholds that are tried; those below `COSTLY` only if they may be best."""
COSTLY = 0.1
"""Below this, halos and background propose so many stars that one try may take as long as all
others together."""
NMS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Overlap thresholds that are tried."""
SMALLEST_DISTANCE = 1e-3
"""Pixels; stardist's own lower bound of predicted distances."""


@dataclass(frozen=True)
class Thresholds:
    """What decoding needs besides a network's output."""

    prob: float = 0.5
    """Least object probability of a polygon's centre."""
    nms: float = 0.4
    """Overlap above which the less probable of two polygons is dropped."""


@dataclass(frozen=True)
class Detections:
    """Polygons that were kept and are visible, most probable first: label n is row n - 1."""

    points: NDArray[np.int64]
    """(n, 2) centres as (y, x), in pixels."""
    distances: NDArray[np.float32]
    """(n, rays) radial distances, in pixels."""
    probabilities: NDArray[np.float32] = field(repr=False)
    """(n,) object probabilities."""


def _numbered(labels: NDArray[np.integer]) -> NDArray[np.uint16]:
    """Give an image's objects the numbers 1..n, in stardist's 16 bits."""
    values, index = np.unique(labels, return_inverse=True)
    if values.size and values[0] < 0:
        raise ValueError("labels must not be negative")
    first = 0 if values.size and values[0] == 0 else 1
    if len(values) - 1 + first > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(values) - 1 + first} objects in one image; the limit is 65535")
    numbers: NDArray[np.uint16] = (index.reshape(labels.shape) + first).astype(np.uint16)
    return numbers


def star_targets(labels: NDArray[np.integer], rays: int = 32, grid: int = 1) -> NDArray[np.float32]:
    """Make the training target of a star-convex head.

    Parameters
    ----------
    labels : (H, W) integer array
        Label image, 0 = background.
    rays : int
        Number of radial directions, starting at the positive x direction.
    grid : int
        Make targets only for every `grid`-th pixel in both directions.

    Returns
    -------
    (1 + rays, h, w) float32 array
        Object probability (each pixel's distance to the edge of its object, divided by the
        object's largest), and the distances in pixels to the object's edge; 0 in background.
        Ray number k points to ``(y + sin(2 pi k / rays), x + cos(2 pi k / rays))``.

    Raises
    ------
    ValueError
        When a label is negative, or when there are more than 65535 objects.
    """
    from stardist.geometry import star_dist
    from stardist.utils import edt_prob

    target = np.zeros((1 + rays, *(-(-side // grid) for side in labels.shape)), np.float32)
    small = _numbered(labels)
    if not small.any():
        return target
    if small.min() == small.max():  # a cell that fills the image ends at its edge
        prob = edt_prob(np.pad(small, 1))[1:-1, 1:-1]
    else:  # a cell that a crop cuts continues beyond it
        prob = edt_prob(small)
    target[0] = prob[::grid, ::grid]
    dist = star_dist(small, n_rays=rays, mode="cpp", grid=(grid, grid))
    target[1:] = np.moveaxis(dist, -1, 0)
    return target


def detect(
    prob: NDArray[np.floating],
    dist: NDArray[np.floating],
    thresholds: Thresholds = Thresholds(),
    *,
    grid: int = 1,
    shape: tuple[int, int] | None = None,
) -> tuple[NDArray[np.int32], Detections]:
    """Turn predicted probabilities and distances into instances.

    Parameters
    ----------
    prob : (h, w) array
        Object probability of every `grid`-th pixel of the image, starting at the first.
    dist : (rays, h, w) array
        Radial distances of the same pixels, in pixels of the image.
    thresholds : Thresholds
    grid : int
    shape : (H, W), optional
        Of the image; None: ``(h * grid, w * grid)``.

    Returns
    -------
    labels : (H, W) int32 array
        Label image; label 1 has the highest probability.
    detections : Detections
    """
    from stardist.geometry import polygons_to_label
    from stardist.nms import non_maximum_suppression_inds

    shape = shape or (prob.shape[0] * grid, prob.shape[1] * grid)
    candidates = (prob >= thresholds.prob) & np.isfinite(prob) & np.isfinite(dist).all(axis=0)
    candidates = _thinned(candidates)
    points = np.argwhere(candidates)
    scores = prob[candidates].astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    distances = np.maximum(dist[:, points[:, 0], points[:, 1]].T, SMALLEST_DISTANCE)
    distances = np.ascontiguousarray(distances, np.float32)
    points = points * grid
    if not len(points):
        return np.zeros(shape, np.int32), Detections(points, distances, scores)
    kept = non_maximum_suppression_inds(
        distances, points.astype(np.int32), scores=scores, thresh=thresholds.nms, verbose=False
    )
    found = Detections(points[kept], distances[kept], scores[kept])
    # polygons are painted in the order of rising probability and numbered by their place
    labels = polygons_to_label(found.distances, found.points, shape, prob=found.probabilities)
    return _visible(labels, found)


def _thinned(candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leave at most `MOST_CANDIDATES`, evenly: taking the most probable would lose the faint cells
    of a crowded image.
    """
    every = 1
    while np.count_nonzero(candidates) > MOST_CANDIDATES:
        every *= 2
        thin = np.zeros_like(candidates)
        thin[::every, ::every] = candidates[::every, ::every]
        candidates = thin
    return candidates


def _visible(
    labels: NDArray[np.integer], found: Detections
) -> tuple[NDArray[np.int32], Detections]:
    """Drop the polygons that have no pixel (too small, or painted over), and their numbers."""
    seen = np.zeros(1 + len(found.points), bool)
    seen[labels] = True
    if not seen[1:].all():
        visible = seen[1:]
        found = Detections(
            found.points[visible], found.distances[visible], found.probabilities[visible]
        )
        labels = (np.cumsum(seen) - seen[0])[labels] * (labels > 0)
    return labels.astype(np.int32), found


def decode(
    prob: NDArray[np.floating],
    dist: NDArray[np.floating],
    thresholds: Thresholds = Thresholds(),
    *,
    grid: int = 1,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.int32]:
    """Return the label image of `detect`."""
    return detect(prob, dist, thresholds, grid=grid, shape=shape)[0]


def polygon_ceiling(labels: Sequence[NDArray[np.integer]], rays: int, grid: int) -> float:
    """Return the data-set IoU of polygons with the true distances.

    Parameters
    ----------
    labels : sequence of (H, W) integer arrays
    rays, grid : int
        As for `star_targets`.

    Examples
    --------
    >>> square = np.zeros((40, 40), int)
    >>> square[10:30, 10:30] = 1
    >>> polygon_ceiling([square], 32, 1) > polygon_ceiling([square], 8, 1)
    True
    """
    counts = []
    for one in labels:
        target = star_targets(one, rays, grid)
        mask = decode(target[0], target[1:], grid=grid, shape=(one.shape[0], one.shape[1])) > 0
        counts.append(overlap_counts(mask, one > 0))
    return iou_from_counts(counts)[0]


def optimize_thresholds(
    predictions: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]],
    truths: Sequence[NDArray[np.integer]],
    *,
    grid: int = 1,
    probs: Sequence[float] = PROBS,
    nms: Sequence[float] = NMS,
    ious: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
) -> Thresholds:
    """Choose thresholds by mean average precision TP / (TP + FP + FN).

    Parameters
    ----------
    predictions : sequence of (prob, dist)
        As for `decode`.
    truths : sequence of (H, W) integer arrays
    grid : int
        As for `decode`.
    probs, nms : sequence of float
        Values of the coarse search: first probabilities at the default overlap, then overlaps at
        the best of them. Then the best probability is refined by half a step on the logit scale
        in both directions. Probabilities below `COSTLY` are tried from the largest down, as long
        as the last is no worse than any and finds no more stars than there are objects.
    ious : sequence of float
        Thresholds of the matching over which precision is averaged; objects are counted over all
        images together.

    Returns
    -------
    Thresholds
        The defaults if nothing is better, or if no truth contains an object.

    Raises
    ------
    ValueError
        When there are not as many truths as predictions, or as for `star_targets`.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions, {len(truths)} truths")
    if not any(truth.any() for truth in truths):
        return Thresholds()
    search = _Search(predictions, truths, grid, ious)
    probs = sorted(probs)
    search.consider([Thresholds(prob) for prob in probs if prob >= COSTLY])
    lowest = min((t for t in search.scores if t.prob >= COSTLY), key=lambda t: t.prob)
    for prob in (p for p in reversed(probs) if p < COSTLY):
        if search.scores[lowest] < search.scores[search.best] or search.crowded[lowest]:
            break
        lowest = Thresholds(prob, search.best.nms)
        search.consider([lowest])
    best = search.consider([Thresholds(search.best.prob, overlap) for overlap in nms])
    below = [p for p in probs if p < best.prob][-1:]
    above = [p for p in probs if p > best.prob][:1]
    around = [round(_between(best.prob, prob), 7) for prob in (*below, *above)]
    return search.consider([Thresholds(prob, best.nms) for prob in around])


class _Search:
    """Scores of the thresholds tried so far; the defaults are tried first."""

    def __init__(
        self,
        predictions: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]],
        truths: Sequence[NDArray[np.integer]],
        grid: int,
        ious: Sequence[float],
    ) -> None:
        self.predictions, self.grid, self.ious = predictions, grid, list(ious)
        # stardist's matching makes a table as long as the largest label
        self.truths = [_numbered(truth).astype(np.int32) for truth in truths]
        self.best = Thresholds()
        self.crowded: dict[Thresholds, bool] = {}
        """Whether more stars than objects were found."""
        self.scores = {self.best: self._score(self.best)}

    def consider(self, trials: Sequence[Thresholds]) -> Thresholds:
        """Try thresholds, and return the best of all so far; of equals the first."""
        for trial in trials:
            if trial not in self.scores:
                self.scores[trial] = self._score(trial)
        self.best = max([self.best, *trials], key=lambda trial: self.scores[trial])
        return self.best

    def _score(self, thresholds: Thresholds) -> float:
        from stardist.matching import matching_dataset

        found = [
            decode(prob, dist, thresholds, grid=self.grid, shape=truth.shape)
            for (prob, dist), truth in zip(self.predictions, self.truths)
        ]
        results = matching_dataset(self.truths, found, thresh=self.ious, show_progress=False)
        self.crowded[thresholds] = results[0].n_pred > results[0].n_true
        return float(np.mean([r.accuracy for r in results]))


def _between(a: float, b: float) -> float:
    """Return the probability halfway between two on the logit scale."""
    odds = np.sqrt(a / (1 - a) * b / (1 - b))
    return float(odds / (1 + odds))


def at_bound(thresholds: Thresholds) -> list[str]:
    """Return the names of thresholds at an end of the range that `optimize_thresholds` tries.

    Examples
    --------
    >>> at_bound(Thresholds(0.9999, 0.4))
    ['prob']
    """
    prob, nms = thresholds.prob, thresholds.nms
    ends = {"prob": not PROBS[0] < prob < PROBS[-1], "nms": not NMS[0] < nms < NMS[-1]}
    return [name for name, ended in ends.items() if ended]
