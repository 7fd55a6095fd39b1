"""What the tests of segmenting share: a network that was trained for a few seconds, and images."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from filelock import FileLock
from skimage.measure import label as components

from tests.analysis.segment.command_line import picture, predicts_in_tiles
from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.train import train


@pytest.fixture(scope="session")
def model(shared: Path) -> Path:
    """Checkpoint of a small network that was trained on discs; to be read only."""
    root = shared / "segment_model"
    with FileLock(shared / "segment_model.lock"):
        if not (root / "trained").exists():
            _train(root)
            (root / "trained").touch()
    return root / "trial"


def _train(root: Path) -> None:
    data = root / "data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number in range(10):
        image, cells = picture(number)
        tifffile.imwrite(data / "images" / f"i{number}.tif", image)
        tifffile.imwrite(data / "masks" / f"i{number}.tif", components(cells).astype(np.uint16))
    config = TrialConfig(
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=4,
        epochs=6,
        learning_rate=5e-3,
        augmentation="none",
    )
    train(config, open_dataset(data), root / "trial")
    # whole or tiles is decided by a rounding here, and differs between processors: say it
    predicts_in_tiles(root / "trial", None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder with 8 and 16 bit, TIFF and PNG, unequal sizes, and one image without cells."""
    folder = tmp_path / "field"
    folder.mkdir()
    tifffile.imwrite(folder / "a1.tif", picture(50)[0])
    tifffile.imwrite(folder / "a2.tif", (picture(51, (75, 133))[0] // 8).astype(np.uint8))
    (folder / "a10.png").write_bytes(imagecodecs.png_encode(picture(52, (130, 90))[0]))
    tifffile.imwrite(folder / "a11.tif", np.full((60, 70), 1000, np.uint16))
    return folder
