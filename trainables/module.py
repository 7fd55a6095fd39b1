"""A segmentation network as a Lightning module, and its evaluation on whole images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data.crop_positions import derived_seed
from trainables.data.examples import Example
from trainables.labels import foreground
from trainables.learning_rate import learning_rate_factor
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.predict import Scaling, predict_logits
from trainables.tasks import Task
from trainables.tiling import Inference


@dataclass(frozen=True)
class Scores:
    """How well a network does on some images."""

    loss: float
    dataset_iou: float
    image_iou: float
    class_iou: dict[str, float] = field(default_factory=dict)
    """Data-set IoU of each of the task's classes."""
    counts: tuple[tuple[int, int], ...] = ()
    """Intersection and union of each image, in pixels."""


class SegmentationModule(pl.LightningModule):
    """Trains a network on crops.

    Parameters
    ----------
    config : TrialConfig
    network : torch.nn.Module
        Gives logits (N, classes, H, W) for (N, 1, H, W).
    scaling : Scaling
    task : Task
    steps : int
        Optimiser steps in the whole trial, for the learning-rate schedule.
    """

    def __init__(
        self, config: TrialConfig, network: nn.Module, scaling: Scaling, task: Task, steps: int
    ) -> None:
        super().__init__()
        self.config, self.network, self.scaling, self.steps = config, network, scaling, steps
        self.task, self.loss = task, task.loss()
        self._losses: list[torch.Tensor] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """At an epoch's first batch, seed what is random inside the network (dropout), so that
        a resumed trial draws the same numbers as an uninterrupted one.

        Lightning leaves out ``on_train_epoch_start`` for the first epoch after a resume.
        """
        if batch_idx == 0:
            torch.manual_seed(derived_seed(self.config.seed, "network", self.current_epoch))
            self._losses = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of one batch: (N, 1, H, W) images and targets."""
        image, target = batch
        x = self.scaling(image).contiguous(memory_format=torch.channels_last)
        grid = self.task.grid
        loss: torch.Tensor = self.loss(self.network(x)[..., ::grid, ::grid].float(), target)
        self._losses.append(loss.detach())
        return loss

    def mean_train_loss(self) -> float:
        """Mean loss over the batches of the current epoch; waits for the device once."""
        return float(self.losses().mean())

    def losses(self) -> torch.Tensor:
        """Return the loss of each batch of the current epoch so far: (batches,) float32."""
        return torch.stack(self._losses)

    def restore_losses(self, losses: torch.Tensor) -> None:
        """Take what `losses` returned in an earlier attempt."""
        self._losses = list(losses.to(self.device))

    def configure_optimizers(self) -> Any:
        """AdamW with the configured schedule, stepped every batch."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, learning_rate_factor(self.config.lr_schedule, self.steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @torch.inference_mode()
    def evaluate(self, images: Iterable[Example], precision: str, inference: Inference) -> Scores:
        """Compare predictions of whole images with label images.

        Parameters
        ----------
        images : iterable of Example
        precision : str
            As `trainables.predict.resolve_precision` gives it.
        inference : Inference
            Whether images are predicted as a whole or in tiles.

        Returns
        -------
        Scores
            The loss is the mean over images.
        """
        was_training = self.network.training
        self.network.eval()
        losses, counts = [], []
        names = self.task.class_names
        class_counts = np.zeros((len(names), 2), np.int64)
        for one in images:
            logits = predict_logits(
                self.network,
                one.image,
                self.scaling,
                precision,
                inference=inference,
                grid=self.task.grid,
            )
            target = self.task.target(one.labels) if one.target is None else one.target
            truth = torch.from_numpy(target)[None].to(logits.device)
            losses.append(float(self.loss(logits[None], truth)))
            # an untrained or diverged network is recognised by its loss, not by its outlines
            pred = self.task.foreground(logits, (one.labels.shape[0], one.labels.shape[1]))
            counts.append(overlap_counts(pred, foreground(one.labels)))
            if names:
                classes = self.task.classes(logits)
                for number in range(len(names)):
                    class_counts[number] += overlap_counts(classes == number, target == number)
        self.network.train(was_training)
        class_iou = {
            name: iou_from_counts([(int(i), int(u))])[0]
            for name, (i, u) in zip(names, class_counts)
        }
        loss = float(np.mean(losses))
        return Scores(loss, *iou_from_counts(counts), class_iou, tuple(counts))
