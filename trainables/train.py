"""One trial, from a configuration and a data set to a checkpoint and its scores."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray
from torch import nn

from trainables import checkpoint, memory
from trainables.architectures import build_model
from trainables.config import ImageCounts, RunOptions, TrialConfig, TrialResult
from trainables.data.appearance import trained_on
from trainables.data.crop_positions import derived_seed
from trainables.data.crops import CropDataset, CropLoader, EpochBatches
from trainables.data.dataset import DataSet
from trainables.data.examples import Example, each_example, keep_targets, load_split, most_pixels
from trainables.encoders.weights import WeightsError, check_bytes, fetch, pinned, resolve
from trainables.epochs import EpochEnd, OnEpoch, OnResume, StateDict
from trainables.errors import TrainingError
from trainables.evenly import evenly
from trainables.labels import foreground
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.module import Scores, SegmentationModule
from trainables.pictures import validation_picture
from trainables.predict import (
    Scaling,
    predict_logits,
    resolve_device,
    resolve_precision,
)
from trainables.records.attempts import Attempt, attempt_at
from trainables.records.lasting import adopt, keep_last
from trainables.records.manifest import MANIFEST
from trainables.records.objects import place
from trainables.records.progress import RESULT, History, ended_before, forget_states, read_result
from trainables.records.resumable import Form, Progress
from trainables.tasks import MOST_CALIBRATION_IMAGES, TASKS, Task
from trainables.tiling import SMALLEST_TILE, Inference

LEAST_GAIN = 0.002
"""Validation IoU that tiles must gain, as they take several times as long as a whole image."""

logger = logging.getLogger(__name__)

OnNote = Callable[[str], None]
OnOverlays = Callable[[Sequence[tuple[str, NDArray[np.uint8]]]], None]


def _start_network(
    config: TrialConfig, channels: int, cache: str | None
) -> tuple[nn.Module, Scaling, Any]:
    """Build the network, with encoder weights where configured, and its input scaling."""
    info = resolve(config.encoder, config.encoder_weights)
    path, mean, std = None, 0.5, 0.25
    if info is not None:
        info = pinned(info, config.weights_id) or info
        path = fetch(info, place(cache) if cache else Path.home() / ".cache" / "segsweep")
        try:
            info = check_bytes(info, path, config.weights_id)
        except WeightsError as error:
            raise TrainingError(str(error)) from error
        mean, std = info.grey_mean, info.grey_std
    torch.manual_seed(derived_seed(config.seed, "weights"))
    network = build_model(
        config.architecture, config.encoder, in_channels=1, classes=channels, encoder_weights=path
    ).to(memory_format=torch.channels_last)
    own = config.normalization
    scaling = Scaling(own.mean if own.mean is not None else mean, own.std or std)
    return network, scaling, None if info is None else info.record()


def _trainer(
    config: TrialConfig,
    device: torch.device,
    precision: str,
    folder: Path,
    callback: pl.Callback,
    splits: int,
) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return pl.Trainer(
        # one more than are trained: else Lightning does nothing where only the last validation
        # is left, which `EpochEnd` makes up for when training starts
        max_epochs=config.epochs + 1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        callbacks=[callback],
        accumulate_grad_batches=splits,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        plugins=[LightningEnvironment()],  # a trial is one process, even inside a Slurm job
        default_root_dir=folder,
    )


def train(
    config: TrialConfig,
    dataset: DataSet,
    folder: Path,
    *,
    options: RunOptions = RunOptions(),
    on_epoch: OnEpoch | None = None,
    on_overlays: OnOverlays | None = None,
    on_resume: OnResume | None = None,
    on_note: OnNote = logger.warning,
) -> TrialResult:
    """Train one trial, continue an earlier attempt, or return the result of a finished trial.

    Parameters
    ----------
    config : TrialConfig
    dataset : DataSet
    folder : Path
        The trial's own folder. It receives saved states while training, and at the end the
        checkpoint and `RESULT`.
    options : RunOptions
    on_epoch : callable, optional
        Called with the `EpochRecord` of every epoch trained in this call.
    on_overlays : callable, optional
        Called at the end with (caption, (h, w, 3) uint8 picture) pairs of validation images.
    on_resume : callable, optional
        Called with the epochs of a saved state, before training continues from it.
    on_note : callable
        Called with lines that the user should read, such as that a saved state is damaged.

    Returns
    -------
    TrialResult
        Scores of the best checkpoint by val_dataset_iou; test scores are computed here, once.

    Raises
    ------
    TrainingError
        When the trial cannot succeed however often it is repeated.
    trainables.errors.OutOfMemory, trainables.errors.HostMemoryShort
        When it needs more memory than `options` allow or, on a GPU, than the node has.
    trainables.errors.NoGpu
        When `options` ask for a GPU and none can be used.
    trainables.errors.Superseded
        When another attempt at the trial has begun; this one has written nothing since.
    trainables.errors.Paused
        When ``options.stop_file`` exists; the state was saved.
    """
    done = ended_before(folder, on_note)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    limits = memory.limited(device, gpu_fraction=options.gpu_fraction, memory_gb=options.memory_gb)
    with attempt_at(folder, options.attempt) as attempt, limits:
        memory.reset_peak(device)
        seen = _see(config, dataset, resolve_precision(config.precision, device))
        if options.continues is not None:
            adopt(Path(options.continues), attempt)
        progress = Progress(attempt, _FORM, options, on_note)
        progress.keeps_last = options.keep_last_state
        trained = _fit(seen, device, options, progress, (on_resume, on_epoch))
        return _conclude(trained, seen, device, progress, on_overlays)


_FORM: Form[StateDict] = Form(
    ".ckpt", ".pt", lambda path, state: torch.save(state, path), checkpoint.load_weights
)


@dataclass(frozen=True)
class _Seen:
    """What a trial sees: its images, and what it learns from them."""

    config: TrialConfig
    dataset: DataSet
    precision: str
    training: Sequence[Example]
    validation: Sequence[Example]
    task: Task


def _see(config: TrialConfig, dataset: DataSet, precision: str) -> _Seen:
    training = load_split(dataset, "train", config)
    task = TASKS[config.task].for_training(config, [one.labels for one in training])
    validation = load_split(dataset, "val", config)
    keep_targets(task, validation)
    return _Seen(config, dataset, precision, training, validation, task)


@dataclass(frozen=True)
class _Trained:
    """A network after its last epoch."""

    module: SegmentationModule
    splits: int
    """Parts that a batch was computed in."""
    weights: Any
    """What the encoder started from."""


def _fit(
    seen: _Seen,
    device: torch.device,
    options: RunOptions,
    progress: Progress[StateDict],
    report: tuple[OnResume | None, OnEpoch | None],
) -> _Trained:
    """Train from the last saved state that can be used, or from the start."""
    config = seen.config
    pairs = [(one.image, one.labels) for one in seen.training]
    crops = CropDataset(pairs, config.crop_size, seen.task.target, config.augmentation, config.seed)
    for state in chain(progress.states(), [None]):
        network, scaling, weights = _start_network(
            config, seen.task.channels, options.weights_cache
        )
        batches = EpochBatches(crops, config.batch_size, config.seed, options.micro_batch)
        scaling = replace(scaling, intensities=seen.dataset.intensities(config.normalization))
        steps = config.epochs * batches.steps
        module = SegmentationModule(config, network, scaling, seen.task, steps)
        end = EpochEnd(config, seen.validation, batches, seen.precision, progress, report)
        folder = progress.folder
        trainer = _trainer(config, device, seen.precision, folder, end, batches.splits)
        try:
            with warnings.catch_warnings():
                # Lightning advises worker processes for loading; the crops are in memory already.
                warnings.filterwarnings("ignore", message=".*does not have many workers.*")
                warnings.filterwarnings("ignore", message=".*number of training batches.*")
                trainer.fit(
                    module,
                    CropLoader(crops, batches),
                    ckpt_path=state.path if state else None,
                    weights_only=True,
                )
        except Exception as error:
            if state is None or end.began or not _does_not_fit(error):
                raise
            progress.refuse(state, error)
            continue
        return _Trained(module, batches.splits, weights)
    raise AssertionError("the loop ends with a state or with none")


def _does_not_fit(error: Exception) -> bool:
    """Whether an error while a state was restored lies in the state, not in the machine."""
    machine = isinstance(error, OSError) or memory.is_out_of_memory(error, limited=True)
    return not machine and "CUDA" not in str(error)


def _conclude(
    trained: _Trained,
    seen: _Seen,
    device: torch.device,
    progress: Progress[StateDict],
    on_overlays: OnOverlays | None,
) -> TrialResult:
    """Evaluate the best weights, and write checkpoint and result."""
    module, history, validation = trained.module, progress.history, seen.validation
    network, precision, task, dataset = module.network, seen.precision, seen.task, seen.dataset
    network.load_state_dict(progress.best_weights())
    network.to(device).eval()
    # epochs are compared whole and at default thresholds, the trial by what suits it best
    inference, val = _choose_inference(module, validation, precision)
    tuned = task.tune(
        lambda x: predict_logits(
            network, x, module.scaling, precision, inference=inference, grid=task.grid
        ),
        [(one.image, one.labels) for one in validation],
    )
    if tuned:
        val = module.evaluate(validation, precision, inference)
    # one at a time in memory
    test = module.evaluate(each_example(dataset, "test", seen.config), precision, inference)
    if on_overlays is not None:
        on_overlays(_overlays(module, validation, precision, inference))
    metrics = {
        **_figures(trained, seen, history, {"val": val, "test": test}),
        "peak_memory_mb": memory.peak_mb(device),
        "inference": str(inference),
    }
    attempt = progress.attempt
    attempt.patiently(
        progress.folder / MANIFEST, lambda: _save(trained, seen, metrics, inference, attempt)
    )
    per_image = [
        vars(ImageCounts(split, item.stem, item.group, *counts))
        for split, scores in (("val", val), ("test", test))
        for item, counts in zip(dataset.subset(split), scores.counts)
    ]
    content = {**metrics, "history": history.rows(), "per_image": per_image}
    if progress.keeps_last and history.records[-1].epoch == seen.config.epochs:
        keep_last(progress.attempt)  # before the result, with which the states are deleted
    progress.attempt.write_json(progress.folder / RESULT, content)
    forget_states(progress.folder)
    result = read_result(progress.folder)
    assert result is not None
    return result


def _figures(
    trained: _Trained, seen: _Seen, history: History, scores: dict[str, Scores]
) -> dict[str, Any]:
    val, test, best, size = scores["val"], scores["test"], history.best, seen.config.batch_size
    assert best is not None
    return {
        "best_epoch": best.epoch,
        "epochs": history.records[-1].epoch,
        "val_dataset_iou": val.dataset_iou,
        "val_image_iou": val.image_iou,
        "test_dataset_iou": test.dataset_iou,
        "test_image_iou": test.image_iou,
        "parameters_m": sum(p.numel() for p in trained.module.network.parameters()) / 1e6,
        "train_seconds": sum(record.seconds for record in history.records),
        "class_iou": {"val": val.class_iou, "test": test.class_iou} if test.class_iou else None,
        "micro_batch": -(-size // trained.splits) if trained.splits > 1 else None,
        "ceiling_iou": _ceiling(seen.task, seen.validation),
    }


def _save(
    trained: _Trained, seen: _Seen, metrics: dict[str, Any], inference: Inference, attempt: Attempt
) -> None:
    checkpoint.save(
        attempt.folder,
        {k: v.cpu() for k, v in trained.module.network.state_dict().items()},
        # auto is what it was here, wherever the checkpoint predicts
        seen.config.model_copy(update={"precision": "bf16" if "bf16" in seen.precision else "32"}),
        trained.module.scaling,
        data=trained_on(seen.dataset, (one.labels.shape for one in seen.training)),
        metrics=metrics,
        encoder_weights=trained.weights,
        task=seen.task.state(),
        inference=inference,
        check=attempt.check,
    )


def _choose_inference(
    module: SegmentationModule, validation: Sequence[Example], precision: str
) -> tuple[Inference, Scores]:
    """Choose how the trial predicts by validation IoU: whole images, or tiles of the size of the
    training crops or of twice that. Return it with its scores.
    """
    most, crop = most_pixels(validation), module.config.crop_size
    longest = max(max(one.labels.shape) for one in validation)
    chosen = Inference(None, most)
    scores = module.evaluate(validation, precision, chosen)
    least = scores.dataset_iou + LEAST_GAIN
    for side in (crop, 2 * crop):
        if SMALLEST_TILE <= side < longest:
            tiles = Inference(side, most)
            tiled = module.evaluate(validation, precision, tiles)
            if tiled.dataset_iou > least:
                chosen, scores, least = tiles, tiled, tiled.dataset_iou
    return chosen, scores


def _ceiling(task: Task, validation: Sequence[Example]) -> float:
    """Return the data-set IoU that perfect outputs would reach."""
    counts = []
    for one in evenly(validation, MOST_CALIBRATION_IMAGES):
        target = task.target(one.labels) if one.target is None else one.target
        mask = task.ideal(target, (one.labels.shape[0], one.labels.shape[1]))
        counts.append(overlap_counts(mask, foreground(one.labels)))
    return iou_from_counts(counts)[0]


def _overlays(
    module: SegmentationModule,
    images: Sequence[Example],
    precision: str,
    inference: Inference,
    most: int = 4,
) -> list[tuple[str, NDArray[np.uint8]]]:
    pictures = []
    for number, one in enumerate(images[:most], 1):
        logits = predict_logits(
            module.network,
            one.image,
            module.scaling,
            precision,
            inference=inference,
            grid=module.task.grid,
        )
        pred = module.task.foreground(logits, (one.labels.shape[0], one.labels.shape[1]))
        pictures.append(validation_picture(number, one.image, pred, foreground(one.labels)))
    return pictures
