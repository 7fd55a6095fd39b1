"""What an analysis reads and computes: every network once, every image once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

import trainables.checkpoint
import trainables.data.imagefiles
from analysis.run import main
from trainables.config import Normalization
from trainables.data.dataset import normalize
from trainables.predict import Predictor


def stems_by_pixels(data: Path) -> dict[bytes, str]:
    """Tell images apart by what a network sees of them: no two have the same noise."""
    paths = sorted(data.glob("images/*.tif"))
    return {
        normalize(tifffile.imread(path), Normalization()).tobytes(): path.stem for path in paths
    }


@pytest.fixture
def counted(cells: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[Any]]:
    """How often files are read, weights loaded and images predicted, by the real functions."""
    counts: dict[str, Counter[Any]] = {name: Counter() for name in ("read", "load", "predict")}
    stems = stems_by_pixels(cells)
    read, load = trainables.data.imagefiles._read, trainables.checkpoint.load_weights
    maps = Predictor.maps

    def counting_read(path: Path) -> NDArray[Any]:
        counts["read"][path] += 1
        return read(path)

    def counting_load(path: Path) -> dict[str, Any]:
        counts["load"][path.parent.name] += 1
        return load(path)

    def counting_maps(self: Predictor, normalized: NDArray[np.float32], *rest: Any) -> Any:
        counts["predict"][self.info["weights"]["sha256"], stems[normalized.tobytes()]] += 1
        return maps(self, normalized, *rest)

    monkeypatch.setattr(trainables.data.imagefiles, "_read", counting_read)
    monkeypatch.setattr(trainables.checkpoint, "load_weights", counting_load)
    monkeypatch.setattr(Predictor, "maps", counting_maps)
    return counts


def test_every_network_is_loaded_once_and_every_image_read_and_predicted_once(
    swept: Path,
    cells: Path,
    tmp_path: Path,
    counted: dict[str, Counter[Any]],
    hashed: Counter[Path],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(swept, out, ignore=shutil.ignore_patterns("tune", "wandb"))
    assert main([str(out), "--top", "1", "--budget", "3", "--resamples", "20"]) == 0
    split = json.loads((out / "plan.json").read_text())["data"]["split"]
    analysed = set(pd.read_csv(out / "report" / "methods.csv")["trial_id"])
    manifests = {path.parent.name: path for path in out.glob("checkpoints/*/checkpoint.json")}
    assert len(manifests) == 4
    assert len(analysed) == 3, "one network is in Figure 8 only"
    assert counted["load"] == dict.fromkeys(manifests, 1)
    expected = {}
    for trial_id, path in manifests.items():
        digest = json.loads(path.read_text())["weights"]["sha256"]
        seen = [*split["val"], *split["test"]] if trial_id in analysed else ["i12"]
        expected |= {(digest, stem): 1 for stem in seen}
    assert counted["predict"] == expected
    measured = [
        cells / name / f"{stem}.tif"
        for name in ("images", "masks")
        for stem in (*split["val"], *split["test"])
    ]
    assert counted["read"] == dict.fromkeys(measured, 1)
    weights = {path.parent / "weights.pt": 1 for path in manifests.values()}
    assert hashed == weights | dict.fromkeys([*cells.glob("*/*.tif")], 1)
