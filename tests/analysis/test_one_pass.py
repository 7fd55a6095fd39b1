"""What an analysis reads and computes: every network once, every image once."""

from __future__ import annotations

import json
import shutil
import weakref
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
from analysis.evaluation.calibration import MOST_IMAGES, calibrate_checkpoint
from analysis.evaluation.images import LabelledImages
from analysis.evaluation.prediction import OnePass
from analysis.run import main
from analysis.runfolder import Candidate, Run
from analysis.study.annotations import CellAnnotations
from analysis.study.study import StudyOptions, make_study
from analysis.study.trials import AnalysedTrial, Variant
from analysis.study.truth import measure_truth
from trainables.config import Normalization, TrialConfig
from trainables.data.dataset import DataSet, Item, index_dataset
from trainables.data.normalization import normalize
from trainables.predict import Predictor
from trainables.tiling import WHOLE, Inference


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
    expected: dict[tuple[str, str], int] = {}
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


def test_images_are_held_up_to_a_bound(cells: Path, counted: dict[str, Counter[Any]]) -> None:
    items = index_dataset(cells).subset("test")
    size = 96 * 110 * (2 + 4)  # uint16 image, int32 labels
    images = LabelledImages(most_bytes=2 * size + 1)
    for _ in range(3):
        for item in items:
            assert images.read(item).truth.shape == (96, 110)
    assert [counted["read"][item.mask] for item in items] == [1, 1, 3, 3, 3, 3]
    assert [counted["read"][item.image] for item in items] == [1, 1, 3, 3, 3, 3]


class Network:
    """Predicts what it sees, and knows which of its maps are still in memory."""

    config = TrialConfig(architecture="Unet", encoder="resnet18")
    inference = WHOLE

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"weights": {"sha256": "abc"}}
        self.calls = self.most = 0
        self.alive: weakref.WeakValueDictionary[int, NDArray[np.float32]]
        self.alive = weakref.WeakValueDictionary()

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        return normalize(image, self.config.normalization)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        found = normalized[None].copy()
        self.alive[self.calls] = found
        self.calls += 1
        self.most = max(self.most, len(self.alive))
        return found

    def close(self) -> None:
        pass


def test_memory_does_not_grow_with_the_number_of_images(cells: Path, tmp_path: Path) -> None:
    """Maps of more images than calibration looks at are in memory one at a time."""
    small = index_dataset(cells)

    def many(split: str) -> list[Item]:
        copies = enumerate(small.subset(split) * 8)
        return [Item(f"{item.stem}_{n}", item.image, item.mask, item.group) for n, item in copies]

    val, test = many("val"), many("test")
    dataset = DataSet(
        root=cells,
        items=(*val, *test),
        split={
            "train": (),
            "val": tuple(item.stem for item in val),
            "test": tuple(item.stem for item in test),
        },
        pixel_size_um=None,
        fingerprint="",
    )
    run = Run(tmp_path, {}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})
    study = make_study(run, dataset, None, CellAnnotations(dataset), StudyOptions())
    network = Network()
    one_pass = OnePass(network, study.images)
    calibration = calibrate_checkpoint(tmp_path, one_pass, dataset, budget=2)
    assert len(calibration.images) == network.most == MOST_IMAGES
    candidate = Candidate("m", network.config, ("t",), 0.5)
    trial = AnalysedTrial(candidate, "t", calibration, [Variant("m", "calibrated")])
    trial.see_images(study, one_pass, measure_truth(study, lambda: None))
    assert network.calls == len(val) + len(test), "each image once"
    assert network.most <= MOST_IMAGES + 1
    assert len(network.alive) == 0
