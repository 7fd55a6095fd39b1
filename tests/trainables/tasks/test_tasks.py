"""Every task as a trial on small images: training, resuming, checkpoint, foreground."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from trainables import checkpoint
from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.data.imagefiles import read_image
from trainables.labels import CLASS_NAMES
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.module import SegmentationModule
from trainables.predict import Scaling, predict_logits
from trainables.starconvex import Thresholds, optimize_thresholds
from trainables.stardist.client import train_stardist
from trainables.tasks import Semantic3, StarConvex, build_task, typical_radius
from trainables.tiling import Inference
from trainables.train import train

OFTEN = RunOptions(checkpoint_seconds=0)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


def train_any(cfg: TrialConfig, *arguments: Any, **options: Any) -> TrialResult:
    trainer = train_stardist if cfg.architecture == "StarDist" else train
    return trainer(cfg, *arguments, **options)


def config(task: str, **changes: object) -> TrialConfig:
    fields = {
        "architecture": "Unet",
        "encoder": "mobilenet_v2",
        "crop_size": 64,
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "augmentation": "none",
    }
    return TrialConfig.model_validate({"task": task, **fields, **changes})


@pytest.mark.parametrize("task", ["semantic3", "stardist"])
def test_a_trial_of_each_task(
    task: str, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(task, epochs=3)
    searched: list[list[np.ndarray]] = []

    def watched(predictions: Any, truths: list[np.ndarray], **options: Any) -> Thresholds:
        searched.append(truths)
        optimize_thresholds(predictions, truths, **options)
        return Thresholds(0.3, 0.3)  # others than the default ones, with which epochs are compared

    monkeypatch.setattr("trainables.tasks.stardist.optimize_thresholds", watched)
    calm = train(cfg, dataset, tmp_path / "calm")
    seen: list[int] = []

    def report(record: EpochRecord) -> None:
        seen.append(record.epoch)
        if seen == [1]:
            raise KeyError

    with pytest.raises(KeyError):
        train(cfg, dataset, tmp_path / "rough", options=OFTEN, on_epoch=report)
    rough = train(cfg, dataset, tmp_path / "rough", options=OFTEN, on_epoch=report)
    assert seen == [1, 2, 3]
    assert [r.train_loss for r in rough.history] == [r.train_loss for r in calm.history]
    assert rough.test_dataset_iou == calm.test_dataset_iou
    assert calm.history[-1].train_loss < calm.history[0].train_loss
    predictor = checkpoint.load(calm.checkpoint)
    for split in ("val", "test"):
        counts = []
        for item in dataset.subset(split):
            found = predictor.foreground(read_image(item.image))
            assert found.dtype == bool
            counts.append(overlap_counts(found, dataset.load(item, cfg.normalization)[1] > 0))
        told = getattr(calm, f"{split}_dataset_iou"), getattr(calm, f"{split}_image_iou")
        assert iou_from_counts(counts) == pytest.approx(told, abs=1e-6)
    if task == "semantic3":
        assert calm.class_iou is not None
        assert set(calm.class_iou["test"]) == set(CLASS_NAMES)
        assert all(r.val_boundary_iou is not None for r in calm.history)
        with pytest.raises(ValueError, match="predicts classes, not instances"):
            predictor.labels(read_image(dataset.items[0].image))
    else:
        labels = predictor.labels(read_image(dataset.items[0].image))
        assert labels.dtype == np.int32
        assert set(predictor.info["task"]) == {"scale", "thresholds", "at_bound"}
        assert predictor.info["task"]["thresholds"] == {"prob": 0.3, "nms": 0.3}
        # thresholds are chosen on the validation images, and on nothing else
        validation = [dataset.load(i, cfg.normalization)[1] for i in dataset.subset("val")]
        assert len(searched) == 2
        for truths in searched:
            assert len(truths) == len(validation)
            assert all(map(np.array_equal, truths, validation))


def crowded(shape: tuple[int, int] = (120, 150)) -> np.ndarray:
    """Label image of discs that touch one another and all four borders."""
    rng, labels = np.random.default_rng(0), np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number in range(1, 40):
        cy, cx = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        labels[((y - cy) ** 2 + (x - cx) ** 2 <= 100) & (labels == 0)] = number
    return labels


PERFECT = [
    ({}, 1.0, 1.0),
    ({"task": "semantic3"}, 1.0, 1.0),
    ({"task": "semantic3", "boundary": "touching"}, 1.0, 1.0),
    ({"gap": 1}, 0.9, 0.999),
    *(({"task": "stardist", "grid": g}, 0.85, 0.999) for g in (1, 2, 4)),
]


@pytest.mark.parametrize(("fields", "low", "high"), PERFECT)
def test_what_the_truth_itself_scores(fields: dict[str, Any], low: float, high: float) -> None:
    """Truth through target, logits, foreground and metric: 1, or the ceiling that is stated."""
    labels = crowded()
    task = build_task(TrialConfig(**fields), {"scale": 8.0})
    target = task.target(labels)
    if isinstance(task, StarConvex):
        units = (torch.from_numpy(target[1:]) / 8.0).clamp(min=1e-4)
        prob = torch.logit(torch.from_numpy(target[:1]), eps=1e-6)
        logits = torch.cat([prob, torch.log(torch.expm1(units))])
    elif isinstance(task, Semantic3):
        logits = 20 * torch.nn.functional.one_hot(torch.from_numpy(target), 3).permute(2, 0, 1)
        logits = logits.float()
    else:
        logits = torch.from_numpy(target) * 20 - 10
    shape = (labels.shape[0], labels.shape[1])
    inter, union = overlap_counts(task.foreground(logits, shape), labels > 0)
    assert low <= inter / union <= high
    ideal = overlap_counts(task.ideal(target, shape), labels > 0)
    assert ideal[0] / ideal[1] == pytest.approx(inter / union, abs=2e-3)


def test_boundary_and_cell_are_the_foreground() -> None:
    task = build_task(config("semantic3"))
    assert isinstance(task, Semantic3)
    logits = torch.tensor([[[0.0, 2.0, 0.0]], [[1.0, 0.0, -9.0]], [[0.0, 0.0, 0.1]]])
    np.testing.assert_array_equal(task.classes(logits), [[1, 0, 2]])
    np.testing.assert_array_equal(task.foreground(logits, (1, 3)), [[True, False, True]])
    # neither class alone is the most probable, together they are
    split = torch.tensor([[[1.0]], [[0.9]], [[0.9]]])
    assert task.classes(split)[0, 0] == 0
    assert task.foreground(split, (1, 1))[0, 0]


def test_a_perfect_star_convex_output_gives_the_cells_back() -> None:
    y, x = np.mgrid[:64, :80]
    labels = np.zeros((64, 80), np.int32)
    for number, (cy, cx) in enumerate([(20, 20), (20, 45), (45, 50)], 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 100] = 7 * number
    scale = typical_radius([labels])
    assert scale == pytest.approx(10, abs=0.2)
    task = build_task(config("stardist"), {"scale": scale})
    assert isinstance(task, StarConvex)
    target = torch.from_numpy(task.target(labels))
    units = (target[1:] / scale).clamp(min=1e-4)
    raw = torch.cat([torch.logit(target[:1], eps=1e-6), torch.log(torch.expm1(units))])
    assert float(task.loss()(raw[None], target[None])) < 0.5
    found = task.labels(raw, (64, 80))
    assert found.max() == 3
    assert overlap_counts(found > 0, labels > 0)[0] / overlap_counts(found > 0, labels > 0)[1] > 0.9
    np.testing.assert_array_equal(task.foreground(raw, (64, 80)), found > 0)


@pytest.mark.parametrize("architecture", ["Unet", pytest.param("StarDist", marks=pytest.mark.slow)])
def test_a_single_cell_of_a_huge_number(
    architecture: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Crops with one cell each may carry numbers of a whole study: memory must not follow them."""
    root = shutil.copytree(tiny_dataset, tmp_path / "data")
    path = root / "masks" / "i0.tif"
    labels = (tifffile.imread(path) == 1).astype(np.uint32)
    tifffile.imwrite(path, labels * 2_000_000_000)
    cfg = config("stardist", architecture=architecture, rays=8, epochs=1)
    result = train_any(cfg, open_dataset(root), tmp_path / "t", options=RunOptions(memory_gb=4))
    assert result.epochs == 1


def test_micro_batches_are_recorded_and_close_to_whole_batches(
    dataset: DataSet, tmp_path: Path
) -> None:
    whole = train(config("semantic2"), dataset, tmp_path / "whole")
    parts = train(
        config("semantic2"), dataset, tmp_path / "parts", options=RunOptions(micro_batch=2)
    )
    assert whole.micro_batch is None
    assert parts.micro_batch == 2
    first = [r.history[0].train_loss for r in (whole, parts)]
    assert first[0] != first[1]  # batch normalisation and Dice see other batches
    assert first[0] == pytest.approx(first[1], abs=0.15)


class Echo(torch.nn.Module):
    """Says of every pixel, in all channels, what the image shows there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).repeat(1, self.channels, 1, 1)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_the_pixels_that_are_decoded_are_those_that_are_learnt(grid: int) -> None:
    """Every so many pixels, from the first on: in training, and in whole and tiled images."""
    star = build_task(config("stardist", rays=8, grid=grid), {"scale": 8.0})
    network, scaling = Echo(star.channels), Scaling(0.0, 1.0)
    module = SegmentationModule(config("stardist", rays=8, grid=grid), network, scaling, star, 1)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(0, 1, (2, 1, 64, 64)).astype(np.float32))
    target = torch.from_numpy(np.stack([star.target(crowded((64, 64)))] * 2))
    seen = image[..., ::grid, ::grid].repeat(1, star.channels, 1, 1)
    learnt = module.training_step((image, target), 0).detach()
    torch.testing.assert_close(learnt, star.loss()(seen, target))
    large = rng.normal(0, 1, (101, 151)).astype(np.float32)
    for inference in (Inference(None, large.size), Inference(64, large.size)):
        logits = predict_logits(network, large, scaling, "32-true", inference=inference, grid=grid)
        assert logits.shape == (star.channels, -(-101 // grid), -(-151 // grid))
        for channel in logits:
            np.testing.assert_allclose(channel, large[::grid, ::grid], atol=1e-5)
