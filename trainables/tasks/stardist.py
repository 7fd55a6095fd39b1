"""Task ``stardist``: star-convex polygons, decoded as StarDist decodes them.

doi 10.1007/978-3-030-00934-2_30.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.evenly import evenly
from trainables.starconvex import Thresholds, at_bound, decode, optimize_thresholds, star_targets
from trainables.tasks.base import Shape, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config import TrialConfig

MOST_CALIBRATION_IMAGES = 20
"""Number of validation images, evenly spread, on which star-convex thresholds are chosen: their
predictions, of 33 channels each, are held in memory."""


class StarConvex(Task):
    """Object probability and radial distances at every ``config.grid``-th pixel.

    Parameters
    ----------
    config : TrialConfig
    state : mapping, optional
        ``scale``, the typical radius of the training cells in pixels: the unit of the distances'
        output (10 where it is not given); and ``thresholds`` (stardist's defaults).
    """

    name = "stardist"
    short = "star-convex"
    settings = ("rays", "grid")
    own_loss = "stardist"
    keeps_targets = True

    def __init__(self, config: TrialConfig, state: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        state = state or {}
        self.scale = float(state.get("scale", 10.0))
        self.thresholds = Thresholds(**state.get("thresholds", {}))

    @classmethod
    def channels_of(cls, config: TrialConfig) -> int:
        """Return one for the probability, and one per ray."""
        return 1 + config.rays

    @classmethod
    def grid_of(cls, config: TrialConfig) -> int:
        """Return the configured grid: only what is decoded is learnt."""
        return config.grid

    @classmethod
    def limited_by(cls, settings: Mapping[str, Any]) -> str:
        """Name the number of rays: polygons round corners off."""
        return f"{settings['rays']} rays"

    @classmethod
    def for_training(cls, config: TrialConfig, labels: Sequence[NDArray[np.integer]]) -> StarConvex:
        """Measure distances in units of the training cells' typical radius."""
        return cls(config, {"scale": typical_radius(labels)})

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a (1 + rays, h, w) target: only what is decoded is learnt."""
        return star_targets(labels, self.config.rays, self.grid)

    def loss(self) -> nn.Module:
        """Return StarDist's loss."""
        from trainables.starconvex_loss import StarConvexLoss

        return StarConvexLoss(rays=self.config.rays, scale=self.scale)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the object probability."""
        from trainables.starconvex_loss import probability

        return probability(logits[None])[0].reshape(logits.shape[-2:])

    def polygons(self, logits: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return object probability (h, w) and radial distances (rays, h, w) in pixels."""
        from trainables.starconvex_loss import distances

        dist = distances(logits[None].float(), self.scale)[0]
        return self.probability(logits).cpu().numpy(), dist.cpu().numpy()

    def ideal(self, target: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Cells as polygons of the true distances, at default thresholds."""
        return decode(target[0], target[1:], grid=self.grid, shape=shape) > 0

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return what `polygons` returns, in one (1 + rays, h, w) array."""
        prob, dist = self.polygons(logits)
        return np.concatenate([prob[None], dist])

    def labels(self, logits: torch.Tensor, shape: Shape) -> NDArray[np.int32]:
        """Return the decoded (H, W) label image."""
        prob, dist = self.polygons(logits)
        return decode(prob, dist, self.thresholds, grid=self.grid, shape=shape)

    def foreground(self, logits: torch.Tensor, shape: Shape) -> NDArray[np.bool_]:
        """Any decoded instance."""
        return self.labels(logits, shape) > 0

    def tune(
        self,
        predict: Callable[[NDArray[np.float32]], torch.Tensor],
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.integer]]],
    ) -> bool:
        """Choose the thresholds by mean average precision; see `Task.tune`."""
        chosen = evenly(images, MOST_CALIBRATION_IMAGES)
        predictions = [self.polygons(predict(image)) for image, _ in chosen]
        truths = [labels for _, labels in chosen]
        self.thresholds = optimize_thresholds(predictions, truths, grid=self.grid)
        return True

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
    return np.asarray(index.reshape(labels.shape) + (0 if values[0] == 0 else 1))
