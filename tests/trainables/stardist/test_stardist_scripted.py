"""StarDist's training with scripted predictions: best weights, learning rate, figures by hand.

Its process is the real one; as it starts it reads a ``sitecustomize.py`` that replaces what the
network predicts by the true cells, moved by a few pixels: fewest in epoch 2 of 4.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.patching import patch_when_imported
from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.crop_positions import crop_corners
from trainables.data.dataset import DataSet, open_dataset
from trainables.metrics import iou_from_counts
from trainables.starconvex import Thresholds, decode, optimize_thresholds, polygon_ceiling
from trainables.stardist.client import train_stardist

SHIFTS = [6, 2, 5, 4]
"""Pixels, by epoch."""
BEST = 2
CONFIG = TrialConfig(
    task="stardist",
    architecture="StarDist",
    crop_size=64,
    epochs=4,
    batch_size=8,
    learning_rate=1e-3,
    rays=16,
    augmentation="light",
)

PRETEND = """
import numpy as np
from scipy import ndimage
from trainables.starconvex import star_targets

import hashlib

def signs(crop):
    # tells a crop from others: exactly, and whatever its turn
    both = crop.tobytes(), np.sort(crop.ravel()).tobytes()
    return [hashlib.sha256(one).hexdigest() for one in both]

def pretend(image, shift, rays, grid):
    labels = ndimage.label(ndimage.binary_opening(image > 0))[0]
    target = star_targets(np.roll(labels, shift, axis=1), rays, grid)
    return target[0], target[1:]
"""
SCRIPT = """
import json, os

def patch(module):
    import numpy as np
    from pretend import pretend, signs
    shifts, out = json.loads(os.environ["SHIFTS"]), os.environ["SEEN"]
    made = {}

    def note(**what):
        with open(os.path.join(out, "notes.jsonl"), "a") as handle:
            handle.write(json.dumps(what) + "\\n")

    def build(config, real=module.build):
        made["model"] = real(config)
        return made["model"]

    def polygons(model, image, inference):
        history = made["trial"].progress.history
        ended = len(history.records) == len(shifts)
        epoch = history.best.epoch if ended else len(history.records) + 1
        config = made["trial"].config
        return pretend(image, shifts[epoch - 1], config.rays, config.grid)

    def optimize(predictions, truths, real=module.optimize_thresholds, **options):
        note(searched=[int(np.count_nonzero(one)) for one in truths])
        return real(predictions, truths, **options)

    class Trial(module.Trial):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made["trial"] = self

        def _batches(self, *arguments):
            for batch in super()._batches(*arguments):
                x, (prob, _) = batch
                grid = self.config.grid
                note(
                    crops=[signs(one) for one in x],
                    epoch=len(self.progress.history.records) + 1,
                    mismatch=float(np.mean((x[:, ::grid, ::grid] > 0) != (prob > 0))),
                )
                yield batch
                note(rate=float(made["model"].keras_model.optimizer.learning_rate))

        def _loss(self, *arguments):
            loss = super()._loss(*arguments)
            note(loss=loss, epoch=len(self.progress.history.records) + 1)
            return loss

        def _end_epoch(self, epoch, *arguments):
            arrays = made["model"].keras_model.get_weights()
            np.savez(os.path.join(out, f"{epoch}.npz"), *arrays)
            super()._end_epoch(epoch, *arguments)

    module.build, module.polygons, module.Trial = build, polygons, Trial
    module.optimize_thresholds = optimize
"""


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


Scripted = Callable[..., tuple[TrialResult, Path]]


@pytest.fixture(scope="module")
def scripted(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    """Train with the script: a function of the epoch to break off and train on after, the state of
    that epoch having been damaged.
    """

    def run(cut: int | None, said: list[str] = []) -> tuple[TrialResult, Path]:  # noqa: B006
        folder = tmp_path_factory.mktemp("scripted")
        (folder / "seen").mkdir()
        patch_when_imported(folder, "trainables.stardist.training", SCRIPT)
        (folder / "pretend.py").write_text(PRETEND)

        def on_epoch(record: EpochRecord) -> None:
            if record.epoch == cut:
                raise Cut

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder))
            patch.setenv("SHIFTS", json.dumps(SHIFTS))
            patch.setenv("SEEN", str(folder / "seen"))
            if cut is not None:
                often = RunOptions(checkpoint_seconds=0)
                with pytest.raises(Cut):
                    train_stardist(CONFIG, dataset, folder / "t", options=often, on_epoch=on_epoch)
                os.truncate(folder / "t" / f"resume-{cut:05d}.npz", 1000)
            return train_stardist(CONFIG, dataset, folder / "t", on_note=said.append), folder

    return run


@pytest.fixture(scope="module")
def whole(scripted: Scripted) -> tuple[TrialResult, Path]:
    return scripted(None)


@pytest.fixture(scope="module")
def cut(scripted: Scripted) -> tuple[TrialResult, Path, list[str]]:
    said: list[str] = []
    return (*scripted(3, said), said)


def is_saved_only(epoch: int, result: TrialResult, folder: Path) -> None:
    import h5py

    saved: list[np.ndarray] = []
    with h5py.File(Path(result.checkpoint) / "model.weights.h5") as handle:
        handle.visititems(
            lambda _, node: saved.append(node[()]) if isinstance(node, h5py.Dataset) else None
        )

    def found(array: np.ndarray) -> bool:
        return any(one.shape == array.shape and np.array_equal(one, array) for one in saved)

    for number in range(1, CONFIG.epochs + 1):
        with np.load(folder / "seen" / f"{number}.npz") as content:
            arrays = [content[name] for name in content.files]
        if number == epoch:
            assert all(map(found, arrays))
        else:
            assert not any(found(array) for array in arrays if array.ndim > 1), f"epoch {number}"


def test_the_best_epochs_weights_are_saved(whole: tuple[TrialResult, Path]) -> None:
    result, folder = whole
    assert (result.best_epoch, result.epochs) == (BEST, 4)
    is_saved_only(BEST, result, folder)


def test_also_when_they_lie_before_an_interruption(
    cut: tuple[TrialResult, Path, list[str]],
) -> None:
    result, folder, (note,) = cut
    assert "resume-00003.npz has 1000 of" in note
    assert "continues from the state of epoch 2" in note
    assert (result.best_epoch, result.epochs) == (BEST, 4)
    is_saved_only(BEST, result, folder)


def test_a_resumed_trial_trains_as_an_undisturbed_one(
    whole: tuple[TrialResult, Path], cut: tuple[TrialResult, Path, list[str]]
) -> None:
    for epoch in range(1, CONFIG.epochs + 1):
        files = [folder / "seen" / f"{epoch}.npz" for folder in (whole[1], cut[1])]
        with np.load(files[0]) as calm, np.load(files[1]) as rough:
            assert calm.files == rough.files
            for name in calm.files:
                np.testing.assert_array_equal(calm[name], rough[name])
    assert [r.train_loss for r in cut[0].history] == [r.train_loss for r in whole[0].history]


def notes(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "seen" / "notes.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if name in line]


def pretending(folder: Path) -> Any:
    """Import what the process was told to pretend."""
    spec = importlib.util.spec_from_file_location("pretend", folder / "pretend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_epoch_sees_every_crop_in_its_own_order_and_turn(
    whole: tuple[TrialResult, Path], dataset: DataSet
) -> None:
    signs, size, expected = pretending(whole[1]).signs, CONFIG.crop_size, []
    for item in dataset.subset("train"):
        image, labels = dataset.load(item, CONFIG.normalization)
        expected += [
            signs((image[y : y + size, x : x + size] - 0.5) / 0.25)[1]
            for y, x in crop_corners(labels, size)
        ]
    batches = notes(whole[1], "crops")
    # the discs are bright: a shift by one pixel would be seen in more than 1 % of the pixels
    assert max(batch["mismatch"] for batch in batches) < 0.01
    orders, exactly = [], []
    for epoch in range(1, CONFIG.epochs + 1):
        crops = [one for b in batches if b["epoch"] == epoch for one in b["crops"]]
        orders.append([turned for _, turned in crops])
        exactly.append({exact for exact, _ in crops})
        assert sorted(orders[-1]) == sorted(expected)
    for one, other in itertools.combinations(range(CONFIG.epochs), 2):
        assert orders[one] != orders[other]
        assert len(exactly[one] & exactly[other]) < len(expected) / 2


def test_learning_rate_of_every_step(whole: tuple[TrialResult, Path], dataset: DataSet) -> None:
    items = [dataset.load(i, CONFIG.normalization)[1] for i in dataset.subset("train")]
    crops = sum(len(crop_corners(labels, CONFIG.crop_size)) for labels in items)
    steps = CONFIG.epochs * -(-crops // CONFIG.batch_size)
    assert steps >= 2 * CONFIG.epochs, (
        "too few steps to tell a schedule by steps from one by epochs"
    )
    expected = [  # no warm-up: 5 % of the steps are less than two
        CONFIG.learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * (n - 1) / (steps - 1))))
        for n in range(1, steps)
    ]
    rates = [line["rate"] for line in notes(whole[1], "rate")]
    assert rates == pytest.approx([CONFIG.learning_rate, *expected], rel=1e-5)


def by_hand(
    folder: Path, dataset: DataSet, split: str, shift: int, thresholds: Thresholds
) -> tuple[float, float]:
    module = pretending(folder)
    shared, either = [], []
    for item in dataset.subset(split):
        image, labels = dataset.load(item, CONFIG.normalization)
        prob, dist = module.pretend((image - 0.5) / 0.25, shift, CONFIG.rays, CONFIG.grid)
        found = decode(prob, dist, thresholds, grid=CONFIG.grid, shape=labels.shape) > 0
        shared.append(np.sum(found & (labels > 0)))
        either.append(np.sum(found | (labels > 0)))
    one, other = np.array(shared, float), np.array(either, float)
    return one.sum() / other.sum(), float(np.mean(one / other))


def test_figures_of_every_epoch(whole: tuple[TrialResult, Path], dataset: DataSet) -> None:
    result, folder = whole
    for record, shift in zip(result.history, SHIFTS):
        hand = by_hand(folder, dataset, "val", shift, Thresholds())
        assert (record.val_dataset_iou, record.val_image_iou) == pytest.approx(hand, abs=1e-9)
        assert 0.2 < hand[0] < 0.95
        assert hand[0] != pytest.approx(hand[1], abs=1e-4), "too alike to tell the means apart"
        losses = [n["loss"] for n in notes(folder, "loss") if n["epoch"] == record.epoch]
        assert len(losses) == 2
        assert record.val_loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_figures_of_the_trial(whole: tuple[TrialResult, Path], dataset: DataSet) -> None:
    result, folder = whole
    stored = json.loads((Path(result.checkpoint) / "checkpoint.json").read_text())
    thresholds = Thresholds(**stored["task"]["thresholds"])
    # chosen on the validation images, and on nothing else
    predictions, truths = [], []
    for item in dataset.subset("val"):
        image, labels = dataset.load(item, CONFIG.normalization)
        maps = ((image - 0.5) / 0.25, SHIFTS[BEST - 1], CONFIG.rays, CONFIG.grid)
        predictions.append(pretending(folder).pretend(*maps))
        truths.append(labels)
    assert thresholds == optimize_thresholds(predictions, truths, grid=CONFIG.grid)
    (line,) = notes(folder, "searched")
    assert line["searched"] == [np.count_nonzero(one) for one in truths]
    val, test = (
        by_hand(folder, dataset, split, SHIFTS[BEST - 1], thresholds) for split in ("val", "test")
    )
    assert (result.val_dataset_iou, result.val_image_iou) == pytest.approx(val, abs=1e-9)
    assert (result.test_dataset_iou, result.test_image_iou) == pytest.approx(test, abs=1e-9)
    assert val != test
    assert result.inference == "whole"
    assert result.ceiling_iou == pytest.approx(polygon_ceiling(truths, CONFIG.rays, CONFIG.grid))
    assert 0.8 < result.ceiling_iou < 1
    for split, expected in (("val", val), ("test", test)):
        mine = [one for one in result.per_image if one.split == split]
        assert [one.image for one in mine] == list(dataset.split[split])
        counts = [(one.intersection, one.union) for one in mine]
        assert iou_from_counts(counts) == pytest.approx(expected, abs=1e-9)
        assert [one.group for one in mine] == [item.group for item in dataset.subset(split)]
