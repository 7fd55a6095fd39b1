"""Where crops lie, and in which order they come: by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.data.augmentation import Augmenter
from trainables.data.crops import CropDataset, EpochBatches
from trainables.data.crop_positions import (
    Cutter,
    crop_corners,
    derived_seed,
    epoch_batches,
    pad_to_size,
    steps_per_epoch,
)


def empty(height: int, width: int) -> NDArray[np.int32]:
    return np.zeros((height, width), np.int32)


@pytest.mark.parametrize(
    ("side", "starts"),
    [(32, [0]), (33, [0, 1]), (64, [0, 32]), (65, [0, 16, 33]), (100, [0, 23, 45, 68])],
)
def test_an_even_grid_covers_an_image(side: int, starts: list[int]) -> None:
    assert crop_corners(empty(32, side), 32) == [(0, x) for x in starts]
    assert crop_corners(empty(side, 32), 32) == [(y, 0) for y in starts]


@pytest.mark.parametrize(
    ("rows", "columns", "more"),
    [
        ((30, 35), (0, 5), [(16, 0)]),  # across the border of the first two crops
        ((0, 32), (0, 32), []),  # fills a crop
        ((32, 64), (32, 64), []),
        ((31, 63), (0, 9), [(31, 0)]),  # as large as a crop
        ((31, 64), (0, 9), []),  # larger than a crop: covered in parts
        ((0, 9), (28, 61), []),
        ((28, 60), (20, 40), [(28, 14)]),
        ((10, 20), (31, 34), [(0, 16)]),  # centred at row -1, moved into the image
        ((50, 64), (31, 33), [(32, 16)]),  # centred beyond the last row
        ((31, 33), (0, 3), [(16, 0)]),
        ((31, 33), (61, 64), [(16, 32)]),
    ],
)
def test_a_cell_that_no_crop_holds_gets_one(
    rows: tuple[int, int], columns: tuple[int, int], more: list[tuple[int, int]]
) -> None:
    labels = empty(64, 64)
    labels[slice(*rows), slice(*columns)] = 7
    grid = [(y, x) for y in (0, 32) for x in (0, 32)]
    assert crop_corners(labels, 32) == [*grid, *more]


def test_the_crop_of_one_cell_serves_the_next() -> None:
    labels = empty(64, 64)
    labels[30:34, 30:34], labels[26:36, 40:44] = 2, 5
    assert crop_corners(labels, 32)[4:] == [(16, 16)]
    labels[34:36, 5:40] = 9  # wider than a crop, and between others
    assert crop_corners(labels, 32)[4:] == [(16, 16)]
    labels[34:36, 5:40] = 0
    labels[31:33, 0:2] = 9
    assert crop_corners(labels, 32)[4:] == [(16, 16), (16, 0)]


def test_numbers_that_are_missing_and_large_cells_end_nothing() -> None:
    """A cell of a higher number still gets its crop."""
    labels = empty(64, 64)
    labels[0:40, 0:3], labels[0:3, 0:3], labels[30:34, 60:64] = 5, 7, 9
    assert crop_corners(labels, 32)[4:] == [(16, 32)]


def test_a_small_image_is_mirrored_and_its_mirrored_cells_are_others() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    labels = np.array([[0, 7, 7], [900, 0, 0]], np.uint16)
    grown, cells = pad_to_size(image, labels, 4)
    assert grown.tolist() == [[1, 2, 3, 3], [1, 2, 3, 3], [4, 5, 6, 6], [4, 5, 6, 6]]
    kinds = [[0, 1, 1, 2], [0, 3, 3, 4], [5, 0, 0, 0], [6, 0, 0, 0]]
    numbers: dict[int, int] = {}
    for kind, number in zip(np.ravel(kinds), cells.ravel(), strict=True):
        assert numbers.setdefault(int(kind), int(number)) == number
    assert numbers[0] == 0
    assert len(set(numbers.values())) == 7
    assert cells.max() < 3 * 6, "three kinds of pixels in six images"
    assert cells.dtype == np.uint8, "in the smallest type that holds the numbers"


def test_a_side_may_be_mirrored_more_than_once() -> None:
    """Rows of three pixels become ten: each mirror image of a cell is a cell of its own."""
    image = np.array([[1, 2, 3]], np.float32).repeat(7, 0)
    labels = np.array([[1, 1, 0]]).repeat(7, 0)
    grown, cells = pad_to_size(image, labels, 10)
    assert grown[4].tolist() == [3, 2, 1, 1, 2, 3, 3, 2, 1, 1]
    row = cells[4].tolist()
    assert [number > 0 for number in row] == [grey < 3 for grey in grown[4]]
    assert (row[1], row[3], row[7]) == (row[2], row[4], row[8])
    assert len({row[1], row[3], row[7], row[9]}) == 4
    column = cells[:, 4].tolist()
    assert column[1:8] == [column[1]] * 7
    assert column[8] == column[9]
    assert len(set(column)) == 3, "one row before, seven, two behind"


def test_an_image_without_background_is_mirrored_too() -> None:
    for value in (1, 5):
        _, cells = pad_to_size(np.zeros((2, 4), np.float32), np.full((2, 4), value), 4)
        assert cells.min() > 0
        assert [len(np.unique(row)) for row in cells] == [1, 1, 1, 1]
        assert len(np.unique(cells)) == 3


def test_an_image_that_is_large_enough_is_left_alone() -> None:
    image, labels = np.zeros((32, 40), np.float32), np.full((32, 40), 10**6)
    same, cells = pad_to_size(image, labels, 32)
    assert same is image
    assert cells is labels
    wide, _ = pad_to_size(image, labels, 33)
    assert wide.shape == (33, 40)


def test_a_crop_without_augmentation_is_cut_where_it_says() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        (rng.random(shape).astype(np.float32), rng.integers(0, 9, shape).astype(np.int32))
        for shape in ((32, 50), (20, 32))
    ]
    cutter = Cutter(pairs, 32, "none", 0)
    assert cutter.corners == [(0, 0, 0), (0, 0, 18), (1, 0, 0)]
    for index, x in ((0, 0), (1, 18)):
        crop, cells = cutter.cut(index, 3)
        np.testing.assert_array_equal(crop, pairs[0][0][:, x : x + 32])
        np.testing.assert_array_equal(cells, pairs[0][1][:, x : x + 32])
    assert cutter.cut(2, 0)[0].shape == (32, 32)


def test_augmentation_follows_seed_epoch_and_crop() -> None:
    pair = (np.random.default_rng(0).random((32, 32)).astype(np.float32), empty(32, 32))

    def cut(seed: int, epoch: int, index: int) -> bytes:
        return Cutter([pair, pair], 32, "medium", seed).cut(index, epoch)[0].tobytes()

    assert cut(1, 2, 1) == cut(1, 2, 1)
    assert len({cut(1, 2, 1), cut(2, 2, 1), cut(1, 3, 1), cut(1, 2, 0)}) == 4


def test_the_augmentation_of_a_crop_has_a_seed_of_its_own() -> None:
    pair = (np.random.default_rng(0).random((40, 40)).astype(np.float32), empty(40, 40))
    crop, cells = Cutter([pair], 32, "strong", 5).cut(0, 7)
    rng = np.random.default_rng(derived_seed(5, "augmentation", 7, 0))
    expected = Augmenter("strong")(*pair, (0, 0), 32, rng)
    np.testing.assert_array_equal(crop, expected[0])
    np.testing.assert_array_equal(cells, expected[1])


def test_seeds_that_earlier_trials_had() -> None:
    """The order and the augmentation of every trial follow from these."""
    assert derived_seed(0, "order", 1) == 901835043
    assert derived_seed(7, "augmentation", 3, 12) == 1070776604


@pytest.mark.parametrize(
    ("count", "batch_size", "steps"),
    [(1, 8, 1), (2, 8, 1), (3, 2, 1), (4, 2, 2), (8, 8, 1), (9, 8, 2), (16, 8, 2), (17, 8, 3)],
)
def test_steps_of_an_epoch(count: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(count, batch_size) == steps


@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_deals_out_every_crop_once(
    count: int, batch_size: int, seed: int, epoch: int
) -> None:
    steps = steps_per_epoch(count, batch_size)
    batches = epoch_batches(count, steps, seed, epoch)
    assert len(batches) == steps
    assert sorted(np.concatenate(batches)) == list(range(count))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    again = epoch_batches(count, steps, seed, epoch)
    assert all(map(np.array_equal, batches, again))


def test_the_order_follows_seed_and_epoch_and_one_crop_comes_twice() -> None:
    before = [batch.tolist() for batch in epoch_batches(8, 2, seed=3, epoch=5)]
    assert before == [[1, 2, 7, 6], [5, 4, 0, 3]], "the order that earlier trials had"
    orders = {
        tuple(np.concatenate(epoch_batches(20, 4, seed, epoch)))
        for seed in range(2)
        for epoch in range(3)
    }
    assert len(orders) == 6
    assert [batch.tolist() for batch in epoch_batches(1, 1, 0, 0)] == [[0, 0]]
    assert [batch.tolist() for batch in epoch_batches(2, 2, 0, 0)] in ([[0], [1]], [[1], [0]])


def dataset(width: int) -> CropDataset:
    """As many crops as `width` holds, in two rows."""
    pair = (np.zeros((64, width), np.float32), empty(64, width))
    return CropDataset([pair], 32, lambda labels: labels[None] > 0, "none", 0)


@pytest.mark.parametrize(
    ("crops", "batch_size", "micro_batch", "sizes"),
    [
        (12, 8, None, [6, 6]),
        (12, 8, 6, [6, 6]),
        (12, 8, 5, [3, 3, 3, 3]),
        (12, 8, 2, [2] * 6),
        (12, 5, 3, [2] * 6),
        (10, 4, 2, [4, 3, 3]),  # halves of 3 would be single crops
        (10, 5, 2, [3, 2, 3, 2]),
        (2, 8, 2, [2]),
    ],
)
def test_batches_and_their_parts(
    crops: int, batch_size: int, micro_batch: int | None, sizes: list[int]
) -> None:
    batches = EpochBatches(dataset(16 * crops), batch_size, 0, micro_batch)
    found = list(batches)
    assert [len(part) for part in found] == sizes
    assert len(batches) == len(sizes) == batches.steps * batches.splits
    assert sorted(sum(found, [])) == list(range(crops))
    assert all(type(number) is int for part in found for number in part)


def test_parts_are_those_of_the_whole_batch() -> None:
    whole, parts = (EpochBatches(dataset(192), 8, 3, micro) for micro in (None, 3))
    for batches in (whole, parts):
        assert batches.epoch == 0
        batches.set_epoch(4)
    (first, second), four = whole, list(parts)
    assert (first, second) == (four[0] + four[1], four[2] + four[3])
    whole.set_epoch(5)
    assert next(iter(whole)) != first


def test_batches_announce_the_epoch_to_their_crops() -> None:
    pair = (np.random.default_rng(0).random((64, 64)).astype(np.float32), empty(64, 64))
    seen = CropDataset([pair], 32, lambda labels: labels[None] > 0, "medium", 0)
    batches = EpochBatches(seen, 4, 0)
    assert batches.sampler is batches
    first = seen[0][0]
    batches.set_epoch(1)
    next(iter(batches))
    assert not np.array_equal(first, seen[0][0])
    batches.set_epoch(0)
    next(iter(batches))
    np.testing.assert_array_equal(first, seen[0][0])


def test_a_crop_is_a_pair_of_tensors() -> None:
    crop, target = dataset(64)[1]
    assert (tuple(crop.shape), str(crop.dtype)) == ((1, 32, 32), "torch.float32")
    assert (tuple(target.shape), str(target.dtype)) == ((1, 32, 32), "torch.bool")
