"""What happens at the end of each epoch: evaluation, best weights, saved states, reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from trainables.config import EpochRecord, TrialConfig
from trainables.data.crops import EpochBatches
from trainables.data.examples import Example, most_pixels
from trainables.errors import TrainingError
from trainables.module import Scores, SegmentationModule
from trainables.records.resumable import Progress
from trainables.tiling import Inference

OnEpoch = Callable[[EpochRecord], None]
OnResume = Callable[[Sequence[EpochRecord]], None]
StateDict = dict[str, torch.Tensor]


class EpochEnd(pl.Callback):
    """Evaluates, keeps the best weights, saves states when they are due, and reports.

    Parameters
    ----------
    config : TrialConfig
    images : sequence of Example
        Validation images.
    batches : EpochBatches
    precision : str
    progress : Progress
    report : pair of callables, or None
        The first is called with the epochs of a saved state, the second with each new epoch.

    Attributes
    ----------
    began : bool
        Whether training has begun; a saved state has then been restored.
    """

    def __init__(
        self,
        config: TrialConfig,
        images: Sequence[Example],
        batches: EpochBatches,
        precision: str,
        progress: Progress[StateDict],
        report: tuple[OnResume | None, OnEpoch | None],
    ) -> None:
        self.config, self.images, self.batches = config, images, batches
        self.precision, self.progress = precision, progress
        self.on_resume, self.on_epoch = report
        self.began = False
        self.started = time.monotonic()

    @property
    def state_key(self) -> str:
        """Name under which Lightning stored the state of this callback in earlier versions."""
        return "_EpochEnd"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history from a state that an earlier version saved."""
        self.progress.history.restore(state_dict["history"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that everything has been restored."""
        self.began = True
        if self.on_resume is not None and self.progress.history.records:
            self.on_resume(self.progress.history.records)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the epoch's clock, and check that the crops belong to this epoch."""
        if batch_idx == 0:
            self.started = time.monotonic()
            if self.batches.epoch != trainer.current_epoch:
                raise RuntimeError(
                    f"epoch {trainer.current_epoch} got the crops of epoch {self.batches.epoch}"
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, keep the best weights, save a state if it is due, and report."""
        assert isinstance(pl_module, SegmentationModule)
        record = self._evaluate(trainer.current_epoch + 1, pl_module)
        network = pl_module.network

        def copy() -> StateDict:
            state = network.state_dict()
            return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}

        self.progress.add(record, copy)
        if self.progress.history.patience_is_over(self.config.early_stopping):
            trainer.should_stop = True
        if record.epoch < self.config.epochs and not trainer.should_stop:
            self.progress.save_if_due(trainer.save_checkpoint)
        elif self.progress.keeps_last and not trainer.should_stop:
            self.progress.save(trainer.save_checkpoint)
        self.progress.attempt.check()
        if self.on_epoch is not None:
            self.on_epoch(record)
        self.progress.stop_if_asked()

    def _evaluate(self, epoch: int, module: SegmentationModule) -> EpochRecord:
        loss = module.mean_train_loss()
        if not math.isfinite(loss):
            raise _not_finite("training", loss, epoch)
        scores: Scores | None = None
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            whole = Inference(None, most_pixels(self.images))
            scores = module.evaluate(self.images, self.precision, whole)
            if not math.isfinite(scores.loss):  # the epoch's last step can be the one that failed
                raise _not_finite("validation", scores.loss, epoch)
        return EpochRecord(
            epoch=epoch,
            train_loss=loss,
            val_loss=scores.loss if scores else None,
            val_dataset_iou=scores.dataset_iou if scores else None,
            val_image_iou=scores.image_iou if scores else None,
            seconds=time.monotonic() - self.started,
            **_class_fields(scores.class_iou if scores else {}),
        )


def _class_fields(class_iou: Mapping[str, float]) -> dict[str, float]:
    """Return the IoU of classes that `EpochRecord` has a field for, by field."""
    known = {f"val_{name}_iou": iou for name, iou in class_iou.items()}
    return {name: iou for name, iou in known.items() if name in EpochRecord.__dataclass_fields__}


def _not_finite(name: str, loss: float, epoch: int) -> TrainingError:
    return TrainingError(
        f"{name} loss became {loss} in epoch {epoch}; try a smaller learning_rate or precision=32"
    )
