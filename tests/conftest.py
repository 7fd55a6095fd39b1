"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import settings

# the same examples every time; --hypothesis-profile=default draws new ones
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real microscopy images; the test skips where they are absent."""
    named = os.environ.get("SEGSWEEP_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "yeastvision_phase" / "images").is_dir():
        pytest.skip("no real images: set SEGSWEEP_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of five noisy images with four bright discs each, of sides no network likes."""
    from skimage.draw import disk

    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(5):
        labels = np.zeros((90, 100), np.uint16)
        for label, center in enumerate([(20, 20), (20, 60), (60, 30), (65, 70)], 1):
            labels[disk(np.add(center, rng.integers(-5, 6, 2)), 10, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    return root
