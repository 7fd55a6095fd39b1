"""Task ``semantic3``: background, cell, boundary; the boundary belongs to the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.labels import BACKGROUND, CLASS_NAMES, semantic3_target
from trainables.tasks.base import Shape, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config import TrialConfig


class Semantic3(Task):
    """Three channels: the logits of the classes."""

    name = "semantic3"
    short = "3-class"
    settings = ("boundary",)
    class_names = CLASS_NAMES

    @classmethod
    def channels_of(cls, config: TrialConfig) -> int:
        """Three."""
        return len(CLASS_NAMES)

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return an (H, W) target of class numbers."""
        return semantic3_target(labels, self.config.boundary)

    def loss(self) -> nn.Module:
        """Return the configured loss, over classes."""
        from trainables.losses import build_loss

        return build_loss(self.config.loss, classes=self.channels)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probability of not being background."""
        return 1 - logits.softmax(0)[0]

    def ideal(self, target: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Cell and boundary of the target."""
        return np.asarray(target != BACKGROUND)

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return the (3, H, W) probabilities of the classes."""
        return logits.softmax(0).cpu().numpy()

    def classes(self, logits: torch.Tensor) -> NDArray[np.uint8]:
        """Return the most probable class of each pixel, (H, W)."""
        return logits.argmax(0).byte().cpu().numpy()
