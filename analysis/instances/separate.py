"""Turn a network's output into a label image, in the paper's three ways.

Every function takes arrays and returns an int32 label image: 0 is background, and instances are
numbered from 1, row by row. Free parameters are keyword arguments, and
`analysis.evaluation.calibration` finds their best values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from analysis.kernels.flooding import (
    cut_lines,
    flood_distances,
    gap_pixels,
    grow,
    squared_distances,
)
from analysis.kernels.parts import fill_holes, find_parts, numbered
from trainables.labels import BOUNDARY, CELL, touching_gap
from trainables.starconvex import Thresholds, decode

_EIGHT = np.ones((3, 3), bool)
NOTCH = 4
"""Up to this many pixels in a row between two diverging instances do not count as a gap."""


def watershed_2class(
    probability: NDArray[np.floating] | NDArray[np.bool_],
    *,
    threshold: float = 0.5,
    seed_depth: float = 0.5,
    min_size: int = 20,
    smoothing: float = 0.0,
    give_back_gap: bool = False,
) -> NDArray[np.int32]:
    """Separate touching cells by a watershed on the distance map, as the paper does.

    The watershed of Vincent and Soille 1991 (doi:10.1109/34.87344), with seeds by their dynamic
    (Grimaud 1992, doi:10.1117/12.60650).

    Parameters
    ----------
    probability : (H, W) array
        Foreground probability; a boolean mask counts as 0 and 1.
    threshold : float
        Smallest probability of the foreground.
    seed_depth : float
        Depth in pixels by which the distance map must fall between two cells; if it falls less,
        they count as one cell. 0.5 is the tolerance of ImageJ's watershed.
    min_size : int
        Pixels of the smallest cell. Smaller cells are dropped, and smaller holes are filled.
    smoothing : float
        Standard deviation in pixels of a Gaussian filter applied to the probability.
    give_back_gap : bool
        The watershed cuts a line one pixel wide between cells (and networks learn from labels with
        such cuts), which biases every area. True leaves out the watershed's line and fills the
        network's with `give_gap_back`.

    Returns
    -------
    (H, W) int32 array

    Raises
    ------
    ValueError
        When the array is not two-dimensional, or a parameter is out of range.
    """
    mask = _mask(_plane(probability), threshold, smoothing, min_size)
    if seed_depth < 0:
        raise ValueError(f"seed_depth must not be negative, not {seed_depth}")
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    squared = squared_distances(mask)
    inside = np.flatnonzero(squared.ravel() > 0)
    order = inside[_from_the_top(squared.ravel()[inside])]
    basins = flood_distances(squared, order, float(seed_depth))[1:-1, 1:-1].copy()
    if not give_back_gap:
        return _numbered(cut_lines(basins), min_size)
    return give_gap_back(_numbered(basins, min_size))


def from_3class(
    probabilities: NDArray[Any],
    *,
    threshold: float = 0.5,
    seed_threshold: float = 0.5,
    min_size: int = 20,
    smoothing: float = 0.0,
    min_seed: float | None = None,
) -> NDArray[np.int32]:
    """Take connected parts of the class cell as cells, and give the boundary back to them.

    The 3-class way of Vasinkova et al. 2024 (doi:10.1177/11779322241272387).

    Parameters
    ----------
    probabilities : (3, H, W) float array, or (H, W) array of integer classes
        Probabilities of background, cell and boundary, in this order.
    threshold : float
        Smallest probability of cell plus boundary in the foreground.
    seed_threshold : float
        Smallest share of the class cell in that sum inside a cell.
    min_size : int
        Pixels of the smallest cell, including its boundary.
    smoothing : float
        Standard deviation in pixels of a Gaussian filter applied to the probabilities.
    min_seed : float, optional
        Pixels of the smallest part of the class cell that makes a cell of its own; by default
        `smallest_seed` of `min_size`. Smaller parts are taken for boundary if there is a larger
        one in the same connected part of the foreground.

    Returns
    -------
    (H, W) int32 array

    Raises
    ------
    ValueError
        When the array has another shape, or a parameter is out of range.

    Notes
    -----
    Cells without a pixel of the class cell are lost; they are smaller than their own boundary.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim == 2 and np.issubdtype(probabilities.dtype, np.integer):
        classes = probabilities
        probabilities = np.stack([classes == c for c in range(3)]).astype(np.float32)
    if probabilities.ndim != 3 or probabilities.shape[0] != 3:
        raise ValueError(
            f"probabilities of three classes must have shape (3, H, W), not {probabilities.shape}"
        )
    boundary, foreground = probabilities[BOUNDARY], probabilities[CELL] + probabilities[BOUNDARY]
    mask = _mask(foreground, threshold, smoothing, min_size)
    if smoothing > 0:
        boundary = ndimage.gaussian_filter(boundary, smoothing, mode="nearest")
        foreground = ndimage.gaussian_filter(foreground, smoothing, mode="nearest")
    # what is left for the boundary: float32 holds 1e-9, and takes 1 - 1e-9 for 1
    seeds = mask & (boundary <= (1 - seed_threshold) * foreground)
    # 4 neighbours: a boundary one pixel wide separates along diagonals, too
    labels = ndimage.label(seeds)[0].astype(np.int32)
    labels = _without_strays(
        labels, mask, smallest_seed(min_size) if min_seed is None else min_seed
    )
    return _numbered(grow(labels, mask, max(mask.shape)), min_size)


def smallest_seed(min_size: float) -> float:
    """Return the least number of pixels of the class cell in a cell of `min_size` pixels.

    Without it, one stray pixel in a wide boundary would become a cell as large as the boundary is
    wide, taken from the cells beside it.

    Returns
    -------
    float
        A tenth of `min_size`, but not more than what a boundary 1.5 pixels wide leaves of a round
        cell of that size: cells of 15 pixels or less may have a seed of a single pixel.

    Notes
    -----
    The targets' boundary is one pixel wide inside a cell. In 25,000 ellipses of axes up to 2:1 and
    12 pixels or more, touching or not, it left at least twice this number of a cell of `min_size`.

    Examples
    --------
    >>> [round(smallest_seed(size), 1) for size in (0, 9, 15, 20, 100)]
    [0.0, 0.1, 1.5, 2.0, 10.0]
    """
    inner = max(0.0, math.sqrt(min_size / math.pi) - 1.5)
    return min(min_size / 10, math.pi * inner**2)


def _without_strays(
    labels: NDArray[np.int32], mask: NDArray[np.bool_], least: float
) -> NDArray[np.int32]:
    """Drop seeds of fewer than `least` pixels, where a larger one is in the same part of `mask`."""
    sizes = np.bincount(labels.ravel())
    small = sizes < least
    small[0] = False
    if not small.any():
        return labels
    parts, count = find_parts(mask.astype(np.int32), True)
    part = np.zeros(len(sizes), np.int64)
    part[labels] = parts
    large = np.zeros(count + 1, bool)
    large[part[1:][~small[1:]]] = True
    return np.where((small & large[part])[labels], 0, labels).astype(np.int32)


def from_star_convex(
    prob: NDArray[np.floating],
    dist: NDArray[np.floating],
    *,
    prob_threshold: float = 0.5,
    nms_threshold: float = 0.4,
    min_size: int = 0,
    grid: int = 1,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.int32]:
    """Decode star-convex polygons with StarDist's non-maximum suppression and rendering.

    Schmidt et al. 2018 (doi:10.1007/978-3-030-00934-2_30).

    Parameters
    ----------
    prob : (h, w) array
        Object probability at every `grid`-th pixel.
    dist : (rays, h, w) array
        Radial distances in pixels.
    prob_threshold, nms_threshold : float
        Smallest object probability; overlap above which the less probable polygon is dropped.
    min_size : int
        Pixels of the smallest cell. Polygons that cannot have so many pixels do not suppress
        others.
    grid : int
        Distance in pixels between neighbouring values of `prob`.
    shape : (int, int), optional
        Shape of the image; by default ``(h * grid, w * grid)``.

    Returns
    -------
    (H, W) int32 array
    """
    if min_size > 0:
        prob = np.where(_most_pixels(dist) < min_size, 0, prob)
    labels = decode(prob, dist, Thresholds(prob_threshold, nms_threshold), grid=grid, shape=shape)
    return _numbered(labels, min_size, connected=False)


def _most_pixels(dist: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return how many pixels polygons have at most: the area of polygons one pixel larger."""
    far = dist + 1
    products = (far * np.roll(far, -1, axis=0)).sum(axis=0)
    return np.asarray(math.sin(2 * math.pi / len(dist)) / 2 * products)


def _from_the_top(values: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the order of numbers from the largest down; equal ones keep their order."""
    below = int(values.max()) - values
    if below.max() < 2**16:  # numpy sorts so few different numbers by radix
        below = below.astype(np.uint16)
    return np.argsort(below, kind="stable")


def give_gap_back(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give lines one pixel wide between instances back to the instances beside them.

    Parameters
    ----------
    labels : (H, W) int32 array
        Label image.

    Returns
    -------
    (H, W) int32 array
        Label image in which each background pixel between different instances on opposite sides
        belongs to the instance with more of its neighbours.

    Notes
    -----
    Where two round cells diverge, the background between them is also one pixel wide for a few
    pixels. Up to `NOTCH` such pixels beside a place where the instances touch stay background. At
    the ends of a gap they look like the gap itself, so a contact gains about two pixels at either
    end, fewer than the line itself takes.
    """
    labels = labels.astype(np.int32)
    gap = gap_pixels(labels)
    runs, count = ndimage.label(gap, _EIGHT)
    if count:
        # a pixel of each instance, and what is beside it
        contact = ndimage.binary_dilation(touching_gap(labels), _EIGHT, iterations=2)
        notch = np.bincount(runs.ravel()) <= NOTCH
        at_contact = np.zeros(count + 1, bool)
        at_contact[runs[contact]] = True
        gap &= ~(notch & at_contact)[runs]
    return grow(labels, gap, 1)


def _plane(array: NDArray[Any]) -> NDArray[np.floating]:
    array = np.asarray(array)
    if array.ndim != 2:
        raise ValueError(f"the probability must have shape (H, W), not {array.shape}")
    return array.astype(np.float32) if array.dtype.kind in "bui" else array


def _mask(
    probability: NDArray[np.floating], threshold: float, smoothing: float, min_size: int
) -> NDArray[np.bool_]:
    """Return the foreground with small holes filled."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, not {threshold}")
    if smoothing < 0 or min_size < 0:
        raise ValueError(f"smoothing={smoothing} and min_size={min_size} must not be negative")
    if smoothing > 0:
        probability = ndimage.gaussian_filter(probability, smoothing, mode="nearest")
    mask = probability >= threshold
    fill_holes(mask, min_size)
    return mask


def _numbered(
    labels: NDArray[np.integer], min_size: int, *, connected: bool = True
) -> NDArray[np.int32]:
    """Drop small instances and number the others from 1, row by row.

    With `connected`, each part of an instance that was cut into several becomes an instance.
    """
    instances = np.ascontiguousarray(labels, dtype=np.int32)
    if connected:
        instances, highest = find_parts(instances, True)
    else:
        highest = int(instances.max(initial=0))
    return numbered(instances, highest, max(1, min_size))
