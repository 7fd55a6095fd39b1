"""Seeds have a minimum size: stray pixels make no cells, and small cells keep theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from analysis.instances.separate import (
    from_3class,
    from_star_convex,
    smallest_seed,
    watershed_2class,
)
from trainables.labels import BOUNDARY, CELL, semantic3_target

ROWS, COLUMNS = np.mgrid[:60, :90]


def disc(y: float, x: float, radius: float) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(ROWS - y, COLUMNS - x) <= radius)


def rings(width: float, radius: float = 14) -> NDArray[np.int64]:
    """Give the classes of two touching discs whose predicted boundary is wide."""
    classes = np.zeros(ROWS.shape, np.int64)
    for x in (30, 30 + 2 * radius):
        classes[disc(30, x, radius)] = BOUNDARY
    for x in (30, 30 + 2 * radius):
        classes[disc(30, x, radius - width)] = CELL
    return classes


@pytest.mark.parametrize("width", [1, 2, 5, 7])
def test_no_stray_pixel_of_a_wide_boundary_becomes_a_cell(width: int) -> None:
    classes = rings(width)
    areas = np.bincount(from_3class(classes).ravel())
    assert len(areas) == 3
    grown = []
    for y, x in np.argwhere(classes == BOUNDARY)[::3]:
        stray = classes.copy()
        stray[y, x] = CELL
        found = np.bincount(from_3class(stray).ravel())
        assert len(found) == 3
        assert np.abs(found - areas).max() <= 6, "one pixel more moves the border by a few"
        grown.append(from_3class(stray, min_seed=0).max())
    assert (max(grown) > 2) == (width >= 5), "what the minimum is for"


def test_a_seed_that_is_alone_is_kept_whatever_its_size() -> None:
    classes = np.zeros((30, 60), np.int64)
    classes[5:12, 5:12], classes[8, 8] = BOUNDARY, CELL
    classes[5:12, 30:50], classes[8, 32:34] = BOUNDARY, CELL
    found = from_3class(classes, min_size=49, min_seed=4)
    assert np.bincount(found.ravel())[1:].tolist() == [49, 140]
    classes[7:10, 45:49] = CELL  # beside a large one, the small one is a stray
    assert from_3class(classes, min_size=49, min_seed=4).max() == 2
    assert from_3class(classes, min_size=49, min_seed=2).max() == 3


def cells(seed: int) -> NDArray[np.int64]:
    """Draw round cells from 9 pixels on, most of them touching larger ones."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(ROWS.shape, np.int64)
    for number in rng.permutation(range(1, 13)):
        y, x = rng.uniform(0, ROWS.shape[0]), rng.uniform(0, ROWS.shape[1])
        one = disc(y, x, rng.choice([rng.uniform(1.5, 3), rng.uniform(3, 12)]))
        if one.sum() >= 9 and not labels[one].any():
            labels[one] = number
    return labels


def wrong_pixels(truth: NDArray[np.int64], found: NDArray[np.int32]) -> int:
    """Count pixels of true cells outside the instance that is matched to their cell."""
    shared = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
    np.add.at(shared, (truth, found), 1)
    shared = shared[1:, 1:]
    return int((truth > 0).sum() - shared[linear_sum_assignment(-shared)].sum())


def test_wrong_pixels_by_hand() -> None:
    truth = np.array([[1, 1, 1, 0, 2, 2]])
    assert wrong_pixels(truth, np.array([[2, 2, 2, 0, 1, 1]], np.int32)) == 0
    assert wrong_pixels(truth, np.array([[1, 1, 0, 0, 0, 3]], np.int32)) == 2
    assert wrong_pixels(truth, np.array([[1, 1, 1, 1, 1, 1]], np.int32)) == 2


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["outline", "touching"]))
@example(509, "outline")  # a pixel better
@example(1607, "outline")  # a cell better
@example(49, "outline")  # pixels that no cell owns more than another
def test_the_minimum_makes_no_perfect_map_worse(seed: int, boundary: str) -> None:
    """Where the class cell of a small cell falls apart, its smallest parts join the largest.

    Of 70,000 such maps 230 differed, 24 of them for the better and none for the worse.
    """
    labels = cells(seed)
    sizes = np.bincount(labels.ravel())[1:]
    true = np.count_nonzero(sizes)
    smallest = int(min(sizes[sizes > 0], default=0))
    classes = semantic3_target(labels, boundary)
    for min_size in {0, smallest // 2, smallest}:
        found = from_3class(classes, min_size=min_size)
        plain = from_3class(classes, min_size=min_size, min_seed=0)
        if (found != plain).any():
            assert abs(found.max() - true) <= abs(plain.max() - true)
            assert wrong_pixels(labels, found) <= wrong_pixels(labels, plain)


@pytest.mark.parametrize("seed", [1607, 2014, 5241])
def test_the_minimum_keeps_a_cell_whose_class_cell_falls_apart(seed: int) -> None:
    """Else its parts grow into instances of fewer than `min_size` pixels, and it is lost."""
    labels = cells(seed)
    sizes = np.bincount(labels.ravel())[1:]
    smallest, true = int(min(sizes[sizes > 0])), np.count_nonzero(sizes)
    classes = semantic3_target(labels)
    assert from_3class(classes, min_size=smallest, min_seed=0).max() == true - 1
    assert from_3class(classes, min_size=smallest).max() == true


@pytest.mark.parametrize("radius", [1.5, 2.0, 2.5, 3.0])
def test_tiny_cells_beside_a_large_one_are_exactly_themselves(radius: float) -> None:
    """Their interior is 1 to 13 pixels; they touch the large cell, with the smaller label."""
    labels = np.zeros(ROWS.shape, np.int64)
    labels[disc(30, 50, 15)] = 7
    tiny = disc(30, math.floor(50 - 16 - radius), radius) & (labels == 0)
    labels[tiny] = 3
    size = int(tiny.sum())
    found = from_3class(semantic3_target(labels), min_size=size)
    own = found[tiny]
    assert own.min() > 0
    assert np.count_nonzero(found == np.bincount(own).argmax()) == pytest.approx(size, abs=2)
    assert found.max() == 2


def test_smallest_seed_by_hand() -> None:
    assert smallest_seed(0) == 0
    assert smallest_seed(20) == 2
    assert smallest_seed(13) == pytest.approx(math.pi * (math.sqrt(13 / math.pi) - 1.5) ** 2)
    assert smallest_seed(13) < 1


def test_a_small_polygon_does_not_suppress_a_large_one() -> None:
    prob, dist = np.zeros((60, 80), np.float32), np.full((32, 60, 80), 14.0, np.float32)
    prob[28:33, 38:43] = 0.8
    prob[30, 40], dist[:, 30, 40] = 0.95, 1.5  # one stray pixel, more probable
    assert from_star_convex(prob, dist).max() == 1
    assert (from_star_convex(prob, dist) > 0).sum() < 20, "suppresses what is around it"
    found = from_star_convex(prob, dist, min_size=20)
    assert found.max() == 1
    assert (found > 0).sum() == pytest.approx(math.pi * 14**2, rel=0.05)
    for size in (5, 9):  # it may have so many pixels
        assert (from_star_convex(prob, dist, min_size=size) > 0).sum() < 20


def test_a_stray_pixel_makes_no_cell_of_the_watershed() -> None:
    true = disc(30, 30, 14) | disc(30, 58, 14)
    areas = np.bincount(watershed_2class(true, give_back_gap=True).ravel())
    for y, x in np.argwhere(disc(30, 30, 17))[::7]:
        mask = true.copy()
        mask[y, x] = ~mask[y, x]
        found = np.bincount(watershed_2class(mask, give_back_gap=True).ravel())
        assert len(found) == 3
        assert np.abs(found - areas).max() <= 8
