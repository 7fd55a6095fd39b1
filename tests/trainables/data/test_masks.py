"""Masks that are no label images, and those that only look so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

from trainables.data.dataset import DataError, open_dataset
from trainables.labels import semantic3_target


def cells(seed: int, count: int, side: int = 300, radius: int = 8) -> np.ndarray:
    """Draw apart discs, numbered from 1."""
    rng, labels = np.random.default_rng(seed), np.zeros((side, side), np.uint16)
    step = 2 * radius + 4
    marks = range(step, side - step, step)
    places = [(y, x) for y in marks for x in marks]
    assert len(places) >= count
    order = rng.permutation(len(places))[:count]
    for label, k in enumerate(sorted(order), 1):
        labels[disk(places[k], radius - 1, shape=labels.shape)] = label
    return labels


def write(root: Path, masks: list[np.ndarray]) -> Path:
    rng = np.random.default_rng(1)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, mask in enumerate(masks):
        image = rng.integers(100, 4000, mask.shape).astype(np.uint16)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image)
        tifffile.imwrite(root / "masks" / f"i{number}.tif", mask)
    return root


def problem(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(root)
    return str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_classes_are_no_cells(tmp_path: Path, count: int) -> None:
    masks = [semantic3_target(cells(s, count)).astype(np.uint8) for s in range(5)]
    check_classes(problem(write(tmp_path / "d", masks)))


def test_cells_and_lines_between_them_are_no_cells(tmp_path: Path) -> None:
    masks = []
    for seed in range(5):
        labels = cells(seed, 40)
        labels[disk((150, 150), 7, shape=labels.shape)] = 98
        labels[disk((150, 163), 7, shape=labels.shape)] = 99
        masks.append(semantic3_target(labels, "touching").astype(np.uint8))
    check_classes(problem(write(tmp_path / "d", masks)))


def check_classes(text: str) -> None:
    assert "masks/i0.tif" in text
    assert "classes" in text
    assert "own number" in text


def test_one_mask_of_classes_among_label_images(tmp_path: Path) -> None:
    masks = [cells(s, 20) for s in range(5)]
    masks[3] = semantic3_target(masks[3]).astype(np.uint16) * 100
    text = problem(write(tmp_path / "d", masks))
    assert "masks/i3.tif" in text
    assert "masks/i2.tif" not in text
    assert "100, 200" in text


def test_labels_wrapped_at_8_bits(tmp_path: Path) -> None:
    masks = [cells(s, 20, side=500) for s in range(5)]
    masks[2] = cells(2, 300, side=500).astype(np.uint8)  # 256 becomes 0, 257 becomes 1, ...
    text = problem(write(tmp_path / "d", masks))
    assert "masks/i2.tif" in text
    assert "255" in text
    assert "16 bit" in text
    assert "masks/i1.tif" not in text


def test_labels_clipped_at_8_bits(tmp_path: Path) -> None:
    masks = [cells(s, 20, side=500) for s in range(5)]
    masks[2] = np.minimum(cells(2, 300, side=500), 255).astype(np.uint16)
    assert "16 bit" in problem(write(tmp_path / "d", masks))


def test_numbers_that_were_given_twice(tmp_path: Path) -> None:
    masks = [cells(s, 20) for s in range(5)]
    masks[1] = np.hstack([cells(7, 20), cells(8, 20)])  # two fields, each numbered from 1
    text = problem(write(tmp_path / "d", masks))
    assert "masks/i1.tif" in text
    assert "20 of 20" in text
    assert "far apart" in text


def test_255_cells_are_allowed(tmp_path: Path) -> None:
    masks = [cells(s, 255, side=500).astype(np.uint8) for s in range(5)]
    assert not any("piece" in note for note in open_dataset(write(tmp_path / "d", masks)).notes)


def test_few_cells_in_an_image_are_allowed(tmp_path: Path) -> None:
    masks = [cells(s, 1 + s % 3) for s in range(6)]
    masks[1][masks[1] == 2] = 1  # a binary mask
    assert len(open_dataset(write(tmp_path / "d", masks)).items) == 6


def test_a_cell_behind_another_is_noted(tmp_path: Path) -> None:
    masks = [cells(s, 20, radius=12) for s in range(5)]
    for number in (1, 4):
        y, x = np.argwhere(masks[number] == 3).mean(0).astype(int)
        masks[number][y - 2 : y + 2, x - 14 : x + 15] = 99  # lies across it
    masks[4][0, 0] = 5  # a stray pixel of a cell elsewhere
    notes = open_dataset(write(tmp_path / "d", masks)).notes
    (note,) = [n for n in notes if "pieces" in n]
    assert note.startswith("3 cells have two or more pieces")
    assert "i1, i4" in note
    assert "classes" not in note


def test_few_pieces_of_what_may_be_classes_are_noted_as_such(tmp_path: Path) -> None:
    """Small crops: two pairs of touching cells each, so that each class has few pieces."""
    masks = []
    for _ in range(5):
        labels = np.zeros((120, 120), np.uint16)
        for number, (y, x) in enumerate([(30, 30), (30, 43), (90, 60), (90, 73)], 1):
            labels[disk((y, x), 7, shape=labels.shape)] = number
        masks.append(semantic3_target(labels, "touching").astype(np.uint8))
    (note,) = [n for n in open_dataset(write(tmp_path / "d", masks)).notes if "pieces" in n]
    assert "If the values 1 to 2 mark classes, such as cell and border" in note


def test_a_cell_inside_another_in_one_image(tmp_path: Path) -> None:
    masks = [cells(s, 20) for s in range(5)]
    ring = np.zeros_like(masks[0])
    ring[disk((100, 100), 30, shape=ring.shape)] = 1
    ring[disk((100, 100), 10, shape=ring.shape)] = 2
    masks.append(ring)
    assert len(open_dataset(write(tmp_path / "d", masks)).items) == 6


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["usiigaci_phase", "dsb2018_fluo_nuclei", "yeastvision_phase"])
def test_real_masks_are_label_images(real_data: Path, name: str) -> None:
    notes = open_dataset(real_data / name).notes
    assert not any("pieces" in note for note in notes)
