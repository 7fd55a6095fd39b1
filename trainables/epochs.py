"""What happens at the end of each epoch: evaluation, best weights, saved states, reports.

Also what happens where the sweep asks training to stop at once: a state is saved within the epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

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


class _Asked(Exception):
    """Training shall stop at once, and an evaluation is not finished."""


class EpochEnd(pl.Callback):
    """Evaluates, keeps the best weights, saves states when they are due, and reports.

    A state within an epoch contains, beside what Lightning stores (weights, optimiser, schedule,
    number of batches): the losses of these batches, the time they took, and the state of the
    random numbers (dropout). If all batches are done, only the evaluation is missing; it is made
    up for when training starts again.

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
        self._within: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """Name under which Lightning stored the state of this callback in earlier versions."""
        return "_EpochEnd"

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning shall store: nothing, except within an epoch."""
        return self._within

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what was stored within an epoch, or the history that an earlier version stored.

        Raises
        ------
        ValueError
            When the state counts other parts of batches.
        """
        if "history" in state_dict:
            self.progress.history.restore(state_dict["history"])
            return
        if state_dict["splits"] != self.batches.splits:
            raise ValueError(
                f"it was saved within an epoch, with batches in {state_dict['splits']} parts, now "
                f"{self.batches.splits}"
            )
        self._within = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that everything has been restored; finish an epoch that only lacks evaluation."""
        assert isinstance(pl_module, SegmentationModule)
        self.began = True
        history = self.progress.history
        if self.on_resume is not None and history.records:
            self.on_resume(history.records)
        if self._within and len(self._within["losses"]) == len(self.batches):
            self._continue(pl_module)
            self._end_epoch(trainer, pl_module)
        elif self._is_over():
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the epoch's clock, and check that the crops are those of this epoch and batch."""
        assert isinstance(pl_module, SegmentationModule)
        if self._within:
            self._continue(pl_module)
        elif batch_idx == 0:
            self.started = time.monotonic()
        got = self.batches.epoch, self.batches.given - 1
        if got != (trainer.current_epoch, batch_idx):
            raise RuntimeError(
                f"batch {batch_idx} of epoch {trainer.current_epoch} got the crops of batch "
                f"{got[1]} of epoch {got[0]}"
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save a state and stop, if training shall stop at once."""
        assert isinstance(pl_module, SegmentationModule)
        done = batch_idx + 1
        stepped = done % self.batches.splits == 0  # gradients are in no state
        if stepped and done < len(self.batches) and self.progress.looks.at_step():
            self._pause(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, keep the best weights, save a state if it is due, and report."""
        assert isinstance(pl_module, SegmentationModule)
        self._end_epoch(trainer, pl_module)

    def _end_epoch(self, trainer: pl.Trainer, module: SegmentationModule) -> None:
        try:
            record = self._evaluate(len(self.progress.history.records) + 1, module)
        except _Asked:
            self._pause(trainer, module)
        network = module.network

        def copy() -> StateDict:
            state = network.state_dict()
            return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}

        self.progress.add(record, copy)
        if self._is_over():
            trainer.should_stop = True
        self.progress.save_if_due(trainer.save_checkpoint, ended=trainer.should_stop)
        self.progress.attempt.check()
        if self.on_epoch is not None:
            self.on_epoch(record)
        self.progress.stop_if_asked()

    def _is_over(self) -> bool:
        """Whether the trial has had its epochs, or too many without an improvement."""
        history = self.progress.history
        stopped = history.patience_is_over(self.config.early_stopping)
        return stopped or len(history.records) >= self.config.epochs

    def _pause(self, trainer: pl.Trainer, module: SegmentationModule) -> NoReturn:
        """Save a state within the epoch, and stop."""
        random = {"cpu": torch.get_rng_state()}
        if module.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(module.device)
        losses = module.losses().cpu()
        self._within = {
            "losses": losses,
            "seconds": time.monotonic() - self.started,
            "splits": self.batches.splits,
            "random": random,
        }
        self.progress.pause(trainer.save_checkpoint, len(losses))

    def _continue(self, module: SegmentationModule) -> None:
        """Take what was stored within the epoch; losses and time are counted on from there."""
        stored, self._within = self._within, {}
        self.started = time.monotonic() - stored["seconds"]
        module.restore_losses(stored["losses"])
        torch.set_rng_state(stored["random"]["cpu"])
        if module.device.type == "cuda" and "cuda" in stored["random"]:
            torch.cuda.set_rng_state(stored["random"]["cuda"], module.device)

    def _images(self) -> Iterator[Example]:
        """Yield the validation images, unless training shall stop at once."""
        for one in self.images:
            if self.progress.looks.at_step():
                raise _Asked
            yield one

    def _evaluate(self, epoch: int, module: SegmentationModule) -> EpochRecord:
        loss = module.mean_train_loss()
        if not math.isfinite(loss):
            raise _not_finite("training", loss, epoch)
        scores: Scores | None = None
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            whole = Inference(None, most_pixels(self.images))
            scores = module.evaluate(self._images(), self.precision, whole)
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
