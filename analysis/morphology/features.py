"""What a cell measures: area, perimeter, circularity, solidity, radius, shape index, centroid.

The perimeter of a digital object depends by tens of per cent on who measures it, and circularity
by twice that, so the convention is always said: TrackMate's (the paper's), TrackMate's without
simplified contours, ImageJ's, or scikit-image's. ``docs/morphology.md`` has the definitions and
what the programs themselves give.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from analysis.kernels import pixelprops
from analysis.kernels.parts import find_parts
from analysis.morphology.outlines import opened_corners, trace, trackmate_order, trackmate_polygon

CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")
FEATURES = ("x", "y", "area", "perimeter", "circularity", "solidity", "radius", "shape_index")
EXTRAS = (
    "parts",
    "num_pixels",
    "top",
    "left",
    "bottom",
    "right",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
)
_INTEGERS = EXTRAS[:6]
_CORNER = 2.0 - math.sqrt(2.0)


def measure(
    label_image: NDArray[np.integer[Any]] | NDArray[np.bool_],
    *,
    convention: str = "trackmate",
    pixel_size_um: float | None = None,
) -> pd.DataFrame:
    """Measure every labelled object of an image.

    Parameters
    ----------
    label_image : (H, W) integer or boolean array
        0 is background; every other value is the label of one object.
    convention : {"trackmate", "trackmate_raw", "imagej", "skimage"}
        Who would measure so. ``trackmate``: on TrackMate's simplified contour. ``trackmate_raw``:
        on the outline of the pixels, holes filled. ``imagej``: Analyze Particles. ``skimage``:
        `skimage.measure.regionprops`.
    pixel_size_um : float, optional
        Side of a pixel in micrometres.

    Returns
    -------
    DataFrame
        One row per label, ascending:

        - label
        - x, y : centroid in pixels; the centre of the first pixel is (0, 0), with ``imagej``
          (0.5, 0.5)
        - area (pixels), perimeter (pixels), circularity ``4 pi area / perimeter**2`` (clipped at
          1 by ``imagej`` only), solidity (area over that of the convex hull), radius
          ``sqrt(area / pi)`` (pixels), shape_index ``perimeter / sqrt(area)``
        - area_um2, perimeter_um, radius_um, where `pixel_size_um` is given
        - parts : how many disjoint parts the label has: 8-connected, with ``trackmate`` and
          ``trackmate_raw`` what TrackMate makes an object of. Only the one of most pixels is
          measured (the first in raster order among equals)
        - num_pixels, top, left, bottom, right (past the last row and column),
          axis_major_length, axis_minor_length, eccentricity, orientation of that part's pixels,
          as in `skimage.measure.regionprops`

        The features of an object that the convention drops are NaN: those of one or two pixels
        that ``trackmate`` cannot simplify. Circularity is NaN where there is no perimeter (one
        pixel in ``skimage``).

    Raises
    ------
    ValueError
        For an image that is not 2-D, or whose values are no integers or are negative; for a
        convention that is not known; for a pixel size that is not positive.

    Notes
    -----
    Written from published definitions and from what TrackMate 8.1.7, ImageJ 1.53t and
    scikit-image 0.26.0 give for hard objects, which tests reproduce.

    Examples
    --------
    >>> square = np.zeros((5, 5), int)
    >>> square[1:4, 1:4] = 1
    >>> measure(square, convention="trackmate_raw")[["area", "perimeter", "x"]].to_numpy().tolist()
    [[9.0, 12.0, 2.0]]
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}: use {', '.join(CONVENTIONS)}")
    if pixel_size_um is not None and not (0 < pixel_size_um < math.inf):
        raise ValueError(f"pixel_size_um must be positive, not {pixel_size_um}")
    image = np.asarray(label_image)
    if image.ndim != 2:
        raise ValueError(f"a label image has two dimensions, not shape {image.shape}")
    if image.dtype.kind not in "iub":
        raise ValueError(f"a label image holds integers, not {image.dtype}")
    if image.dtype.kind == "i" and image.size and image.min() < 0:
        raise ValueError("a label image holds no negative numbers")
    if image.dtype == np.uint64 and image.size and image.max() > np.iinfo(np.int64).max:
        raise ValueError("labels must be smaller than 2**63")
    labels, values = _measure(
        np.ascontiguousarray(image, dtype=np.int64), CONVENTIONS.index(convention)
    )
    order = np.argsort(labels, kind="stable")
    found = dict(zip((*FEATURES, *EXTRAS), values[order].T))
    columns: dict[str, Any] = {"label": labels[order], **{n: found[n] for n in FEATURES}}
    if pixel_size_um is not None:
        columns["area_um2"] = found["area"] * pixel_size_um**2
        columns["perimeter_um"] = found["perimeter"] * pixel_size_um
        columns["radius_um"] = found["radius"] * pixel_size_um
    for name in EXTRAS:
        columns[name] = found[name].astype(np.int64) if name in _INTEGERS else found[name]
    return pd.DataFrame(columns)


def outlines(
    label_image: NDArray[np.integer[Any]], *, convention: str = "trackmate"
) -> dict[int, NDArray[np.float64]]:
    """Return the contour of each label's largest part.

    Parameters
    ----------
    label_image : (H, W) integer array
    convention : {"trackmate", "trackmate_raw"}

    Returns
    -------
    dict of int to (N, 2) float64 array
        Of each label x and y of the vertices, in pixels, pixel centres at integers; N is 0 where
        the convention drops the object.
    """
    if convention not in CONVENTIONS[:2]:
        raise ValueError(f"contours are those of {' or '.join(CONVENTIONS[:2])}, not {convention}")
    image = np.ascontiguousarray(label_image, dtype=np.int64)
    parts, count = find_parts(image, True, True)
    opened = opened_corners(parts)
    found, _, boxes, _ = _largest(image, parts, count)
    order = np.argsort(found)
    simplified = convention == "trackmate"
    return {int(found[i]): _polygon(parts, opened, boxes[i], simplified) - 0.5 for i in order}


@njit(cache=True)
def _largest(
    labels: NDArray[np.int64], parts: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each label, its number of parts, and of its largest part box and sums.

    A box is part, top, left, bottom, right, x of the first pixel; sums are the number of pixels
    and those of x, y, xx, yy, xy about the first pixel.
    """
    box = np.zeros((count + 1, 6), np.int64)
    sums = np.zeros((count + 1, 6), np.int64)
    label_of = np.zeros(count + 1, np.int64)
    height, width = parts.shape
    for y in range(height):
        x = 0
        while x < width:
            part = parts[y, x]
            if part == 0:
                x += 1
                continue
            start = x
            while x < width and parts[y, x] == part:
                x += 1
            one, total = box[part], sums[part]
            if total[0] == 0:
                one[0] = part
                one[1], one[2], one[3], one[4], one[5] = y, start, y + 1, x, start
                label_of[part] = labels[y, start]
            one[2], one[3], one[4] = min(one[2], start), y + 1, max(one[4], x)
            dy, first, last = y - one[1], start - one[5], x - 1 - one[5]
            n = x - start
            sx = (first + last) * n // 2
            below = first - 1
            # of squares from the first to the last
            sxx = (last * (last + 1) * (2 * last + 1) - below * (below + 1) * (2 * below + 1)) // 6
            total[0] += n
            total[1] += sx
            total[2] += n * dy
            total[3] += sxx
            total[4] += n * dy * dy
            total[5] += sx * dy
    order = np.argsort(label_of[1:], kind="mergesort") + 1  # stable: raster order within a label
    found = np.empty(count, np.int64)
    number = np.zeros(count, np.int64)
    boxes = np.empty((count, 6), np.int64)
    sizes = np.empty((count, 6), np.int64)
    n = 0
    for part in order:
        if n == 0 or found[n - 1] != label_of[part]:
            found[n], boxes[n], sizes[n] = label_of[part], box[part], sums[part]
            n += 1
        elif sums[part, 0] > sizes[n - 1, 0]:
            boxes[n - 1], sizes[n - 1] = box[part], sums[part]
        number[n - 1] += 1
    return found[:n], number[:n], boxes[:n], sizes[:n]


@njit(cache=True)
def _corners(
    parts: NDArray[np.int32], opened: NDArray[np.bool_], box: NDArray[np.int64]
) -> NDArray[np.int32]:
    corners = np.empty((4 * (box[3] - box[1] + box[4] - box[2]) + 4, 2), np.int32)
    count = trace(parts, opened, box[1], box[5], corners)
    if count > len(corners):  # a jagged one
        corners = np.empty((count, 2), np.int32)
        trace(parts, opened, box[1], box[5], corners)
    return corners[:count]


@njit(cache=True)
def _polygon(
    parts: NDArray[np.int32], opened: NDArray[np.bool_], box: NDArray[np.int64], simplified: bool
) -> NDArray[np.float64]:
    corners = _corners(parts, opened, box)
    return trackmate_polygon(corners) if simplified else trackmate_order(corners)


@njit(cache=True)
def _traced_perimeter(corners: NDArray[np.int32]) -> float:
    """ImageJ's length of an outline: corners are cut, but not two in turn along steps of one."""
    n = len(corners)
    length, counted, cut = 0, 0, False
    for k in range(n):
        i = (k + 2) % n  # the first turn after going down the right edge of the first run
        before = corners[i - 1]
        side = abs(corners[i, 0] - before[0]) + abs(corners[i, 1] - before[1])
        length += side
        cut = side > 1 or not cut
        counted += int(cut)
    return length - counted * _CORNER


@njit(cache=True)
def _measure(
    labels: NDArray[np.int64], convention: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    scanned = convention <= 1
    parts, count = find_parts(labels, True, scanned)
    opened = opened_corners(parts) if scanned else np.empty((0, 0), np.bool_)
    found, number, boxes, sums = _largest(labels, parts, count)
    values = np.full((len(found), 18), np.nan)
    lengths = pixelprops.perimeters(parts, count) if convention == 3 else np.empty(0)
    for i in range(len(found)):
        part, top, left, bottom, right = boxes[i, :5]
        n, sx, sy, sxx, syy, sxy = sums[i]
        cx, cy = boxes[i, 5] + sx / n, top + sy / n
        xx, yy, xy = pixelprops.central_moments(n, sx, sy, sxx, syy, sxy)
        major, minor, eccentricity, orientation = pixelprops.ellipse(xx, yy, xy)
        row = values[i]
        row[8], row[9] = number[i], n
        row[10], row[11], row[12], row[13] = top, left, bottom, right
        row[14], row[15], row[16], row[17] = major, minor, eccentricity, orientation
        if convention <= 1:
            polygon = _polygon(parts, opened, boxes[i], convention == 0)
            if len(polygon) == 0:
                continue
            cx, cy = pixelprops.polygon_centroid(polygon)
            cx, cy = cx - 0.5, cy - 0.5
            area = abs(pixelprops.polygon_area(polygon))
            perimeter = pixelprops.polygon_perimeter(polygon)
            hull = abs(pixelprops.polygon_area(pixelprops.convex_hull(polygon)))
        elif convention == 2:
            corners = _corners(parts, opened, boxes[i])
            cx, cy, area = cx + 0.5, cy + 0.5, float(n)
            perimeter = _traced_perimeter(corners)
            hull = abs(pixelprops.polygon_area(pixelprops.convex_hull(corners.astype(np.float64))))
        else:
            area = float(n)
            perimeter = lengths[part]
            hull = float(pixelprops.convex_pixels(parts, part, top, left, bottom, right))
        if area == 0:  # an outline that runs there and back
            continue
        circularity = math.nan if perimeter == 0 else 4 * math.pi * area / perimeter**2
        row[0], row[1], row[2], row[3] = cx, cy, area, perimeter
        row[4] = min(1.0, circularity) if convention == 2 else circularity
        row[5], row[6], row[7] = area / hull, math.sqrt(area / math.pi), perimeter / math.sqrt(area)
    return found, values
