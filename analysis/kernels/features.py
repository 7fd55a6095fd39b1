"""Features of every object of a label image, compiled: its largest part is measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled
from analysis.kernels.outlines import opened_corners, trace, trackmate_order, trackmate_polygon
from analysis.kernels.parts import find_parts
from analysis.kernels.pixelprops import (
    central_moments,
    convex_hull,
    convex_pixels,
    ellipse,
    perimeters,
    polygon_area,
    polygon_centroid,
    polygon_perimeter,
)

TRACKMATE, TRACKMATE_RAW, IMAGEJ, SKIMAGE = range(4)
"""Who would measure so; in the order of `analysis.morphology.CONVENTIONS`."""
FEATURES = ("x", "y", "area", "perimeter", "circularity", "solidity", "radius", "shape_index")
COUNTS = ("parts", "num_pixels", "top", "left", "bottom", "right")
ELLIPSE = ("axis_major_length", "axis_minor_length", "eccentricity", "orientation")
MEASURED = np.dtype(
    [
        ("label", np.int64),
        *((name, np.float64) for name in FEATURES),
        *((name, np.int64) for name in COUNTS),
        *((name, np.float64) for name in ELLIPSE),
    ]
)
"""A row of `measure_objects`."""
PART = np.dtype(
    [
        (name, np.int64)
        for name in (
            "label",
            "parts",  # of the label
            "part",  # number of this one
            "top",
            "left",
            "bottom",  # past the last row
            "right",
            "first",  # x of the first pixel in raster order
            "num_pixels",
            "sum_x",  # this and the following relative to the first pixel
            "sum_y",
            "sum_xx",
            "sum_yy",
            "sum_xy",
        )
    ]
)
"""A row of `largest_parts`."""
_CORNER = 2.0 - math.sqrt(2.0)


@compiled
def _all_parts(labels: NDArray[np.int64], parts: NDArray[np.int32], count: int) -> NDArray[np.void]:
    """Return the `PART` of every part, run by run of each row; that of 0 is empty."""
    found = np.zeros(count + 1, PART)
    height, width = parts.shape
    for y in range(height):
        x = 0
        while x < width:
            number = parts[y, x]
            if number == 0:
                x += 1
                continue
            start = x
            while x < width and parts[y, x] == number:
                x += 1
            part = found[number]
            if part.num_pixels == 0:
                part.label, part.part = labels[y, start], number
                part.top, part.left, part.right, part.first = y, start, x, start
            part.left, part.bottom, part.right = min(part.left, start), y + 1, max(part.right, x)
            dy, first, last = y - part.top, start - part.first, x - 1 - part.first
            n = x - start
            sum_x = (first + last) * n // 2
            below = first - 1
            # 6 times the sum of squares from the first to the last
            squares = last * (last + 1) * (2 * last + 1) - below * (below + 1) * (2 * below + 1)
            part.num_pixels += n
            part.sum_x += sum_x
            part.sum_y += n * dy
            part.sum_xx += squares // 6
            part.sum_yy += n * dy * dy
            part.sum_xy += sum_x * dy
    return found


@compiled
def largest_parts(
    labels: NDArray[np.int64], parts: NDArray[np.int32], count: int
) -> NDArray[np.void]:
    """Return of each label its part of most pixels, the first in raster order among equals.

    Parameters
    ----------
    labels : (H, W) int64 array
    parts : (H, W) int32 array
    count : int
        As `analysis.kernels.parts.find_parts` gives both for `labels`.

    Returns
    -------
    (N,) array of `PART`
        By label, ascending. Lengths in pixels.
    """
    every = _all_parts(labels, parts, count)
    # stable: raster order within a label
    order = np.argsort(every["label"][1:], kind="mergesort") + 1
    largest = np.zeros(count, PART)
    n = 0
    for i in order:
        if n == 0 or largest[n - 1].label != every[i].label:
            largest[n] = every[i]
            n += 1
        elif every[i].num_pixels > largest[n - 1].num_pixels:
            number = largest[n - 1].parts
            largest[n - 1] = every[i]
            largest[n - 1].parts = number
        largest[n - 1].parts += 1
    return largest[:n]


@compiled
def _corners(parts: NDArray[np.int32], opened: NDArray[np.bool_], part: Any) -> NDArray[np.int32]:
    sides = part.bottom - part.top + part.right - part.left
    corners = np.empty((4 * sides + 4, 2), np.int32)
    count = trace(parts, opened, part.top, part.first, corners)
    if count > len(corners):  # a jagged one
        corners = np.empty((count, 2), np.int32)
        trace(parts, opened, part.top, part.first, corners)
    return corners[:count]


@compiled
def outline_of(
    parts: NDArray[np.int32], opened: NDArray[np.bool_], part: Any, simplified: bool
) -> NDArray[np.float64]:
    """Return the outline of one part.

    Parameters
    ----------
    parts : (H, W) int32 array
        From `analysis.kernels.parts.find_parts` with ``scanned=True``.
    opened : (H, W) bool array
        From `analysis.kernels.outlines.opened_corners`.
    part : `PART`
    simplified : bool
        As TrackMate simplifies it, or through all corners.

    Returns
    -------
    (N, 2) float64 array
        x and y of the vertices in pixels, (0, 0) being the first pixel's upper left corner; none
        where TrackMate drops the object.
    """
    corners = _corners(parts, opened, part)
    return trackmate_polygon(corners) if simplified else trackmate_order(corners)


@compiled
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


@compiled
def _describe_pixels(row: Any, part: Any) -> None:
    """Set what holds whatever the convention: box, pixels, their centroid and ellipse."""
    n = part.num_pixels
    row.label, row.parts, row.num_pixels = part.label, part.parts, n
    row.top, row.left, row.bottom, row.right = part.top, part.left, part.bottom, part.right
    xx, yy, xy = central_moments(n, part.sum_x, part.sum_y, part.sum_xx, part.sum_yy, part.sum_xy)
    row.axis_major_length, row.axis_minor_length, row.eccentricity, row.orientation = ellipse(
        xx, yy, xy
    )


@compiled
def measure_objects(labels: NDArray[np.int64], convention: int) -> NDArray[np.void]:
    """Measure every object of a label image.

    Parameters
    ----------
    labels : (H, W) int64 array
    convention : int
        `TRACKMATE`, `TRACKMATE_RAW`, `IMAGEJ` or `SKIMAGE`.

    Returns
    -------
    (N,) array of `MEASURED`
        By label, ascending; the columns of `analysis.morphology.measure`, lengths in pixels. The
        `FEATURES` of an object that the convention drops are NaN.
    """
    scanned = convention in (TRACKMATE, TRACKMATE_RAW)
    parts, count = find_parts(labels, True, scanned)
    opened = opened_corners(parts) if scanned else np.empty((0, 0), np.bool_)
    largest = largest_parts(labels, parts, count)
    lengths = perimeters(parts, count) if convention == SKIMAGE else np.empty(0)
    rows = np.zeros(len(largest), MEASURED)
    for i in range(len(largest)):
        row, part = rows[i], largest[i]
        _describe_pixels(row, part)
        row.x = row.y = row.area = row.perimeter = math.nan
        row.circularity = row.solidity = row.radius = row.shape_index = math.nan
        n = part.num_pixels
        x, y, area = part.first + part.sum_x / n, part.top + part.sum_y / n, float(n)
        if scanned:
            outline = outline_of(parts, opened, part, convention == TRACKMATE)
            if len(outline) == 0:
                continue
            x, y = polygon_centroid(outline)
            x, y = x - 0.5, y - 0.5
            area = abs(polygon_area(outline))
            perimeter = polygon_perimeter(outline)
            hull = abs(polygon_area(convex_hull(outline)))
        elif convention == IMAGEJ:
            corners = _corners(parts, opened, part)
            x, y = x + 0.5, y + 0.5
            perimeter = _traced_perimeter(corners)
            hull = abs(polygon_area(convex_hull(corners.astype(np.float64))))
        else:
            perimeter = lengths[part.part]
            hull = float(
                convex_pixels(parts, part.part, part.top, part.left, part.bottom, part.right)
            )
        if area == 0:  # an outline that runs there and back
            continue
        row.x, row.y, row.area, row.perimeter = x, y, area, perimeter
        circularity = math.nan if perimeter == 0 else 4 * math.pi * area / perimeter**2
        row.circularity = min(1.0, circularity) if convention == IMAGEJ else circularity
        row.solidity, row.radius = area / hull, math.sqrt(area / math.pi)
        row.shape_index = perimeter / math.sqrt(area)
    return rows
