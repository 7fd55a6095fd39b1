"""What a network learns, and how its output becomes foreground: one class per task.

This is the one place that defines the yardstick of the ranking: data-set IoU of the foreground
(any cell) against the label image's foreground, whatever the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.config import TrialConfig
from trainables.labels import CLASS_NAMES, semantic2_target, semantic3_target
from trainables.losses import build_loss
from trainables.starconvex import Thresholds, at_bound, decode, optimize_thresholds, star_targets
from trainables.starconvex_loss import StarConvexLoss, distances, probability

MOST_CALIBRATION_IMAGES = 20
"""Validation images, spread evenly, on which star-convex thresholds are chosen: predictions of
33 channels each are held in memory for it."""


class Task(Protocol):
    """What `trainables.module.SegmentationModule` needs to know of a task."""

    channels: int
    """Output channels of the network."""

    def target(self, labels: NDArray[np.integer]) -> NDArray[Any]:
        """Make the training target, without batch axis, from an (H, W) label image."""

    def loss(self) -> nn.Module:
        """Make the loss: called with logits (N, channels, H, W) and a batch of targets."""

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the (H, W) probability of any cell for (channels, H, W) logits."""

    def foreground(self, logits: torch.Tensor) -> NDArray[np.bool_]:
        """Return the (H, W) mask of any cell for (channels, H, W) logits."""

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return what instances are made from, for (channels, H, W) logits.

        Foreground probability (1, H, W) for two classes, class probabilities (3, H, W) for
        three, probability and distances (1 + rays, h, w) of every ``config.grid``-th pixel for a
        star-convex head.
        """

    def state(self) -> dict[str, Any]:
        """Return what prediction needs beside weights and configuration, for JSON."""


class Semantic2:
    """Foreground, with the paper's gap between touching cells."""

    channels = 1

    def __init__(self, config: TrialConfig) -> None:
        self.config = config

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a (1, H, W) target of 0 and 1."""
        return semantic2_target(labels)[None]

    def loss(self) -> nn.Module:
        """Return the configured loss."""
        return build_loss(self.config.loss)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid of the one channel."""
        return torch.sigmoid(logits[0])

    def foreground(self, logits: torch.Tensor) -> NDArray[np.bool_]:
        """Probability of at least one half."""
        return (self.probability(logits) >= 0.5).cpu().numpy()

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return the (1, H, W) foreground probability."""
        return torch.sigmoid(logits).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class Semantic3:
    """Background, cell, boundary; the boundary belongs to the foreground."""

    channels = len(CLASS_NAMES)

    def __init__(self, config: TrialConfig) -> None:
        self.config = config

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return an (H, W) target of class numbers."""
        return semantic3_target(labels, self.config.boundary)

    def loss(self) -> nn.Module:
        """Return the configured loss, over classes."""
        return build_loss(self.config.loss, classes=self.channels)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probability of not being background."""
        return 1 - torch.softmax(logits, 0)[0]

    def foreground(self, logits: torch.Tensor) -> NDArray[np.bool_]:
        """Probability of cell and boundary together of at least one half."""
        return (self.probability(logits) >= 0.5).cpu().numpy()

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return the (3, H, W) probabilities of the classes."""
        return torch.softmax(logits, 0).cpu().numpy()

    def classes(self, logits: torch.Tensor) -> NDArray[np.uint8]:
        """Return the most probable class of each pixel, (H, W)."""
        return logits.argmax(0).to(torch.uint8).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class StarConvex:
    """Object probability and radial distances, decoded as StarDist decodes them.

    Parameters
    ----------
    config : TrialConfig
    scale : float
        Typical radius of the training cells, in pixels: the unit of the distances' output.
    thresholds : Thresholds
    """

    def __init__(
        self, config: TrialConfig, scale: float = 1.0, thresholds: Thresholds = Thresholds()
    ) -> None:
        self.config, self.scale, self.thresholds = config, scale, thresholds
        self.channels = 1 + config.rays

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a (1 + rays, H, W) target."""
        return star_targets(labels, self.config.rays)

    def loss(self) -> nn.Module:
        """Return StarDist's loss."""
        return StarConvexLoss(rays=self.config.rays, scale=self.scale)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the object probability."""
        return probability(logits[None])[0].reshape(logits.shape[-2:])

    def polygons(self, logits: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return object probability (h, w) and radial distances (rays, h, w) in pixels, of every
        ``config.grid``-th pixel.
        """
        thin = logits[:, :: self.config.grid, :: self.config.grid].float()
        dist = distances(thin[None], self.scale)[0]
        return self.probability(thin).cpu().numpy(), dist.cpu().numpy()

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return what `polygons` returns, in one (1 + rays, h, w) array."""
        prob, dist = self.polygons(logits)
        return np.concatenate([prob[None], dist])

    def labels(self, logits: torch.Tensor) -> NDArray[np.int32]:
        """Return the decoded (H, W) label image."""
        shape = (logits.shape[-2], logits.shape[-1])
        prob, dist = self.polygons(logits)
        return decode(prob, dist, self.thresholds, grid=self.config.grid, shape=shape)

    def foreground(self, logits: torch.Tensor) -> NDArray[np.bool_]:
        """Any decoded instance."""
        return self.labels(logits) > 0

    def optimize(
        self,
        predict: Callable[[NDArray[np.float32]], torch.Tensor],
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]],
    ) -> None:
        """Choose the thresholds on images with known labels.

        Parameters
        ----------
        predict : callable
            Gives (channels, H, W) logits for a normalised (H, W) image.
        images : sequence of (image, labels)
        """
        step = max(1, len(images) // MOST_CALIBRATION_IMAGES)
        chosen = images[::step][:MOST_CALIBRATION_IMAGES]
        predictions = [self.polygons(predict(image)) for image, _ in chosen]
        truths = [labels for _, labels in chosen]
        self.thresholds = optimize_thresholds(predictions, truths, grid=self.config.grid)

    def state(self) -> dict[str, Any]:
        """Return scale, thresholds, and which of them ended where their search ended."""
        thresholds = {"prob": self.thresholds.prob, "nms": self.thresholds.nms}
        ended = at_bound(self.thresholds)
        return {"scale": self.scale, "thresholds": thresholds, "at_bound": ended}


def typical_radius(labels: Sequence[NDArray[np.integer]]) -> float:
    """Return the median over cells of sqrt(area / pi), in pixels; 10 where there is no cell."""
    areas = [np.bincount(image.ravel())[1:] for image in map(_small_numbers, labels)]
    cells = np.concatenate([a[a > 0] for a in areas]) if areas else np.zeros(0)
    return float(np.sqrt(np.median(cells) / np.pi)) if cells.size else 10.0


def _small_numbers(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    values, index = np.unique(labels, return_inverse=True)
    return index.reshape(labels.shape) + (0 if values[0] == 0 else 1)


def build_task(config: TrialConfig, state: Mapping[str, Any] | None = None) -> Task:
    """Make the task of a configuration.

    Parameters
    ----------
    config : TrialConfig
        Not of stardist's own model, which trains elsewhere.
    state : mapping, optional
        What `Task.state` gave; a star-convex task needs at least ``scale``.
    """
    if config.task == "semantic2":
        return Semantic2(config)
    if config.task == "semantic3":
        return Semantic3(config)
    state = state or {}
    thresholds = Thresholds(**state["thresholds"]) if "thresholds" in state else Thresholds()
    return StarConvex(config, float(state.get("scale", 10.0)), thresholds)
