"""Outlines: TrackMate's vertices, and those that a scan row by row gives for any mask."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import ConvexHull

from analysis.morphology.features import measure, outlines

GOLDEN = Path(__file__).parent


@pytest.mark.parametrize("image", ["discs", "special", "corner_holes"])
@pytest.mark.parametrize("convention", ["trackmate", "trackmate_raw"])
def test_vertices_are_those_of_trackmate(convention: str, image: str) -> None:
    golden = pd.read_csv(GOLDEN / f"{convention}_polygons.csv")
    golden = golden[golden["image"] == image]
    labels = tifffile.imread(GOLDEN / f"{image}.tif")
    found = {k: v for k, v in outlines(labels, convention=convention).items() if len(v)}
    assert set(found) == set(golden["label"])
    for label in found:
        there = golden.loc[golden["label"] == label, ["x", "y"]].to_numpy()
        # from the first vertex: TrackMate itself is off by one pixel at the left and top border
        np.testing.assert_array_equal(found[label] - found[label][0], there - there[0], str(label))
        if convention == "trackmate_raw":
            assert (found[label] + 0.5).tolist() == np.array(scanned(labels == label)[0]).tolist()


@st.composite
def rough_objects(draw: st.DrawFn) -> np.ndarray:
    """Draw labels 1 and 2 of rough rims, holes and corners; some are mere noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(3, 24)] * 2))
    mask = rng.random(shape) < draw(st.sampled_from([0.3, 0.5, 0.6, 0.75, 0.9]))
    if draw(st.booleans()):  # a solid rim, then a rough one
        mask = np.pad(np.pad(mask, 1, constant_values=True), 1)
        mask ^= rng.random(mask.shape) < 0.1
    other = draw(st.sampled_from([0, 0.5, 1])) > rng.random(mask.shape)
    return np.where(mask, 1, 2 * other)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        rough_objects(),
        hnp.arrays(np.int64, st.tuples(*[st.integers(1, 9)] * 2), elements=st.integers(0, 2)),
    )
)
@example(np.array([[1, 1, 0], [1, 0, 1]]))  # two objects, though they share a corner
@example(np.array([[1, 1, 0, 1], [0, 0, 1, 0]]))  # one object
def test_outlines_are_those_of_a_scan_row_by_row(labels: np.ndarray) -> None:
    contours = outlines(labels, convention="trackmate_raw")
    for _, row in measure(labels, convention="trackmate_raw").iterrows():
        polygons = scanned(labels == row["label"])
        contour = contours[row["label"]] + 0.5
        assert [tuple(corner) for corner in contour] in polygons
        assert row["parts"] == len(polygons)
        for name, value in measured(contour).items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def measured(polygon: np.ndarray) -> dict[str, float]:
    """Return the features of an outline on pixel corners, by the book."""
    x, y = polygon.T
    after, below = np.roll(x, -1), np.roll(y, -1)
    cross = x * below - after * y
    area = abs(cross.sum()) / 2
    perimeter = np.hypot(after - x, below - y).sum()
    return {
        "x": ((x + after) * cross).sum() / cross.sum() / 3 - 0.5,
        "y": ((y + below) * cross).sum() / cross.sum() / 3 - 0.5,
        "area": area,
        "perimeter": perimeter,
        "circularity": 4 * math.pi * area / perimeter**2,
        "solidity": area / ConvexHull(polygon).volume,
        "radius": math.sqrt(area / math.pi),
        "shape_index": perimeter / math.sqrt(area),
    }


# The oracle: ImageJ's ThresholdToSelection (public domain, J. Schindelin 2006 and later), which
# TrackMate follows, said in Python. Open lines hang at columns and grow at both ends.

Line = deque[tuple[int, int]]


def scanned(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return the corners (x, y) of each outer outline, in the order in which they are closed.

    Parameters
    ----------
    mask : (H, W) bool array

    Returns
    -------
    list of lists of (x, y)
        Counter-clockwise on the screen; pixel (x, y) has its upper left corner at (x, y). Corners
        on straight lines are left out. Outlines of holes are not returned.
    """
    height, width = mask.shape
    pixels = np.pad(mask, ((1, 1), (1, 2))).tolist()
    ends: list[Line | None] = [None] * (width + 2)  # the open line that hangs at (column, y)
    outer: list[Line] = []
    for y in range(height + 1):
        above, row = pixels[y], pixels[y + 1]
        second: tuple[int, Line | None] = (-1, None)  # where two lines meet: the one that goes down
        for x in range(width + 1):
            if above[x + 1] != row[x + 1]:  # an edge from (x, y) to (x + 1, y)
                lower = above[x + 1]  # the lower edge of a pixel, else an upper one
                left, right = ends[x], ends[x + 1]
                crossing = x != second[0] and row[x + 2] == lower != above[x + 2]
                waiting = second[1] if x == second[0] else None
                ends[x], ends[x + 1] = waiting, None
                if left is None:
                    if right is None:
                        right = ends[x + 1] = deque([(x + 1, y)])
                    ends[x] = right
                    grow(right, x, y, at_end=not lower)
                elif right is None:
                    ends[x + 1] = left
                    if waiting is not None:
                        grow(waiting, x, y, at_end=not lower)
                    grow(left, x + 1, y, at_end=lower)
                elif left is right and crossing:  # goes on past the corner instead of closing
                    grow(left, x + 1, y, at_end=lower)
                    ends[x + 1], second = left, (x + 1, left)
                elif left is right:
                    if lower:
                        outer.append(left)
                elif lower and crossing:
                    grow(left, x + 1, y, at_end=True)
                    grow(right, x + 1, y, at_end=False)
                    ends[x + 1], second = right, (x + 1, left)
                else:
                    if lower:
                        left.extend(right)
                    else:
                        left.extendleft(reversed(right))
                    other = next(i for i, line in enumerate(ends) if line is right)
                    ends[other] = left
            if row[x] != row[x + 1]:  # an edge from (x, y) to (x, y + 1)
                line = ends[x]
                assert line is not None
                grow(line, x, y + 1, at_end=row[x + 1])
    assert not any(ends)
    return [without_straight(line) for line in outer]


def grow(line: Line, x: int, y: int, *, at_end: bool) -> None:
    """Add a corner at one end."""
    (line.append if at_end else line.appendleft)((x, y))


def without_straight(line: Line) -> list[tuple[int, int]]:
    """Leave out repeated corners and those on straight lines."""
    points = [p for i, p in enumerate(line) if p != line[i - 1]]
    kept = []
    for i, (x, y) in enumerate(points):
        (x0, y0), (x1, y1) = points[i - 1], points[(i + 1) % len(points)]
        if (x - x0) * (y1 - y) != (y - y0) * (x1 - x):
            kept.append((x, y))
    return kept
