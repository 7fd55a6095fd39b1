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


TINY = {
    "train": [((90, 100), 4), ((90, 100), 4), ((90, 100), 4)],
    "val": [((90, 100), 4), ((82, 108), 1)],
    "test": [((90, 100), 3), ((88, 97), 1), ((95, 110), 4)],
}
"""Shapes and numbers of discs: no two images of val or test alike, so that means can be wrong.
Padded for StarDist they are alike again: TensorFlow compiles once.
"""


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of eight noisy images of bright discs, of sides no network likes: see `TINY`."""
    from skimage.draw import disk

    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    images = [(split, *one) for split, many in TINY.items() for one in many]
    stems: dict[str, list[str]] = {split: [] for split in TINY}
    for number, (split, shape, discs) in enumerate(images):
        stems[split].append(f"i{number}")
        labels = np.zeros(shape, np.uint16)
        for label, center in enumerate([(20, 20), (20, 60), (60, 30), (65, 70)][:discs], 1):
            labels[disk(np.add(center, rng.integers(-5, 6, 2)), 10, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    lines = [f"  {name}: [{', '.join(members)}]" for name, members in stems.items()]
    (root / "dataset.yaml").write_text("\n".join(["split:", *lines]) + "\n")
    return root
