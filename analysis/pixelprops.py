"""Properties of sets of pixels, compiled: what scikit-image's regionprops gives, to rounding.

The definitions are those of `skimage.measure.regionprops` (version 0.26); a test holds the two
together. They are repeated because regionprops is slow where it matters: nearly all its time
goes into the convex hull images of the solidity, and into Python, cell by cell.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ROOT2 = math.sqrt(2.0)
_HALF = (1.0 + _ROOT2) / 2.0


@njit(cache=True)
def convex_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hull's vertices in order (Andrew's monotone chain); collinear ones are left out.

    Exact for coordinates that are multiples of a half.
    """
    n = len(points)
    by_y = np.argsort(points[:, 1], kind="mergesort")
    order = by_y[np.argsort(points[by_y, 0], kind="mergesort")]
    hull = np.empty((2 * n + 1, 2), np.float64)
    size = 0
    for sweep in range(2):
        base = size
        for step in range(n):
            p = points[order[step if sweep == 0 else n - 1 - step]]
            while size >= base + 2:
                ax, ay = hull[size - 1] - hull[size - 2]
                if ax * (p[1] - hull[size - 2, 1]) - ay * (p[0] - hull[size - 2, 0]) > 0:
                    break
                size -= 1
            hull[size] = p
            size += 1
        size -= 1  # the last point begins the other half
    return hull[: max(size, 1)]


@njit(cache=True)
def polygon_area(polygon: NDArray[np.float64]) -> float:
    """Return the signed area of a polygon by the shoelace formula."""
    total = 0.0
    n = len(polygon)
    x0, y0 = polygon[0]
    for i in range(n):  # relative to the first vertex: no digits are lost far from the origin
        j = (i + 1) % n
        total += (polygon[i, 0] - x0) * (polygon[j, 1] - y0)
        total -= (polygon[j, 0] - x0) * (polygon[i, 1] - y0)
    return total / 2.0


@njit(cache=True)
def polygon_perimeter(polygon: NDArray[np.float64]) -> float:
    """Return the length of a closed polygon."""
    total = 0.0
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        total += math.hypot(polygon[j, 0] - polygon[i, 0], polygon[j, 1] - polygon[i, 1])
    return total


@njit(cache=True)
def polygon_centroid(polygon: NDArray[np.float64]) -> tuple[float, float]:
    """Return the centroid (x, y) of a polygon's area."""
    area, sx, sy = 0.0, 0.0, 0.0
    x0, y0 = polygon[0]
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        ax, ay = polygon[i, 0] - x0, polygon[i, 1] - y0
        bx, by = polygon[j, 0] - x0, polygon[j, 1] - y0
        cross = ax * by - bx * ay
        area += cross / 2.0
        sx += (ax + bx) * cross
        sy += (ay + by) * cross
    return x0 + sx / (6.0 * area), y0 + sy / (6.0 * area)


@njit(cache=True)
def _is(parts: NDArray[np.int32], part: int, y: int, x: int) -> bool:
    return bool(0 <= y < parts.shape[0] and 0 <= x < parts.shape[1] and parts[y, x] == part)


@njit(cache=True)
def _is_border(parts: NDArray[np.int32], part: int, y: int, x: int) -> bool:
    return _is(parts, part, y, x) and not (
        _is(parts, part, y - 1, x)
        and _is(parts, part, y + 1, x)
        and _is(parts, part, y, x - 1)
        and _is(parts, part, y, x + 1)
    )


@njit(cache=True)
def perimeter(
    parts: NDArray[np.int32], part: int, top: int, left: int, bottom: int, right: int
) -> float:
    """Return the perimeter as `skimage.measure.perimeter` has it (4 neighbours).

    The border pixels' chain, weighted by how they touch (Benkrid and Crookes 2000). `bottom` and
    `right` are past the part's last row and column.
    """
    straight, diagonal, mixed = 0, 0, 0
    for y in range(top, bottom):
        for x in range(left, right):
            if not _is_border(parts, part, y, x):
                continue
            near = (
                int(_is_border(parts, part, y - 1, x)) + int(_is_border(parts, part, y + 1, x))
                + int(_is_border(parts, part, y, x - 1)) + int(_is_border(parts, part, y, x + 1))
            )  # fmt: skip
            far = (
                int(_is_border(parts, part, y - 1, x - 1))
                + int(_is_border(parts, part, y - 1, x + 1))
                + int(_is_border(parts, part, y + 1, x - 1))
                + int(_is_border(parts, part, y + 1, x + 1))
            )
            code = 1 + 2 * near + 10 * far
            if code in (5, 7, 15, 17, 25, 27):
                straight += 1
            elif code in (21, 33):
                diagonal += 1
            elif code in (13, 23):
                mixed += 1
    return straight + diagonal * _ROOT2 + mixed * _HALF


@njit(cache=True)
def convex_pixels(
    parts: NDArray[np.int32], part: int, top: int, left: int, bottom: int, right: int
) -> int:
    """Count the pixels of the convex hull image (`skimage.morphology.convex_hull_image`).

    A pixel is in it when its centre lies in the hull, border included, of the midpoints of all
    pixels' four sides.
    """
    points = np.empty((4 * (bottom - top), 2), np.float64)
    count = 0
    for y in range(top, bottom):
        first, last = -1, -1
        for x in range(left, right):
            if parts[y, x] == part:
                last = x
                if first < 0:
                    first = x
        if first < 0:
            continue
        # a row's outermost pixels hold all of the row's points that can be on the hull, save
        # the upper and lower midpoints between them, which lie on the line joining theirs
        points[count] = first - 0.5, float(y)
        points[count + 1] = last + 0.5, float(y)
        count += 2
    ends = np.empty((2 * count, 2), np.float64)
    for i in range(0, count, 2):
        first, last, y = points[i, 0] + 0.5, points[i + 1, 0] - 0.5, points[i, 1]
        ends[2 * i] = first, y - 0.5
        ends[2 * i + 1] = first, y + 0.5
        ends[2 * i + 2] = last, y - 0.5
        ends[2 * i + 3] = last, y + 0.5
    hull = convex_hull(np.concatenate((points[:count], ends)))
    n = len(hull)
    total = 0
    for y in range(top, bottom):
        low, high = math.inf, -math.inf
        for i in range(n):
            x0, y0 = hull[i]
            x1, y1 = hull[(i + 1) % n]
            if min(y0, y1) > y or max(y0, y1) < y:
                continue
            if y0 == y1:
                low, high = min(low, x0, x1), max(high, x0, x1)
            else:
                # numerators are multiples of a quarter: exact, so that borders count as they do
                # in scikit-image's exact test
                x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                low, high = min(low, x), max(high, x)
        total += max(0, math.floor(high + 1e-9) - math.ceil(low - 1e-9) + 1)
    return total


@njit(cache=True)
def moments(
    parts: NDArray[np.int32], part: int, top: int, left: int, bottom: int, right: int
) -> tuple[int, float, float, float, float, float]:
    """Return pixel count, centroid x and y, and central moments mu_xx, mu_yy, mu_xy over count."""
    n, sx, sy = 0, 0, 0
    for y in range(top, bottom):
        for x in range(left, right):
            if parts[y, x] == part:
                n += 1
                sx += x
                sy += y
    cx, cy = sx / n, sy / n
    xx, yy, xy = 0.0, 0.0, 0.0
    for y in range(top, bottom):
        for x in range(left, right):
            if parts[y, x] == part:
                xx += (x - cx) ** 2
                yy += (y - cy) ** 2
                xy += (x - cx) * (y - cy)
    return n, cx, cy, xx / n, yy / n, xy / n


@njit(cache=True)
def ellipse(xx: float, yy: float, xy: float) -> tuple[float, float, float, float]:
    """Return major axis, minor axis, eccentricity, orientation of the ellipse of equal moments.

    Orientation is in radians between the rows' axis and the major axis, counter-clockwise, from
    -pi/2 to pi/2, as in scikit-image.
    """
    mean, root = (xx + yy) / 2.0, math.sqrt(4.0 * xy * xy + (xx - yy) ** 2) / 2.0
    large, small = mean + root, max(0.0, mean - root)
    major, minor = 4.0 * math.sqrt(large), 4.0 * math.sqrt(small)
    eccentricity = 0.0 if large == 0 else math.sqrt(max(0.0, 1.0 - small / large))
    if xx - yy == 0:
        orientation = math.pi / 4 if xy > 0 else -math.pi / 4
    else:
        orientation = 0.5 * math.atan2(2.0 * xy, yy - xx)
    return major, minor, eccentricity, orientation
