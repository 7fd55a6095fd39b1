"""A real sweep for tests of the analysis: run once, by the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

SPACE = """
from search_spaces import SearchSpace, grid
SHARED = dict(crop_size=64, batch_size=4, epochs=6, learning_rate=5e-3, augmentation="none")
SPACE = SearchSpace(trials=(
    *grid({"architecture": ["Unet", "FPN"]}, encoder="mobilenet_v2", **SHARED),
    *grid({"task": ["semantic3", "stardist"]},
          architecture="Unet", encoder="mobilenet_v2", **SHARED),
    *grid(architecture="Unet", encoder="tu-no_such_network", **SHARED),
))
"""


def make_cells(root: Path) -> Path:
    """Write 18 images of touching small and large discs; one of each split shows no cell."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows = ["image,label,track,population"]
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(18):
        stem = f"i{number:02d}"
        split = ("train", "val", "test")[number // 6]
        splits[split].append(stem)
        labels = np.zeros((96, 110), np.uint16)
        if number % 6 != 5:
            centers = [(20, 20), (20, 38), (60, 30), (65, 80), (30, 80)]
            for label, center in enumerate(centers, 1):
                radius = 7 if label % 2 else 11
                place = np.add(center, rng.integers(-3, 4, 2))
                labels[disk(place, radius, shape=labels.shape)] = label
            present = np.unique(labels[labels > 0])
            rows += [f"{stem},{i},,{'small' if i % 2 else 'large'}" for i in present]
        image = rng.normal(1000, 30, labels.shape) + 400 * (labels > 0)
        tifffile.imwrite(root / "images" / f"{stem}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"{stem}.tif", labels)
    (root / "objects.csv").write_text("\n".join(rows) + "\n")
    lines = [f"  {name}: [{', '.join(stems)}]" for name, stems in splits.items()]
    (root / "dataset.yaml").write_text("\n".join(["pixel_size_um: 0.5", "split:", *lines]) + "\n")
    return root


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data set of `swept`."""
    return make_cells(tmp_path_factory.mktemp("cells") / "data")


@pytest.fixture(scope="session")
def swept(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished sweep: three ways of making instances, one trial that failed."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "space.py").write_text(SPACE)
    words = ("space.py", "--data", cells, "--out", folder / "run", "--wandb", "off")
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    done = subprocess.run(
        [sys.executable, "-m", "sweep.run", *map(str, words)], cwd=folder, text=True,
        env={k: v for k, v in os.environ.items() if k not in drop},
        capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return folder / "run"
