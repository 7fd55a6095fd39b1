from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from trainables.data.augmentation import Augmenter
from trainables.data.crops import CropDataset, EpochBatches
from trainables.data.crop_positions import crop_corners
from trainables.labels import (
    BOUNDARY,
    CELL,
    compact,
    foreground,
    outline,
    semantic2_target,
    semantic3_target,
    touching_gap,
)
from trainables.losses import build_loss


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        ([[0, 7], [255, 7]], np.uint8, [[0, 7], [255, 7]]),
        ([[0, 256]], np.uint16, [[0, 256]]),
        ([[0, 65535]], np.uint16, [[0, 65535]]),
        ([[0, 65536, 9], [9, 0, 10**9]], np.uint8, [[0, 2, 1], [1, 0, 3]]),
        ([[65536, 10**9]], np.uint8, [[1, 2]]),  # without background, too
        ([[0]], np.uint8, [[0]]),
    ],
)
def test_labels_in_the_smallest_type(
    labels: list[list[int]], kind: type, expected: list[list[int]]
) -> None:
    found = compact(np.array(labels, np.int64))
    assert found.dtype == kind
    assert found.tolist() == expected


def test_gap_is_one_pixel_wide() -> None:
    row = np.array([[0, 1, 1, 2, 2, 0, 3, 3]])
    np.testing.assert_array_equal(semantic2_target(row), row > 0)
    np.testing.assert_array_equal(semantic2_target(row, gap=1), [[0, 1, 0, 1, 1, 0, 1, 1]])


def test_gap_separates_diagonal_neighbours() -> None:
    np.testing.assert_array_equal(
        touching_gap(np.array([[1, 0], [0, 2]])), [[True, False], [False, False]]
    )


@given(arrays(np.int32, (9, 11), elements=st.integers(0, 3)))
@settings(max_examples=60, deadline=None)
def test_after_the_gap_no_two_cells_touch(labels: np.ndarray) -> None:
    kept = np.where(semantic2_target(labels, gap=1) > 0, labels, 0)
    assert not touching_gap(kept).any()
    assert not (kept.astype(bool) & ~foreground(labels)).any()


def test_touching_discs_become_two_components() -> None:
    y, x = np.mgrid[:40, :60]
    labels = np.where((y - 20) ** 2 + (x - 18) ** 2 <= 144, 1, 0)
    labels[((y - 20) ** 2 + (x - 41) ** 2 <= 144) & (labels == 0)] = 2
    assert label(labels > 0, np.ones((3, 3)))[1] == 1
    assert label(semantic2_target(labels, gap=1) > 0, np.ones((3, 3)))[1] == 2


def test_three_classes_of_two_touching_cells() -> None:
    labels = np.zeros((5, 8), np.int32)
    labels[1:4, 1:4], labels[1:4, 4:7] = 1, 2
    np.testing.assert_array_equal(
        semantic3_target(labels),
        [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 2, 2, 2, 2, 2, 2, 0],
            [0, 2, 1, 2, 1, 1, 2, 0],
            [0, 2, 2, 2, 2, 2, 2, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
    )
    np.testing.assert_array_equal(
        semantic3_target(labels, "touching"),
        [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 2, 1, 1, 1, 0],
            [0, 1, 1, 2, 1, 1, 1, 0],
            [0, 1, 1, 2, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
    )
    with pytest.raises(ValueError, match="known: outline, touching"):
        semantic3_target(labels, "thick")


@given(
    arrays(np.int32, (9, 11), elements=st.integers(0, 3)), st.sampled_from(["outline", "touching"])
)
@settings(max_examples=60, deadline=None)
def test_three_classes_keep_the_foreground_and_part_the_cells(
    labels: np.ndarray, boundary: str
) -> None:
    target = semantic3_target(labels, boundary)
    np.testing.assert_array_equal(target > 0, foreground(labels))
    inside = np.where(target == CELL, labels, 0)
    assert not touching_gap(inside).any()
    if boundary == "outline":  # no pixel of a cell's inside meets background
        assert not outline(np.where(target == BOUNDARY, 1, inside))[target == CELL].any()


@given(st.integers(0, 999), st.integers(40, 90), st.integers(40, 90))
@settings(max_examples=40, deadline=None)
def test_every_cell_is_whole_in_some_crop(seed: int, height: int, width: int) -> None:
    rng, size = np.random.default_rng(seed), 32
    labels = np.zeros((height, width), np.int32)
    for number in range(1, 8):
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        labels[top : top + rng.integers(2, 30), left : left + rng.integers(2, 30)] = number
    covered = np.zeros(labels.shape, bool)
    whole = set()
    for y, x in crop_corners(labels, size):
        assert 0 <= y <= height - size
        assert 0 <= x <= width - size
        covered[y : y + size, x : x + size] = True
        inside = np.zeros(labels.shape, bool)
        inside[y : y + size, x : x + size] = True
        whole |= set(np.unique(labels[inside])) - set(np.unique(labels[~inside]))
    assert covered.all()
    for number in set(np.unique(labels)) - {0}:
        rows, columns = np.nonzero(labels == number)
        if np.ptp(rows) < size and np.ptp(columns) < size:
            assert number in whole


def crops(count: int = 1, strength: str = "light", seed: int = 0) -> CropDataset:
    rng = np.random.default_rng(0)
    pairs = [
        (rng.random((70, 100)).astype(np.float32), rng.integers(0, 5, (70, 100)).astype(np.int32))
        for _ in range(count)
    ]
    return CropDataset(pairs, 32, lambda labels: semantic2_target(labels)[None], strength, seed)


@pytest.mark.parametrize("batch_size", [2, 3, 4, 16])
def test_an_epoch_uses_every_crop_once_and_no_batch_is_single(batch_size: int) -> None:
    dataset = crops()
    batches = list(EpochBatches(dataset, batch_size, 0))
    assert sorted(i for batch in batches for i in batch) == list(range(len(dataset)))
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= max(3, batch_size)


@pytest.mark.parametrize(("batch_size", "micro"), [(8, 4), (8, 2), (7, 3), (4, 2), (2, 2), (16, 5)])
def test_micro_batches_are_parts_of_the_same_batches(batch_size: int, micro: int) -> None:
    dataset = crops()
    whole, parts = EpochBatches(dataset, batch_size, 0), EpochBatches(dataset, batch_size, 0, micro)
    assert parts.steps == whole.steps == len(whole)
    assert len(parts) == parts.steps * parts.splits
    listed = list(parts)
    assert len(listed) == len(parts)
    assert min(map(len, listed)) >= 2
    starts = range(0, len(listed), parts.splits)
    joined = [[i for part in listed[s : s + parts.splits] for i in part] for s in starts]
    assert joined == list(whole)
    assert max(map(len, listed)) <= max(micro, 3)


def test_a_single_crop_makes_a_batch_of_two() -> None:
    rng = np.random.default_rng(0)
    pair = (rng.random((20, 25)).astype(np.float32), np.ones((20, 25), np.int32))
    dataset = CropDataset([pair], 32, semantic2_target, "none", 0)
    assert list(EpochBatches(dataset, 4, 0)) == [[0, 0]]
    assert dataset[0][0].shape == (1, 32, 32)


def epoch(dataset: CropDataset, seed: int, number: int) -> torch.Tensor:
    batches = EpochBatches(dataset, 4, seed)
    batches.set_epoch(number)
    return torch.cat([dataset[i][0] for batch in batches for i in batch])


def test_order_and_augmentation_depend_on_seed_and_epoch_only() -> None:
    first = epoch(crops(strength="strong"), 0, 3)
    other = crops(strength="strong")
    epoch(other, 0, 1)
    assert torch.equal(epoch(other, 0, 3), first)
    assert not torch.equal(epoch(other, 0, 4), first)
    assert not torch.equal(epoch(crops(strength="strong", seed=1), 1, 3), first)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'wild'; known: none"):
        Augmenter("wild")
    with pytest.raises(ValueError, match="unknown loss 'l2'; known: dice"):
        build_loss("l2")
