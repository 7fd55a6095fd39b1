"""A sweep whose data are divided and scaled by option: driver, workers, StarDist's process and
the analysis see the same split and intensities.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from analysis.runfolder import command_of, open_data, read_run
from trainables import checkpoint
from trainables.data.imagefiles import read_image

SPACE = """
from search_spaces import SearchSpace, grid
SHARED = dict(crop_size=64, batch_size=4, epochs=1, augmentation="none")
SPACE = SearchSpace(trials=(
    *grid(encoder="mobilenet_v2", **SHARED),
    *grid(task="stardist", architecture="StarDist", rays=16, **SHARED),
))
"""


def film(root: Path, frames: int = 30) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    labels = np.zeros((80, 96), np.uint16)
    labels[10:25, 10:25], labels[40:55, 40:55] = 1, 2
    content = gaussian_filter(rng.normal(0, 20, (80, 96)), 2)
    for number in range(frames):
        content = 0.8 * content + 0.6 * gaussian_filter(rng.normal(0, 20, (80, 96)), 2)
        image = 1000 + 100 * content + 400 * (labels > 0)
        tifffile.imwrite(root / "images" / f"t{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"t{number}.tif", labels)
    return root


@pytest.mark.slow
def test_split_and_scale_are_the_same_everywhere(tmp_path: Path) -> None:
    root = film(tmp_path / "film")
    (tmp_path / "space.py").write_text(SPACE)
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    words = [
        sys.executable,
        "-m",
        "sweep.run",
        "space.py",
        "--data",
        "film",
        "--out",
        "run",
        "--wandb",
        "off",
        "--set",
        "split=time_blocks",
        "--set",
        "normalization=image,dataset",
    ]

    def run() -> str:
        done = subprocess.run(
            words,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
            env={k: v for k, v in os.environ.items() if k not in drop},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "blocks of time" in run()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    gap = plan["data"]["options"]["gap_frames"]
    assert gap > 0
    used = [
        int(stem[1:]) for name in ("train", "val", "test") for stem in plan["data"]["split"][name]
    ]
    assert len(used) == 30 - 2 * gap
    assert sorted(np.diff(used))[-2:] == [gap + 1, gap + 1]
    with open(tmp_path / "run" / "leaderboard.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert sorted((row["architecture"], row["normalization"]) for row in rows) == [
        ("StarDist", "dataset"),
        ("StarDist", "image"),
        ("Unet", "dataset"),
        ("Unet", "image"),
    ]
    with open(tmp_path / "run" / "candidates.csv", newline="") as handle:
        assert [row["seeds"] for row in csv.DictReader(handle)] == ["1"] * 4
    train = [root / "images" / f"{stem}.tif" for stem in plan["data"]["split"]["train"]]
    expected = np.percentile(np.concatenate([read_image(p).ravel() for p in train]), [1, 99.8])
    analysed = read_run(tmp_path / "run")
    for row in rows:
        folder = tmp_path / "run" / "checkpoints" / row["trial_id"]
        manifest = json.loads((folder / "checkpoint.json").read_text())
        assert manifest["data"]["fingerprint"] == plan["data"]["fingerprint"]
        mode = row["normalization"]
        assert f"--set normalization={mode}" in command_of(analysed, row["trial_id"])
        if mode == "image":
            assert "low" not in manifest["input"]
            continue
        found = [manifest["input"]["low"], manifest["input"]["high"]]
        np.testing.assert_allclose(found, expected)
        loaded = checkpoint.load(folder)
        np.testing.assert_allclose(
            loaded.normalize(np.full((4, 4), found[1], np.float32)), 1, atol=1e-6
        )
    # a unit that is added later is no other data; the gap that was chosen is kept
    (root / "dataset.yaml").write_text("pixel_size_um: 0.3\n")
    assert "nothing to do" in run()
    dataset, other = open_data(analysed, None)
    assert (dataset.pixel_size_um, other) == (0.3, None)
    assert {k: list(v) for k, v in dataset.split.items()} == plan["data"]["split"]
