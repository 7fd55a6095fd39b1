"""Training that is stopped within an epoch, and continues there: real training, real files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.errors import Paused
from trainables.module import SegmentationModule
from trainables.predict import predict_logits
from trainables.records import stops
from trainables.records.stops import EPOCH, STEP, ask
from trainables.train import train

CONFIG = TrialConfig(
    architecture="FPN",  # with dropout
    encoder="mobilenet_v2",
    crop_size=64,
    batch_size=2,
    epochs=2,
    augmentation="strong",
)
STEPS = 6
"""Batches of an epoch."""
ALL = [(epoch, batch) for epoch in (1, 2) for batch in range(1, STEPS + 1)]
IMAGES = 2
"""Validation images."""


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def calm(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return train(CONFIG, dataset, tmp_path_factory.mktemp("calm") / "t")


def figures(result: TrialResult) -> list[tuple[Any, ...]]:
    epochs = [(r.epoch, r.train_loss, r.val_loss, r.val_dataset_iou) for r in result.history]
    return [*epochs, (result.best_epoch, result.test_dataset_iou, result.test_image_iou)]


def assert_equal(result: TrialResult, other: TrialResult) -> None:
    """Figures and weights are the same to the last bit."""
    assert figures(result) == figures(other)
    first, second = (
        torch.load(Path(one.checkpoint) / "weights.pt", weights_only=True)
        for one in (result, other)
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class Watched:
    """Training steps and evaluated images; calls `at` with the number of each."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.images = 0
        self.at_step: Callable[[int], object] = lambda number: None
        self.at_image: Callable[[int], object] = lambda number: None


@contextmanager
def watching() -> Iterator[Watched]:
    watched, step = Watched(), SegmentationModule.training_step
    predict = predict_logits

    def training_step(self: SegmentationModule, batch: Any, index: int) -> torch.Tensor:
        loss = step(self, batch, index)
        watched.steps.append((self.current_epoch + 1, index + 1))
        watched.at_step(len(watched.steps))
        return loss

    def watched_predict(*args: Any, **keywords: Any) -> torch.Tensor:
        watched.images += 1
        watched.at_image(watched.images)
        return predict(*args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stops, "LOOK_SECONDS", 0.0)
        patch.setattr(stops, "COST", 0.0)
        patch.setattr(SegmentationModule, "training_step", training_step)
        patch.setattr("trainables.module.predict_logits", watched_predict)
        yield watched


class Trial:
    """A trial that is stopped by its file, as often as wanted."""

    def __init__(self, dataset: DataSet, folder: Path, config: TrialConfig = CONFIG) -> None:
        self.dataset, self.folder, self.config = dataset, folder / "t", config
        self.stop, self.notes = folder / "stop", list[str]()
        self.epochs = list[int]()
        self.more: dict[str, Any] = {"checkpoint_seconds": 0}

    def go_on(self) -> TrialResult:
        self.stop.unlink(missing_ok=True)
        return train(
            self.config,
            self.dataset,
            self.folder,
            options=RunOptions(stop_file=str(self.stop), **self.more),
            on_epoch=self.hear,
            on_note=self.notes.append,
        )

    def hear(self, record: EpochRecord) -> None:
        self.epochs.append(record.epoch)

    def pause(self) -> None:
        with pytest.raises(Paused):
            self.go_on()

    def ask(self, when: str = STEP) -> None:
        ask(self.stop, when)

    @property
    def states(self) -> list[str]:
        """Names of the saved states, newest first."""
        states = json.loads((self.folder / "resume.json").read_text())["states"]
        names: list[str] = [one["state"] for one in states]
        assert {*names} == {path.name for path in self.folder.glob("resume-*")}
        return names


@pytest.mark.parametrize("step", [1, 3, STEPS, STEPS + 1, 2 * STEPS - 1])
def test_stopped_at_a_step_equals_undisturbed(
    step: int, calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    trial = Trial(dataset, tmp_path)
    with watching() as watched:
        watched.at_step = lambda number: trial.ask() if number == step else None
        trial.pause()
        assert len(watched.steps) == step, "it stops at that step"
        epochs, batches = divmod(step - 1, STEPS)
        assert trial.states[0] == f"resume-{epochs:05d}-{batches + 1:07d}.ckpt"
        assert trial.epochs == list(range(1, epochs + 1))
        result = trial.go_on()
    assert watched.steps == ALL
    assert trial.epochs == [1, 2]
    assert_equal(result, calm)
    assert trial.notes == []
    left = {path.name for path in trial.folder.iterdir()}
    assert left == {"weights.pt", "checkpoint.json", "result.json"}


@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_in_a_validation_equals_undisturbed(
    epoch: int, calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    trial, second = Trial(dataset, tmp_path), IMAGES * (epoch - 1) + 1
    with watching() as watched:
        watched.at_image = lambda number: trial.ask() if number == second else None
        trial.pause()
        assert len(watched.steps) == epoch * STEPS
        assert watched.images == second, "no further image"
        before = trial.states
        assert before[0] == f"resume-{epoch - 1:05d}-{STEPS:07d}.ckpt"
        watched.at_image = lambda number: trial.ask()
        trial.pause()  # again in the same validation
        assert trial.states == before
        watched.at_image = lambda number: None
        result = trial.go_on()
    assert len(watched.steps) == 2 * STEPS
    assert trial.epochs == [1, 2]
    assert_equal(result, calm)


@pytest.mark.slow
def test_one_step_at_a_time(calm: TrialResult, dataset: DataSet, tmp_path: Path) -> None:
    trial = Trial(dataset, tmp_path)
    with watching() as watched:
        watched.at_step = lambda number: trial.ask()
        for _ in range(2 * STEPS):
            trial.pause()
            assert len(trial.states) <= 2
        result = trial.go_on()
    assert watched.steps == ALL
    assert_equal(result, calm)


def test_stopped_after_the_last_epoch_only_the_result_is_missing(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    trial = Trial(dataset, tmp_path)
    with watching() as watched:
        watched.at_image = lambda number: trial.ask() if number == 2 * IMAGES else None
        trial.pause()
        assert trial.epochs == [1, 2]
        result = trial.go_on()
    assert len(watched.steps) == 2 * STEPS
    assert trial.epochs == [1, 2]
    assert_equal(result, calm)


def test_who_may_finish_the_epoch_does_so(dataset: DataSet, tmp_path: Path) -> None:
    trial = Trial(dataset, tmp_path)
    trial.more = {"checkpoint_seconds": 600}
    with watching() as watched:
        watched.at_step = lambda number: trial.ask(EPOCH) if number == 2 else None
        trial.pause()
        assert len(watched.steps) == STEPS
        assert trial.states == ["resume-00001.ckpt"]
        # and whoever is told to hurry afterwards stops in the middle
        watched.at_step = lambda number: trial.ask((EPOCH, STEP)[number - STEPS - 1])
        trial.pause()
        assert len(watched.steps) == STEPS + 2
        assert trial.states == ["resume-00001-0000002.ckpt", "resume-00001.ckpt"]


def test_a_damaged_state_gives_way_to_the_epoch_before(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    trial = Trial(dataset, tmp_path)
    with watching() as watched:
        for step in (STEPS + 2, STEPS + 4):
            watched.at_step = lambda number: trial.ask() if number == step else None  # noqa: B023
            trial.pause()
        assert trial.states == ["resume-00001-0000004.ckpt", "resume-00001.ckpt"]
        os.truncate(trial.folder / trial.states[0], 1000)
        result = trial.go_on()
    (note,) = trial.notes
    assert "resume-00001-0000004.ckpt has 1000 of" in note
    assert "continues from the state of epoch 1" in note
    assert trial.epochs == [1, 2]
    assert_equal(result, calm)


def test_a_damaged_state_gives_way_to_one_within_the_first_epoch(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    trial = Trial(dataset, tmp_path)
    with watching() as watched:
        for step in (2, 4):
            watched.at_step = lambda number: trial.ask() if number == step else None  # noqa: B023
            trial.pause()
        assert trial.states == ["resume-00000-0000004.ckpt", "resume-00000-0000002.ckpt"]
        os.truncate(trial.folder / trial.states[0], 1000)
        result = trial.go_on()
    (note,) = trial.notes
    assert "continues from the state of batch 2 of epoch 1" in note
    assert_equal(result, calm)


@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_are_stopped_after_a_whole_batch(
    step: int, dataset: DataSet, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batch_size": 4, "epochs": 2})
    undisturbed = train(config, dataset, tmp_path / "calm", options=RunOptions(micro_batch=2))
    assert undisturbed.micro_batch == 2
    trial = Trial(dataset, tmp_path, config)
    trial.more = {"micro_batch": 2}
    with watching() as watched:
        watched.at_step = lambda number: trial.ask() if number == step else None
        trial.pause()
        assert len(watched.steps) == 4
        result = trial.go_on()
    assert len(watched.steps) == len({*watched.steps})
    assert_equal(result, undisturbed)


def test_a_state_of_whole_batches_does_not_fit_micro_batches(
    dataset: DataSet, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batch_size": 4, "epochs": 2})
    trial = Trial(dataset, tmp_path, config)
    with watching() as watched:
        for step in (4, 5):  # batches 1 and 2 of the second epoch
            watched.at_step = lambda number: trial.ask() if number == step else None  # noqa: B023
            trial.pause()
    trial.more = {"micro_batch": 2}
    result = trial.go_on()
    (note,) = trial.notes
    assert "resume-00001-0000002.ckpt does not fit" in note
    assert "batches in 1 parts, now 2" in note
    assert "continues from the state of epoch 1" in note
    assert (result.epochs, result.micro_batch) == (2, 2)
    assert trial.epochs == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("image", [None, 2 * IMAGES - 1])
def test_more_epochs_on_a_trial_that_was_stopped_in_its_last_one(
    image: int | None, dataset: DataSet, tmp_path: Path
) -> None:
    constant = CONFIG.model_copy(update={"lr_schedule": "constant", "epochs": 3})
    undisturbed = train(constant, dataset, tmp_path / "calm")
    short = Trial(dataset, tmp_path, constant.model_copy(update={"epochs": 2}))
    short.more["keep_last_state"] = True
    with watching() as watched:
        if image is None:
            watched.at_step = lambda number: short.ask() if number == STEPS + 3 else None
        else:
            watched.at_image = lambda number: short.ask() if number == image else None
        short.pause()
        short.go_on()
        (tmp_path / "more").mkdir()
        longer = Trial(dataset, tmp_path / "more", constant)
        longer.more["continues"] = str(short.folder)
        watched.at_step = lambda number: longer.ask() if number == 2 * STEPS + 3 else None
        longer.pause()
        result = longer.go_on()
    assert len(watched.steps) == 3 * STEPS
    assert longer.epochs == [3]
    assert_equal(result, undisturbed)


@pytest.mark.slow
def test_patience_counts_on(dataset: DataSet, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 6, "early_stopping": 1, "learning_rate": 1e-9})
    undisturbed = train(config, dataset, tmp_path / "calm")
    assert undisturbed.epochs < 6
    trial, last = Trial(dataset, tmp_path, config), undisturbed.epochs
    with watching() as watched:
        # in the validation that ends it, and just after it
        for image in (IMAGES * (last - 1) + 1, IMAGES * last + 1):
            watched.at_image = lambda number: trial.ask() if number == image else None  # noqa: B023
            trial.pause()
        result = trial.go_on()
    assert len(watched.steps) == last * STEPS
    assert_equal(result, undisturbed)


def test_time_is_counted_over_both_parts(dataset: DataSet, tmp_path: Path) -> None:
    trial = Trial(dataset, tmp_path, CONFIG.model_copy(update={"epochs": 1}))

    def slow(number: int) -> None:
        time.sleep(0.2)
        if number == 5:
            trial.ask()

    with watching() as watched:
        watched.at_step = slow
        trial.pause()
        time.sleep(1.0)  # is nobody's training time
        began = time.monotonic()
        (record,) = trial.go_on().history
        second = time.monotonic() - began
    assert 0.2 * STEPS <= record.seconds < second + 5 * 0.2 + 1.0


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate])
@given(st.sets(st.integers(1, 2 * STEPS), max_size=6))
@pytest.mark.slow
def test_stopped_anywhere(
    calm: TrialResult,
    dataset: DataSet,
    tmp_path_factory: pytest.TempPathFactory,
    where: set[int],
) -> None:
    trial = Trial(dataset, tmp_path_factory.mktemp("anywhere"))
    with watching() as watched:
        watched.at_step = lambda number: trial.ask() if number in where else None
        for _ in where:
            trial.pause()
        result = trial.go_on()
    assert len(watched.steps) == 2 * STEPS
    assert_equal(result, calm)
