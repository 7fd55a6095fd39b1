"""What is configured reaches the optimiser, and evaluation measures without leaving a trace.

Figures are worked out here by hand, not by another run of the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainables import checkpoint
from trainables.config import Normalization, RunOptions, TrialConfig, TrialResult
from trainables.data.crop_positions import crop_corners
from trainables.data.dataset import DataSet, open_dataset
from trainables.data.imagefiles import read_image
from trainables.labels import CLASS_NAMES
from trainables.module import Scores, SegmentationModule
from trainables.predict import Predictor
from trainables.tiling import chosen_inference
from trainables.train import train

PEAK = 4e-3


def config(**changes: object) -> TrialConfig:
    fixed = {
        "encoder": "mobilenet_v2",
        "crop_size": 64,
        "batch_size": 4,
        "epochs": 2,
        "learning_rate": PEAK,
        "augmentation": "none",
        "precision": "32",
    }
    return TrialConfig.model_validate({**fixed, **changes})


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


@contextmanager
def recorded_steps() -> Iterator[list[dict[str, Any]]]:
    """Record the settings and weights with which real optimiser steps are made."""
    steps: list[dict[str, Any]] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        params = [p.detach().clone() for p in group["params"]]
        steps.append(
            {
                "lr": group["lr"],
                "decay": group["weight_decay"],
                "params": params,
                "kind": type(optimizer).__name__,
            }
        )

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield steps
    finally:
        handle.remove()


def crops_of(dataset: DataSet, cfg: TrialConfig) -> int:
    labels = [dataset.load(item, cfg.normalization)[1] for item in dataset.subset("train")]
    return sum(len(crop_corners(one, cfg.crop_size)) for one in labels)


def cosine(step: int, steps: int) -> float:
    """Factor on the peak: up in a straight line over 5 % of the steps, down to 1 %."""
    warmup = max(1, round(0.05 * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@pytest.fixture(scope="module")
def trained(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One trial in micro-batches, with everything that its optimiser did."""
    evaluations: list[dict[str, Any]] = []
    real = SegmentationModule.evaluate
    losses: list[float] = []
    mismatches: list[float] = []
    scaled: list[float] = []
    random_states: dict[int, set[int]] = {}
    step = SegmentationModule.training_step

    def evaluate(self: SegmentationModule, *args: Any, **keywords: Any) -> Scores:
        before = {k: v.clone() for k, v in self.network.state_dict().items()}
        modes = [module.training for module in self.network.modules()]
        seen: list[bool] = []
        hook = self.network.register_forward_hook(lambda module, *_: seen.append(module.training))
        random = torch.random.get_rng_state()
        try:
            return real(self, *args, **keywords)
        finally:
            hook.remove()
            after = self.network.state_dict()
            evaluations.append(
                {
                    "unchanged": all(torch.equal(before[k], after[k]) for k in before),
                    "modes kept": modes == [module.training for module in self.network.modules()],
                    "random kept": torch.equal(random, torch.random.get_rng_state()),
                    "training before": any(modes),
                    "training while predicting": any(seen),
                    "images": len(seen),
                }
            )

    def training_step(self: SegmentationModule, *args: Any) -> torch.Tensor:
        random_states.setdefault(self.current_epoch, set()).add(torch.initial_seed())
        image, target = args[0]

        def seen(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            scaled.append(float((inputs[0] - (image - 0.5) / 0.25).abs().max()))

        hook = self.network.register_forward_pre_hook(seen)
        loss = step(self, *args)
        hook.remove()
        assert self.network.training
        mismatches.append(float(((image > 0.5) != (target > 0.5)).float().mean()))
        losses.append(float(loss.detach()))
        return loss

    cfg = config()
    with pytest.MonkeyPatch.context() as patch, recorded_steps() as steps:
        patch.setattr(SegmentationModule, "evaluate", evaluate)
        patch.setattr(SegmentationModule, "training_step", training_step)
        result = train(
            cfg, dataset, tmp_path_factory.mktemp("trained"), options=RunOptions(micro_batch=2)
        )
    return {
        "config": cfg,
        "result": result,
        "steps": steps,
        "evaluations": evaluations,
        "losses": losses,
        "mismatches": mismatches,
        "scaled": scaled,
        "random_states": random_states,
    }


def test_learning_rate_of_every_step_under_micro_batches(
    trained: dict[str, Any], dataset: DataSet
) -> None:
    cfg, steps = trained["config"], trained["steps"]
    a_batch = -(-crops_of(dataset, cfg) // cfg.batch_size)
    assert len(steps) == cfg.epochs * a_batch
    assert len(trained["losses"]) == 2 * len(steps)
    assert a_batch >= 3, "too few steps to tell a schedule by steps from one by epochs"
    assert [step["lr"] for step in steps] == pytest.approx(
        [PEAK * cosine(number, len(steps)) for number in range(len(steps))]
    )
    assert {(step["kind"], step["decay"]) for step in steps} == {("AdamW", cfg.weight_decay)}


def test_images_and_targets_are_of_the_same_place(trained: dict[str, Any]) -> None:
    # the discs are bright: a shift by one pixel would be seen in more than 1 % of the pixels
    assert max(trained["mismatches"]) < 0.003


def test_the_network_sees_scaled_images(trained: dict[str, Any]) -> None:
    # as in evaluation and prediction (`Scaling`): mean 0.5, deviation 0.25 without encoder weights
    assert len(trained["scaled"]) == len(trained["losses"])
    assert max(trained["scaled"]) < 1e-5


def test_dropout_differs_from_epoch_to_epoch(trained: dict[str, Any]) -> None:
    states = trained["random_states"]
    assert {epoch: len(seeds) for epoch, seeds in states.items()} == {0: 1, 1: 1}
    assert states[0] != states[1]


def test_another_seed_and_a_constant_learning_rate(
    trained: dict[str, Any], dataset: DataSet, tmp_path: Path
) -> None:
    own = Normalization(mean=0.25, std=0.5)
    cfg = config(seed=1, lr_schedule="constant", normalization=own)
    seeds: set[int] = set()
    scaled: list[float] = []
    step = SegmentationModule.training_step

    def training_step(self: SegmentationModule, *args: Any) -> torch.Tensor:
        seeds.add(torch.initial_seed())
        image = args[0][0]

        def seen(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            scaled.append(float((inputs[0] - (image - 0.25) / 0.5).abs().max()))

        hook = self.network.register_forward_pre_hook(seen)
        loss = step(self, *args)
        hook.remove()
        return loss

    with pytest.MonkeyPatch.context() as patch, recorded_steps() as steps:
        patch.setattr(SegmentationModule, "training_step", training_step)
        result = train(cfg, dataset, tmp_path / "t")
    assert len(steps) == len(trained["steps"])
    assert [one["lr"] for one in steps] == [PEAK] * len(steps)
    first, other = (one[0]["params"] for one in (steps, trained["steps"]))
    assert not any(torch.equal(a, b) for a, b in zip(first, other) if a.ndim > 1)
    assert not seeds & set.union(*trained["random_states"].values())
    assert max(scaled) < 1e-5
    predictor = checkpoint.load(result.checkpoint)
    assert isinstance(predictor, Predictor)
    assert (predictor.scaling.mean, predictor.scaling.std) == (0.25, 0.5)


def test_training_computes_in_the_precision_that_was_configured(
    dataset: DataSet, tmp_path: Path
) -> None:
    found: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward = SegmentationModule.training_step

    def training_step(self: SegmentationModule, *args: Any) -> torch.Tensor:
        if not found[True]:
            self.network.register_forward_hook(
                lambda module, _, out: found[module.training].add(out.dtype)
            )
        return forward(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", training_step)
        cfg = config(epochs=1, batch_size=1000, precision="bf16")
        train(cfg, dataset, tmp_path / "t")
    assert found == {True: {torch.bfloat16}, False: {torch.bfloat16}}


def test_the_train_loss_is_the_mean_over_an_epoch(trained: dict[str, Any]) -> None:
    first, second = np.array_split(trained["losses"], 2)
    assert [r.train_loss for r in trained["result"].history] == pytest.approx(
        [first.mean(), second.mean()], rel=1e-6
    )


def test_the_learning_rate_goes_on_after_an_interruption(dataset: DataSet, tmp_path: Path) -> None:
    cfg = config(epochs=3)

    def cut(record: Any) -> None:
        raise KeyError

    often = RunOptions(checkpoint_seconds=0)
    with recorded_steps() as steps:
        with pytest.raises(KeyError):
            train(cfg, dataset, tmp_path / "t", options=often, on_epoch=cut)
        train(cfg, dataset, tmp_path / "t", options=often)
    count = cfg.epochs * -(-crops_of(dataset, cfg) // cfg.batch_size)
    assert [step["lr"] for step in steps] == pytest.approx(
        [PEAK * cosine(number, count) for number in range(count)]
    )


def test_weight_decay_does_what_adamw_says(dataset: DataSet, tmp_path: Path) -> None:
    rate, decay = 0.1, 0.5
    found = []
    for value in (0.0, decay):
        cfg = config(epochs=1, batch_size=1000, learning_rate=rate, weight_decay=value)
        with recorded_steps() as steps:
            result = train(cfg, dataset, tmp_path / str(value))
        (step,) = steps
        predictor = checkpoint.load(result.checkpoint)
        assert isinstance(predictor, Predictor)
        found.append((step["params"], [p.detach() for p in predictor.network.parameters()]))
    (start, plain), (same_start, decayed) = found
    assert len(start) == len(plain)
    for before, again, one, other in zip(start, same_start, plain, decayed):
        torch.testing.assert_close(before, again, rtol=0, atol=0)
        torch.testing.assert_close(one - other, rate * decay * before, rtol=1e-4, atol=1e-6)


def test_evaluation_leaves_the_network_as_it_was(trained: dict[str, Any]) -> None:
    evaluations = trained["evaluations"]
    assert len(evaluations) >= trained["config"].epochs + 1  # and the test, once
    for one in evaluations:
        assert one["unchanged"], "evaluation changed weights or running statistics"
        assert one["modes kept"], "evaluation left layers in another mode"
        assert one["random kept"]
        assert not one["training while predicting"]
        assert one["images"] >= 2
    assert all(one["training before"] for one in evaluations[: trained["config"].epochs])


def by_hand(
    result: TrialResult, dataset: DataSet, split: str, whole: bool = False
) -> dict[str, Any]:
    """Work out what `result` says, from its checkpoint and the files; epochs are compared whole."""
    predictor = checkpoint.load(result.checkpoint)
    assert isinstance(predictor, Predictor)
    if whole:
        predictor.inference = chosen_inference(predictor.inference, "whole")
    loss = predictor.task.loss()
    found: dict[str, Any] = {"intersections": [], "unions": [], "losses": [], "classes": []}
    for item in dataset.subset(split):
        _, labels = dataset.load(item, predictor.config.normalization)
        pred, true = predictor.foreground(read_image(item.image)), labels > 0
        found["intersections"].append(np.sum(pred & true))
        found["unions"].append(np.sum(pred | true))
        with torch.inference_mode():
            logits = predictor.logits(read_image(item.image))
            target = torch.from_numpy(predictor.task.target(labels))
            found["losses"].append(float(loss(logits[None], target[None])))
        if predictor.config.task == "semantic3":
            classes = logits.argmax(0).numpy()
            found["classes"].append(
                [
                    (
                        np.sum((classes == k) & (target.numpy() == k)),
                        np.sum((classes == k) | (target.numpy() == k)),
                    )
                    for k in range(3)
                ]
            )
    return found


@pytest.mark.parametrize("task", ["semantic2", "semantic3"])
def test_figures_are_means_over_images(task: str, dataset: DataSet, tmp_path: Path) -> None:
    cfg = config(task=task, epochs=3)
    result = train(cfg, dataset, tmp_path / "t")
    best = result.history[result.best_epoch - 1]
    for split in ("val", "test"):
        hand = by_hand(result, dataset, split)
        i, u = np.array(hand["intersections"], float), np.array(hand["unions"], float)
        dataset_iou, image_iou = i.sum() / u.sum(), np.mean(i / u)
        assert 0.05 < dataset_iou < 1
        assert abs(dataset_iou - image_iou) > 1e-4, "images too alike to tell the two means apart"
        assert getattr(result, f"{split}_dataset_iou") == pytest.approx(dataset_iou, abs=1e-9)
        assert getattr(result, f"{split}_image_iou") == pytest.approx(image_iou, abs=1e-9)
        if task == "semantic3":
            assert result.class_iou is not None
            sums = np.sum(hand["classes"], axis=0)
            for name, (inter, union) in zip(CLASS_NAMES, sums):
                assert result.class_iou[split][name] == pytest.approx(inter / union, abs=1e-9)
        if split == "val":
            hand = by_hand(result, dataset, split, whole=True)
            i, u = np.array(hand["intersections"], float), np.array(hand["unions"], float)
            dataset_iou, image_iou = i.sum() / u.sum(), np.mean(i / u)
            assert best.val_dataset_iou == pytest.approx(dataset_iou, abs=1e-9)
            assert best.val_image_iou == pytest.approx(image_iou, abs=1e-9)
            assert best.val_loss == pytest.approx(np.mean(hand["losses"]), rel=1e-4)
