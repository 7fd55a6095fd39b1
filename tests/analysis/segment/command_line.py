"""The real command line on new images, and small images for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.draw import disk

ROOT = Path(__file__).parents[3]


def picture(
    seed: int, shape: tuple[int, int] = (96, 110), cells: int = 5
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return an image of discs, and where they are."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, bool)
    for _ in range(cells):
        labels[disk(rng.integers(12, np.array(shape) - 12), 9, shape=shape)] = True
    return (rng.normal(1000, 30, shape) + 400 * labels).astype(np.uint16), labels


def moving(frames: int, shape: tuple[int, int] = (100, 120)) -> NDArray[np.uint16]:
    """Two discs: one moves 4 px right, the other 3 px down in every frame."""
    rng, stack = np.random.default_rng(7), []
    for t in range(frames):
        image = rng.normal(1000, 30, shape)
        for center in ((25, 20 + 4 * t), (30 + 3 * t, 95)):
            image[disk(center, 9, shape=shape)] += 400
        stack.append(image.astype(np.uint16))
    return np.stack(stack)


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "analysis.segment", *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*words: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*words, cwd=cwd)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def parts(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (out / "parts").glob("*.parquet")}


def spots(out: Path, name: str = "objects.csv") -> pd.DataFrame:
    return pd.read_csv(out / name, skiprows=[1, 2, 3])


def predicts_in_tiles(checkpoint: Path, side: int | None) -> None:
    """Let a checkpoint say that its trial chose tiles of this side; None: whole images."""
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    manifest["inference"]["tile"] = side
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))
