"""Outlines of labelled objects: polygons through pixel corners, and TrackMate's simplified ones.

Everything here is compiled: an image is looked at once, whatever it holds. Coordinates are
lattice corners, (row, column) of a pixel being the corner at its upper left; whoever wants pixel
centres at integers subtracts a half.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled

INTERVAL = 2.0
"""Pixels between the points that TrackMate takes of an outline."""
TOLERANCE = 0.5
"""Pixels by which TrackMate's simplified outline may miss a point (Douglas-Peucker)."""


@compiled
def _inside(parts: NDArray[np.int32], part: int, y: int, x: int) -> bool:
    return bool(0 <= y < parts.shape[0] and 0 <= x < parts.shape[1] and parts[y, x] == part)


@compiled
def _walk(
    parts: NDArray[np.int32],
    part: int,
    opened: NDArray[np.bool_],
    start: tuple[int, int, int],
    out: NDArray[np.int32],
) -> int:
    """Walk clockwise round a part from a corner (y, x) until it is met again; return the turns.

    Directions are 0 east, 1 south, 2 west, 3 north. Where diagonal pixels meet, the walk passes
    from one to the other, except where `opened_corners` says otherwise. A walk that starts north
    ends with -1 when it meets a corner that is later in raster order.
    """
    y, x, direction = start
    y0, x0, first = start
    count = 0
    while True:
        if direction == 0:
            x += 1
            left, right = _inside(parts, part, y - 1, x), _inside(parts, part, y, x)
        elif direction == 1:
            y += 1
            left, right = _inside(parts, part, y, x), _inside(parts, part, y, x - 1)
        elif direction == 2:
            x -= 1
            left, right = _inside(parts, part, y, x - 1), _inside(parts, part, y - 1, x - 1)
        else:
            y -= 1
            left, right = _inside(parts, part, y - 1, x - 1), _inside(parts, part, y - 1, x)
        if left and not right and opened.size:
            if direction % 2:  # pixels at the upper left and lower right
                left = not _inside(parts, part, y, x - 2)
            else:
                left = not opened[y, x]
        if left:
            turned = (direction + 3) % 4
        elif right:
            turned = direction
        else:
            turned = (direction + 1) % 4
        if y == y0 and x == x0 and (first == 3 or turned == 0):
            return count
        if first == 3 and (y > y0 or (y == y0 and x > x0)):
            return -1
        if turned != direction:
            if count < len(out):
                out[count, 0], out[count, 1] = x, y
            count += 1
            direction = turned


@compiled
def opened_corners(parts: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Find the corners at which a hole is open to its lower right, as TrackMate traces outlines.

    TrackMate follows ImageJ's ThresholdToSelection, which joins pieces of outline row by row. Where
    only two diagonal pixels of an object meet, at (y, x), this comes to:

    - Pixels at the upper left and lower right are joined if the pixel at (y, x - 2) is outside,
      that to the left of the gap below. Else the gaps are joined.
    - Pixels at the upper right and lower left are joined, unless (y, x - 2) is inside and the edge
      from (y, x - 1) to (y, x) is the last, in raster order, of a hole's outline: then the hole
      opens through the corner.

    Parameters
    ----------
    parts : (H, W) int32
        From `find_parts` with ``scanned=True``.

    Returns
    -------
    (H, W) bool
        Where the second rule has opened a hole.
    """
    opened = np.zeros(parts.shape, np.bool_)
    nowhere = np.empty((0, 2), np.int32)
    for y in range(1, parts.shape[0]):
        for x in range(2, parts.shape[1]):
            part = parts[y, x - 1]
            if (
                part == 0
                or parts[y, x] == part
                or parts[y - 1, x] != part
                or parts[y - 1, x - 1] == part
                or parts[y, x - 2] != part
            ):
                continue
            # the walk round the gap above meets only corners that have been decided
            opened[y, x] = _walk(parts, part, opened, (y, x, 3), nowhere) >= 0
    return opened


@compiled
def trace(
    parts: NDArray[np.int32], opened: NDArray[np.bool_], y0: int, x0: int, out: NDArray[np.int32]
) -> int:
    """Walk round a part, clockwise on the screen.

    Parameters
    ----------
    parts : (H, W) int32
    opened : (H, W) bool
        From `opened_corners`; empty: diagonal pixels are joined everywhere.
    y0, x0 : int
        The part's first pixel in raster order.
    out : (N, 2) int32
        Receives the first N corners' (x, y), those between collinear neighbours left out, from the
        upper left corner of the first pixel.

    Returns
    -------
    int
        Number of corners, which may be more.
    """
    out[0, 0], out[0, 1] = x0, y0
    return 1 + _walk(parts, parts[y0, x0], opened, (y0, x0, 0), out[1:])


@compiled
def trackmate_order(corners: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the outline as TrackMate walks it.

    From the lowest, then rightmost corner, counter-clockwise on the screen.
    """
    n = len(corners)
    first = 0
    for i in range(1, n):
        lower = corners[i, 1] - corners[first, 1]
        if lower > 0 or (lower == 0 and corners[i, 0] > corners[first, 0]):
            first = i
    polygon = np.empty((n, 2), np.float64)
    for i in range(n):
        polygon[i, 0] = corners[(first - i) % n, 0]
        polygon[i, 1] = corners[(first - i) % n, 1]
    return polygon


@compiled
def resample(polygon: NDArray[np.float64], interval: float) -> NDArray[np.float32]:
    """Take points of a closed path, each where a circle round the one before meets the path.

    The radius of the circle is `interval`; the first point is the first vertex; what is left of
    the path after the last point is shorter.
    """
    n = len(polygon)
    length = 0.0
    for i in range(n):
        j = (i + 1) % n
        length += abs(polygon[j, 0] - polygon[i, 0]) + abs(polygon[j, 1] - polygon[i, 1])
    points = np.empty((int(10 + 1.5 * length / interval), 2), np.float64)
    points[0] = polygon[0]
    count, segment = 1, 0
    ax, ay = polygon[0, 0], polygon[0, 1]
    while segment < n:
        bx, by = polygon[(segment + 1) % n, 0], polygon[(segment + 1) % n, 1]
        cx, cy = points[count - 1, 0], points[count - 1, 1]
        side = math.hypot(bx - ax, by - ay)
        hit = -1.0
        if side > 0:
            ux, uy = (bx - ax) / side, (by - ay) / side
            along = (cx - ax) * ux + (cy - ay) * uy
            aside = (cx - ax) * uy - (cy - ay) * ux
            if abs(aside) <= interval:
                half = math.sqrt(interval * interval - aside * aside)
                if 0 <= along - half <= side:
                    hit = along - half
                elif 0 <= along + half <= side:
                    hit = along + half
        if hit >= 0:
            ax, ay = ax + hit * ux, ay + hit * uy
            points[count, 0], points[count, 1] = ax, ay
            count += 1
        else:
            segment += 1
            ax, ay = bx, by
    return points[:count].astype(np.float32)


@compiled
def _distance_to_segment(px: float, py: float, vx: float, vy: float, wx: float, wy: float) -> float:
    length2 = (wx - vx) ** 2 + (wy - vy) ** 2
    if length2 == 0:
        return math.hypot(px - vx, py - vy)
    t = ((px - vx) * (wx - vx) + (py - vy) * (wy - vy)) / length2
    t = min(1.0, max(0.0, t))
    return math.hypot(px - vx - t * (wx - vx), py - vy - t * (wy - vy))


@compiled
def simplify(points: NDArray[np.float32], tolerance: float) -> NDArray[np.float32]:
    """Simplify an open line by Douglas-Peucker, as TrackMate does.

    A stretch is split before its farthest point, not at it: both halves are half-open, so that
    the vertex before each split is kept too.
    """
    kept = np.zeros(len(points), np.bool_)
    starts = np.empty(len(points) + 1, np.int64)
    ends = np.empty(len(points) + 1, np.int64)
    starts[0], ends[0] = 0, len(points)
    depth = 1
    while depth:
        depth -= 1
        start, last = starts[depth], ends[depth] - 1
        farthest, index = 0.0, 0
        for i in range(start + 1, last):
            distance = _distance_to_segment(
                float(points[i, 0]),
                float(points[i, 1]),
                float(points[start, 0]),
                float(points[start, 1]),
                float(points[last, 0]),
                float(points[last, 1]),
            )
            if distance > farthest:
                farthest, index = distance, i
        if farthest > tolerance:
            starts[depth], ends[depth] = start, index
            starts[depth + 1], ends[depth + 1] = index, last + 1
            depth += 2
        else:
            kept[start] = kept[last] = True
    return points[kept]


@compiled
def rounded(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Round vertices relative to the polygon's own minimum, in single precision."""
    half = np.float32(0.5)
    polygon = np.empty((len(points), 2), np.float64)
    for axis in range(2):
        low = points[:, axis].min()
        for i in range(len(points)):
            polygon[i, axis] = math.floor(points[i, axis] - low + half) + math.floor(low)
    return polygon


@compiled
def holds_a_pixel(polygon: NDArray[np.float64]) -> bool:
    """Say whether the centre of any pixel lies in a polygon; on its right border counts."""
    n = len(polygon)
    crossings = np.empty(n, np.float64)
    low, high = int(polygon[:, 1].min()), int(polygon[:, 1].max())
    for row in range(low, high):
        y = row + 0.5
        count = 0
        for i in range(n):
            x0, y0 = polygon[i]
            x1, y1 = polygon[(i + 1) % n]
            if (y0 < y) != (y1 < y):
                crossings[count] = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                count += 1
        ordered = np.sort(crossings[:count])
        for i in range(0, count - 1, 2):
            if math.floor(ordered[i] + 0.5) < math.floor(ordered[i + 1] + 0.5):
                return True
    return False


@compiled
def trackmate_polygon(corners: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return TrackMate's simplified outline, or one without vertices where it drops the object."""
    points = simplify(resample(trackmate_order(corners), INTERVAL), TOLERANCE)
    polygon = rounded(points)
    if len(polygon) < 3 or not holds_a_pixel(polygon):
        return np.empty((0, 2), np.float64)
    return polygon
