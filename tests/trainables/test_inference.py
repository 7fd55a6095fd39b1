"""How a trial predicts images: chosen on validation, stored, and used by everything after."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from skimage.draw import disk
from torch import nn

from trainables import checkpoint
from trainables.config import TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.data.examples import Example
from trainables.data.imagefiles import Labels, read_image, read_labels
from trainables.errors import CheckpointError
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.module import Scores, SegmentationModule
from trainables.starconvex import star_targets
from trainables.tiling import WHOLE, Inference
from trainables.train import train

Shapes = list[tuple[int, int]]
CONFIG = TrialConfig(encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two test images, of which one is nine times as large as the validation images."""
    root, rng = tmp_path_factory.mktemp("sizes") / "data", np.random.default_rng(0)
    sides = {"a": 96, "b": 96, "c": 100, "d": 90, "e": 96, "f": 300}
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for stem, side in sides.items():
        labels = np.zeros((side, side + 4), np.uint16)
        for label in range(1, 5 + side // 20):
            labels[disk(rng.integers(10, side - 10, 2), 8, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"{stem}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"{stem}.tif", labels)
    (root / "dataset.yaml").write_text("split: {train: [a, b], val: [c, d], test: [e, f]}")
    return open_dataset(root)


@pytest.fixture(scope="module")
def seen() -> Shapes:
    """Shapes that networks were given outside of training."""
    return []


@pytest.fixture(scope="module")
def trained(
    dataset: DataSet, tmp_path_factory: pytest.TempPathFactory, seen: Shapes
) -> TrialResult:
    from trainables.architectures import build_model

    def watched(architecture: str, encoder: str, **options: Any) -> nn.Module:
        network = build_model(architecture, encoder, **options)

        def note(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if not module.training:
                height, width = inputs[0].shape[-2:]
                seen.append((height, width))

        network.register_forward_pre_hook(note)
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.train.build_model", watched)
        return train(CONFIG, dataset, tmp_path_factory.mktemp("trial"))


def test_no_image_takes_more_than_validation_did(trained: TrialResult, seen: Shapes) -> None:
    assert seen
    assert max(h * w for h, w in seen) <= 128 * 128  # what 100 x 104 pixels are padded to


def test_the_checkpoint_predicts_what_was_measured(trained: TrialResult, dataset: DataSet) -> None:
    predictor = checkpoint.load(trained.checkpoint)
    assert str(predictor.inference) == trained.inference
    counts: dict[str, list[tuple[int, int]]] = {"val": [], "test": []}
    for split, found in counts.items():
        for item in dataset.subset(split):
            truth = read_labels(item.mask).labels > 0
            found.append(overlap_counts(predictor.foreground(read_image(item.image)), truth))
    assert iou_from_counts(counts["test"])[0] == pytest.approx(trained.test_dataset_iou, abs=1e-9)
    recorded = [
        (one.split, one.image, one.group, one.intersection, one.union) for one in trained.per_image
    ]
    assert recorded == [
        (split, item.stem, item.stem, *pair)
        for split in counts
        for item, pair in zip(dataset.subset(split), counts[split])
    ]


@pytest.mark.parametrize(
    ("ious", "crop_size", "chosen"),
    [
        ({"whole": 0.8, "tiles of 64": 0.81}, 64, Inference(64, 100 * 104)),
        # not worth their cost
        ({"whole": 0.8, "tiles of 64": 0.801}, 64, Inference(None, 100 * 104)),
        ({"whole": 0.8, "tiles of 64": 0.7}, 64, Inference(None, 100 * 104)),
        # of twice the crop's size; tiles of 32 are too small
        ({"whole": 0.8, "tiles of 64": 0.81}, 32, Inference(64, 100 * 104)),
    ],
)
def test_tiles_are_chosen_by_validation_alone(
    ious: dict[str, float],
    crop_size: int,
    chosen: Inference,
    dataset: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scripted(
        self: SegmentationModule, images: Iterable[Example], precision: str, inference: Inference
    ) -> Scores:
        stems = [one.stem for one in images]
        if stems == ["e", "f"]:  # testing: the other way round
            return Scores(0.5, 1 - ious[str(inference)], 0.1, {}, ((1, 2), (1, 2)))
        assert stems == ["c", "d"]
        return Scores(0.5, ious[str(inference)], 0.2, {}, ((1, 2), (1, 2)))

    monkeypatch.setattr("trainables.module.SegmentationModule.evaluate", scripted)
    config = CONFIG.model_copy(update={"crop_size": crop_size})
    result = train(config, dataset, tmp_path / "t")
    assert result.inference == str(chosen)
    assert result.val_dataset_iou == ious[str(chosen)]
    assert result.test_dataset_iou == 1 - ious[str(chosen)]
    assert checkpoint.load(result.checkpoint).inference == chosen


def test_checkpoints_of_recipe_1_are_what_they_were(trained: TrialResult, tmp_path: Path) -> None:
    source = Path(trained.checkpoint)
    (tmp_path / "weights.pt").write_bytes((source / "weights.pt").read_bytes())
    manifest = json.loads((source / "checkpoint.json").read_text())
    assert manifest.pop("recipe") == 2
    del manifest["inference"], manifest["config"]["gap"]
    (tmp_path / "checkpoint.json").write_text(json.dumps(manifest))
    old = checkpoint.load(tmp_path)
    precision = checkpoint.load(source).config.precision  # what auto was on this machine
    assert old.config == CONFIG.model_copy(update={"gap": 1, "precision": precision})
    assert old.inference == WHOLE
    manifest["inference"] = {"tile": 100, "most_pixels": 10}
    (tmp_path / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="inference: tiles of 100 pixels"):
        checkpoint.load(tmp_path)


def test_images_are_read_once_by_a_process(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> Labels:
        read.append(path.stem)
        return read_labels(path)

    train(CONFIG, dataset, tmp_path / "first")
    monkeypatch.setattr("trainables.data.dataset.read_labels", counted)
    train(CONFIG.model_copy(update={"seed": 1}), dataset, tmp_path / "second")
    assert read == ["e", "f"]  # test images are never kept


def test_star_convex_targets_of_validation_are_made_once(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, ...]] = []
    original = star_targets

    def counted(labels: NDArray[np.integer], *args: int) -> NDArray[np.float32]:
        made.append(labels.shape)
        return original(labels, *args)

    monkeypatch.setattr("trainables.tasks.stardist.star_targets", counted)
    star = CONFIG.model_copy(update={"task": "stardist", "loss": "stardist", "epochs": 2})
    result = train(star, dataset, tmp_path / "t")
    for shape in ((100, 104), (90, 94)):
        assert made.count(shape) == 1
    assert 0.8 < result.ceiling_iou < 1


def test_a_gap_has_a_ceiling(dataset: DataSet, tmp_path: Path) -> None:
    result = train(CONFIG.model_copy(update={"gap": 1}), dataset, tmp_path / "t")
    labels = [read_labels(item.mask).labels for item in dataset.subset("val")]
    from trainables.labels import touching_gap

    lost = sum(np.count_nonzero(touching_gap(one)) for one in labels)
    cells = sum(np.count_nonzero(one) for one in labels)
    assert lost
    assert result.ceiling_iou == pytest.approx(1 - lost / cells)
