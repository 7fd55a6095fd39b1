"""Intensities and shares by hand: small bugs went unnoticed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from trainables.config import Normalization
from trainables.data.dataset import index_dataset
from trainables.data.normalization import normalize
from trainables.data.splits import DataOptions


def test_percentiles_become_0_and_1() -> None:
    image = np.arange(1001, dtype=np.uint16).reshape(7, 143)
    seen = normalize(image, Normalization(low=10, high=90)).ravel()
    np.testing.assert_allclose(seen, (np.arange(1001) - 100) / 800, atol=1e-6)
    other = normalize(image, Normalization(low=20, high=60)).ravel()
    assert other[[200, 600]] == pytest.approx([0, 1])


def test_what_is_far_outside_is_cut_half_a_range_beyond() -> None:
    image = np.full((100, 100), 50.0)
    image[:, ::2] = 150
    image[0, :3] = (-1e6, 1e6, 190)
    seen = normalize(image, Normalization(low=5, high=95))  # 50 becomes 0, 150 becomes 1
    assert seen[0, :3] == pytest.approx([-0.5, 1.5, 1.4])
    assert seen[5, :2] == pytest.approx([1, 0])


def test_shares_of_validation_and_test(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(20):
            tifffile.imwrite(tmp_path / name / f"i{number}.tif", np.ones((4, 4), np.uint8))
    made = index_dataset(tmp_path, DataOptions(val_fraction=0.3, test_fraction=0.1))
    assert {name: len(stems) for name, stems in made.split.items()} == {
        "train": 12,
        "val": 6,
        "test": 2,
    }
