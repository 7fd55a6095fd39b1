"""Properties of sets of pixels, compiled: what scikit-image's regionprops gives, to rounding.

The definitions are those of `skimage.measure.regionprops` (version 0.26); a test holds the two
together. They are repeated because regionprops is slow where it matters: nearly all its time
goes into the convex hull images of the solidity, and into Python, cell by cell.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled

_ROOT2 = math.sqrt(2.0)
_HALF = (1.0 + _ROOT2) / 2.0
_EXACT = 2**17


@compiled
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


@compiled
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


@compiled
def polygon_perimeter(polygon: NDArray[np.float64]) -> float:
    """Return the length of a closed polygon."""
    total = 0.0
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        total += math.hypot(polygon[j, 0] - polygon[i, 0], polygon[j, 1] - polygon[i, 1])
    return total


@compiled
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


@compiled
def perimeters(parts: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Return each part's perimeter as `skimage.measure.perimeter` has it (4 neighbours).

    The border pixels' chain, weighted by how they touch (Benkrid and Crookes 2000, a report
    without DOI; scikit-image: doi:10.7717/peerj.453).
    """
    height, width = parts.shape
    border = np.zeros((height + 2, width + 2), np.int32)  # the part of each border pixel
    for y in range(height):
        for x in range(width):
            part = parts[y, x]
            if part == 0:
                continue
            if (
                y == 0
                or x == 0
                or y == height - 1
                or x == width - 1
                or parts[y - 1, x] != part
                or parts[y + 1, x] != part
                or parts[y, x - 1] != part
                or parts[y, x + 1] != part
            ):
                border[y + 1, x + 1] = part
    found = np.zeros((count + 1, 3), np.int64)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            part = border[y, x]
            if part == 0:
                continue
            near = (
                int(border[y - 1, x] == part)
                + int(border[y + 1, x] == part)
                + int(border[y, x - 1] == part)
                + int(border[y, x + 1] == part)
            )
            far = (
                int(border[y - 1, x - 1] == part)
                + int(border[y - 1, x + 1] == part)
                + int(border[y + 1, x - 1] == part)
                + int(border[y + 1, x + 1] == part)
            )
            code = 1 + 2 * near + 10 * far
            if code in (5, 7, 15, 17, 25, 27):
                found[part, 0] += 1
            elif code in (21, 33):
                found[part, 1] += 1
            elif code in (13, 23):
                found[part, 2] += 1
    lengths: NDArray[np.float64] = found[:, 0] + found[:, 1] * _ROOT2 + found[:, 2] * _HALF
    return lengths


@compiled
def convex_pixels(
    parts: NDArray[np.int32], part: int, top: int, left: int, bottom: int, right: int
) -> int:
    """Count the pixels of the convex hull image (`skimage.morphology.convex_hull_image`).

    A pixel is in it when its centre lies in the hull, border included, of the midpoints of all
    pixels' four sides. Coordinates are doubled here, so that all is exact in integers: row j of
    the midpoints is half a pixel below row j - 1.
    """
    rows = 2 * (bottom - top) + 1
    # outermost midpoints, the right side mirrored, so that both are least
    ends = np.full((2, rows), 2 * max(right, 1) + 2, np.int64)
    for y in range(top, bottom):
        first, last = left, right - 1
        while parts[y, first] != part:
            first += 1
        while parts[y, last] != part:
            last -= 1
        j = 2 * (y - top) + 1
        for side in range(2):
            x = 2 * first if side == 0 else -2 * last
            ends[side, j - 1] = min(ends[side, j - 1], x)
            ends[side, j] = x - 1
            ends[side, j + 1] = x
    bound = np.empty((2, bottom - top), np.int64)
    hull = np.empty(rows, np.int64)
    for side in range(2):
        x, size = ends[side], 0
        for j in range(rows):
            while size >= 2:
                i, k = hull[size - 2], hull[size - 1]
                if (x[k] - x[i]) * (j - i) < (x[j] - x[i]) * (k - i):
                    break
                size -= 1
            hull[size] = j
            size += 1
        edge = 0
        for r in range(bottom - top):
            j = 2 * r + 1
            while hull[edge + 1] < j:
                edge += 1
            i, k = hull[edge], hull[edge + 1]
            # least whole pixel that is not outside
            whole = x[i] * (k - i) + (x[k] - x[i]) * (j - i)
            bound[side, r] = -((-whole) // (2 * (k - i)))
    total = 0
    for r in range(bottom - top):
        total += max(0, -bound[1, r] - bound[0, r] + 1)
    return total


@compiled
def central_moments(
    n: int, sx: int, sy: int, sxx: int, syy: int, sxy: int
) -> tuple[float, float, float]:
    """Return mu_xx, mu_yy, mu_xy over the pixel count, from sums about any pixel nearby."""
    if n < _EXACT and max(sxx, syy) < _EXACT**2 * 8:  # products of 2**58 at most
        square = float(n) * float(n)
        return (
            float(n * sxx - sx * sx) / square,
            float(n * syy - sy * sy) / square,
            float(n * sxy - sx * sy) / square,
        )
    mx, my = sx / n, sy / n
    return sxx / n - mx * mx, syy / n - my * my, sxy / n - mx * my


@compiled
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
