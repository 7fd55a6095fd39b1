"""One trial, from a configuration and a data set to a checkpoint and its figures."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from trainables import checkpoint, memory
from trainables.appearance import trained_on
from trainables.architectures import build_model
from trainables.config import EpochRecord, ImageCounts, RunOptions, TrialConfig, TrialResult
from trainables.crops import CropDataset, EpochBatches
from trainables.cutting import derived_seed
from trainables.data import DataSet
from trainables.errors import TrainingError
from trainables.examples import Example, each_example, keep_targets, load_split, most_pixels
from trainables.files import write_json, write_with
from trainables.labels import foreground
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.module import Scores, SegmentationModule
from trainables.overlays import validation_picture
from trainables.predict import (
    Scaling,
    predict_logits,
    resolve_device,
    resolve_precision,
)
from trainables.results import (
    RESULT,
    RESUME,
    History,
    forget_states,
    read_result,
    resume_state,
)
from trainables.tasks import MOST_CALIBRATION_IMAGES, StarConvex, Task, build_task, typical_radius
from trainables.tiling import SMALLEST_TILE, Inference
from trainables.weights import WeightsError, check_bytes, fetch, pinned, resolve

LEAST_GAIN = 0.002
"""Validation IoU that tiles must gain: they cost several times a whole image."""

OnEpoch = Callable[[EpochRecord], None]
OnOverlays = Callable[[Sequence[tuple[str, NDArray[np.uint8]]]], None]


class _EpochEnd(pl.Callback):
    """Evaluates, keeps the best weights, reports, and writes resumable checkpoints.

    A resumable state is three files: Lightning's state and the best weights so far, both under
    names of their epoch, and then `RESUME`, which names them. Whenever the process dies, the
    last `RESUME` names files that are whole.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        images: Sequence[Example],
        batches: EpochBatches,
        precision: str,
        options: RunOptions,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.config, self.folder, self.images, self.batches = config, folder, images, batches
        self.precision, self.options, self.on_epoch = precision, options, on_epoch
        self.history = History()
        self.best_state: dict[str, torch.Tensor] | None = None
        self.best_file: str | None = None
        self.last_saved = time.monotonic()
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history.rows()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.restore(state_dict["history"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.started = time.monotonic()
            if self.batches.epoch != trainer.current_epoch:
                raise RuntimeError(
                    f"epoch {trainer.current_epoch} got the crops of epoch {self.batches.epoch}"
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationModule)
        epoch = trainer.current_epoch + 1
        loss = pl_module.mean_train_loss()
        if not math.isfinite(loss):
            raise TrainingError(
                f"training loss became {loss} in epoch {epoch}; try a smaller learning_rate or "
                "precision=32"
            )
        scores = None
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            whole = Inference(None, most_pixels(self.images))
            scores = pl_module.evaluate(self.images, self.precision, whole)
            if not math.isfinite(scores.loss):  # the epoch's last step can be the one that failed
                raise TrainingError(
                    f"validation loss became {scores.loss} in epoch {epoch}; try a smaller "
                    "learning_rate or precision=32"
                )
        record = EpochRecord(
            epoch=epoch,
            train_loss=loss,
            val_loss=scores.loss if scores else None,
            val_dataset_iou=scores.dataset_iou if scores else None,
            val_image_iou=scores.image_iou if scores else None,
            seconds=time.monotonic() - self.started,
            **{f"val_{k}_iou": v for k, v in (scores.class_iou if scores else {}).items()},
        )
        if self.history.append(record):
            state = pl_module.network.state_dict()
            self.best_state = {k: v.detach().to("cpu", copy=True) for k, v in state.items()}
        if self.history.patience_is_over(self.config.early_stopping):
            trainer.should_stop = True
        last = epoch == self.config.epochs or trainer.should_stop
        if not last and time.monotonic() - self.last_saved >= self.options.checkpoint_seconds:
            self._save(trainer, epoch)
        if self.on_epoch is not None:
            self.on_epoch(record)

    def _save(self, trainer: pl.Trainer, epoch: int) -> None:
        old = {path for pattern in ("resume-*", "best-*") for path in self.folder.glob(pattern)}
        best = self.history.best
        if self.best_state is not None and best is not None:
            self.best_file = f"best-{best.epoch:05d}.pt"
            state = self.best_state
            write_with(self.folder / self.best_file, lambda path: torch.save(state, path))
            self.best_state = None  # on disk now; read back only if nothing better comes
        resume = f"resume-{epoch:05d}.ckpt"
        write_with(self.folder / resume, lambda path: trainer.save_checkpoint(path))
        content = {
            "state": resume, "best": self.best_file, "epoch": epoch,
            "history": self.history.rows(),
        }  # fmt: skip
        write_json(self.folder / RESUME, content)
        for path in old - {self.folder / resume, self.folder / (self.best_file or "")}:
            path.unlink(missing_ok=True)
        self.last_saved = time.monotonic()

    def best_weights(self) -> dict[str, torch.Tensor]:
        """Return the weights of the best validated epoch."""
        if self.best_state is not None:
            return self.best_state
        assert self.best_file is not None
        return checkpoint.load_weights(self.folder / self.best_file)


def _start_network(
    config: TrialConfig, channels: int, cache: str | None
) -> tuple[nn.Module, Scaling, Any]:
    """Build the network, with encoder weights where configured, and its input scaling."""
    info = resolve(config.encoder, config.encoder_weights)
    path, mean, std = None, 0.5, 0.25
    if info is not None:
        info = pinned(info, config.weights_id) or info
        path = fetch(info, Path(cache) if cache else Path.home() / ".cache" / "segsweep")
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


def _trainer(config: TrialConfig, device: torch.device, precision: str, folder: Path,
             callback: pl.Callback, splits: int) -> pl.Trainer:  # fmt: skip
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return pl.Trainer(
        max_epochs=config.epochs,
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
) -> TrialResult:
    """Train one trial, or go on where an earlier attempt stopped, or return its result.

    Parameters
    ----------
    config : TrialConfig
    dataset : DataSet
    folder : Path
        The trial's own folder. It receives resumable states while training, and at the end the
        checkpoint and `RESULT`.
    options : RunOptions
    on_epoch : callable, optional
        Called with the `EpochRecord` of every epoch trained in this call.
    on_overlays : callable, optional
        Called at the end with (caption, (h, w, 3) uint8 picture) pairs of validation images.

    Returns
    -------
    TrialResult
        Figures of the best checkpoint by val_dataset_iou; test figures are computed here, once.

    Raises
    ------
    TrainingError
        When the trial cannot succeed however often it is repeated.
    trainables.errors.OutOfMemory, trainables.errors.HostMemoryShort
        When it needs more memory than `options` let it take, or on a GPU than the node has.
    trainables.errors.NoGpu
        When `options` demand a GPU and none answers.
    """
    done = read_result(folder)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    with memory.limited(device, gpu_fraction=options.gpu_fraction, memory_gb=options.memory_gb):
        return _train(config, dataset, folder, device, options, on_epoch, on_overlays)


def _train(
    config: TrialConfig,
    dataset: DataSet,
    folder: Path,
    device: torch.device,
    options: RunOptions,
    on_epoch: OnEpoch | None,
    on_overlays: OnOverlays | None,
) -> TrialResult:
    precision = resolve_precision(config.precision, device)
    memory.reset_peak(device)

    training = load_split(dataset, "train", config)
    scale = typical_radius([one.labels for one in training])
    task = build_task(config, {"scale": scale})
    validation = load_split(dataset, "val", config)
    keep_targets(task, validation)
    network, scaling, weights = _start_network(config, task.channels, options.weights_cache)
    pairs = [(one.image, one.labels) for one in training]
    crops = CropDataset(pairs, config.crop_size, task.target, config.augmentation, config.seed)
    batches = EpochBatches(crops, config.batch_size, config.seed, options.micro_batch)
    scaling = replace(scaling, intensities=dataset.intensities(config.normalization))
    module = SegmentationModule(config, network, scaling, task, config.epochs * batches.steps)
    epoch_end = _EpochEnd(config, folder, validation, batches, precision, options, on_epoch)
    resume = resume_state(folder)
    if resume is not None:
        epoch_end.best_file = resume["best"]
    trainer = _trainer(config, device, precision, folder, epoch_end, batches.splits)
    with warnings.catch_warnings():
        # Lightning advises worker processes for loading; the crops are in memory already.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        trainer.fit(
            module,
            DataLoader(crops, batch_sampler=batches),
            ckpt_path=folder / resume["state"] if resume else None,
            weights_only=True,
        )
    history = epoch_end.history
    best = history.best
    assert best is not None
    network.load_state_dict(epoch_end.best_weights())
    network.to(device).eval()
    # epochs are compared whole and at default thresholds, the trial by what suits it best
    inference, val = _choose_inference(module, validation, precision)
    if isinstance(task, StarConvex):
        task.optimize(
            lambda x: predict_logits(
                network, x, scaling, precision, inference=inference, grid=task.grid
            ),
            [(one.image, one.labels) for one in validation],
        )
        val = module.evaluate(validation, precision, inference)
    # one at a time in memory
    test = module.evaluate(each_example(dataset, "test", config), precision, inference)
    if on_overlays is not None:
        on_overlays(_overlays(module, validation, precision, inference))
    metrics = {
        "best_epoch": best.epoch,
        "epochs": history.records[-1].epoch,
        "val_dataset_iou": val.dataset_iou,
        "val_image_iou": val.image_iou,
        "test_dataset_iou": test.dataset_iou,
        "test_image_iou": test.image_iou,
        "parameters_m": sum(p.numel() for p in network.parameters()) / 1e6,
        "train_seconds": sum(record.seconds for record in history.records),
        "peak_memory_mb": memory.peak_mb(device),
        "class_iou": {"val": val.class_iou, "test": test.class_iou} if test.class_iou else None,
        "micro_batch": -(-config.batch_size // batches.splits) if batches.splits > 1 else None,
        "inference": str(inference),
        "ceiling_iou": _ceiling(task, validation),
    }
    per_image = [
        vars(ImageCounts(split, item.stem, item.group, *counts))
        for split, scores in (("val", val), ("test", test))
        for item, counts in zip(dataset.subset(split), scores.counts)
    ]
    checkpoint.save(
        folder,
        {k: v.cpu() for k, v in network.state_dict().items()},
        # auto is what it was here, wherever the checkpoint predicts
        config.model_copy(update={"precision": "bf16" if "bf16" in precision else "32"}),
        module.scaling,
        data=trained_on(dataset, (one.labels.shape for one in training)),
        metrics=metrics,
        encoder_weights=weights,
        task=task.state(),
        inference=inference,
    )
    write_json(folder / RESULT, {**metrics, "history": history.rows(), "per_image": per_image})
    forget_states(folder)
    result = read_result(folder)
    assert result is not None
    return result


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
    step = max(1, len(validation) // MOST_CALIBRATION_IMAGES)
    counts = []
    for one in validation[::step][:MOST_CALIBRATION_IMAGES]:
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
            module.network, one.image, module.scaling, precision,
            inference=inference, grid=module.task.grid,
        )  # fmt: skip
        pred = module.task.foreground(logits, (one.labels.shape[0], one.labels.shape[1]))
        pictures.append(validation_picture(number, one.image, pred, foreground(one.labels)))
    return pictures
