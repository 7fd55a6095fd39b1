"""Task ``semantic2``: cell or background, as the paper's basic annotation has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.labels import semantic2_target
from trainables.tasks.base import Shape, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config import TrialConfig


class Semantic2(Task):
    """One channel: the logit of being a cell."""

    name = "semantic2"
    short = "2-class"
    settings = ("gap",)
    in_table1 = True
    recipe1 = {"gap": 1}  # noqa: RUF012 - a constant of the class

    @classmethod
    def channels_of(cls, config: TrialConfig) -> int:
        """One."""
        return 1

    @classmethod
    def limited_by(cls, settings: Mapping[str, Any]) -> str:
        """Name the gap."""
        return "2 classes with a gap"

    def target(self, labels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a (1, H, W) target of 0 and 1."""
        return semantic2_target(labels, self.config.gap)[None]

    def loss(self) -> nn.Module:
        """Return the configured loss."""
        from trainables.losses import build_loss

        return build_loss(self.config.loss)

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid of the one channel."""
        return logits[0].sigmoid()

    def ideal(self, target: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Pixels of the target."""
        return np.asarray(target[0] > 0.5)

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return the (1, H, W) foreground probability."""
        return logits.sigmoid().cpu().numpy()
