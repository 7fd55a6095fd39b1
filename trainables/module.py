"""A segmentation network as a Lightning module, and its evaluation on whole images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.config import TrialConfig
from trainables.crops import derived_seed
from trainables.labels import foreground
from trainables.losses import build_loss
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.predict import Scaling, foreground_probability, predict_logits

Images = Iterable[tuple[NDArray[np.float32], NDArray[np.int32]]]


@dataclass(frozen=True)
class Scores:
    """What a network reaches on images."""

    loss: float
    dataset_iou: float
    image_iou: float


def learning_rate_factor(schedule: str, steps: int) -> Callable[[int], float]:
    """Return the factor on the peak learning rate as a function of the step.

    Parameters
    ----------
    schedule : {"constant", "cosine"}
        ``cosine``: linear warm-up over 5 % of the steps, then a half cosine down to 1 %.
    steps : int
        Optimiser steps in the whole trial.
    """
    warmup = max(1, round(0.05 * steps))

    def cosine(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return cosine if schedule == "cosine" else lambda step: 1.0


class SegmentationModule(pl.LightningModule):
    """Trains a network on crops.

    Parameters
    ----------
    config : TrialConfig
    network : torch.nn.Module
        Gives logits (N, classes, H, W) for (N, 1, H, W).
    scaling : Scaling
    steps : int
        Optimiser steps in the whole trial, for the learning-rate schedule.
    """

    def __init__(
        self, config: TrialConfig, network: nn.Module, scaling: Scaling, steps: int
    ) -> None:
        super().__init__()
        self.config, self.network, self.scaling, self.steps = config, network, scaling, steps
        self.loss = build_loss(config.loss)
        self._losses: list[torch.Tensor] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """At an epoch's first batch, restart what is random inside the network (dropout), so
        that a resumed trial draws what an undisturbed one would have drawn.

        Lightning leaves out ``on_train_epoch_start`` for the first epoch after a resume.
        """
        if batch_idx == 0:
            torch.manual_seed(derived_seed(self.config.seed, "network", self.current_epoch))
            self._losses = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss of one batch: (N, 1, H, W) images and targets."""
        image, target = batch
        x = self.scaling(image).contiguous(memory_format=torch.channels_last)
        loss = self.loss(self.network(x).float(), target)
        self._losses.append(loss.detach())
        return loss

    def mean_train_loss(self) -> float:
        """Mean loss over the batches of the current epoch; one wait for the device."""
        return float(torch.stack(self._losses).mean())

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
    def evaluate(
        self, images: Images, target: Callable[[NDArray[np.integer]], NDArray], precision: str
    ) -> Scores:
        """Compare whole-image predictions with label images.

        Parameters
        ----------
        images : iterable of (image, labels)
            Normalised (H, W) images and their label images.
        target : callable
            Makes the training target, for the loss; IoU is of any cell (label > 0).
        precision : str
            As `trainables.predict.resolve_precision` gives it.

        Returns
        -------
        Scores
        """
        was_training = self.network.training
        self.network.eval()
        losses, counts = [], []
        for image, labels in images:
            logits = predict_logits(self.network, image, self.scaling, precision)
            truth = torch.from_numpy(target(labels))[None, None].to(logits.device)
            losses.append(float(self.loss(logits[None], truth)))
            pred = (foreground_probability(logits) >= 0.5).cpu().numpy()
            counts.append(overlap_counts(pred, foreground(labels)))
        self.network.train(was_training)
        return Scores(float(np.mean(losses)), *iou_from_counts(counts))
