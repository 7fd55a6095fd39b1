"""What training, evaluation and prediction need to know of a task. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config import TrialConfig

Shape = tuple[int, int]


class Task:
    """The network's part in a way of making cells.

    A subclass is the record of one task: its class attributes are what plans and tables ask
    for, which import no torch; its methods are what training and prediction call. The other half
    of a way, from maps to single cells, is in `analysis.instances`.

    Parameters
    ----------
    config : TrialConfig
    state : mapping, optional
        Result of `state` when the checkpoint was written.
    """

    name: ClassVar[str]
    """Value of ``TrialConfig.task``."""
    short: ClassVar[str]
    """The last part of a network's name for people: ``2-class``."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields of `TrialConfig` that this task reads and others may not."""
    own_loss: ClassVar[str | None] = None
    """The one loss that fits the task's targets; None: any loss on pixels."""
    class_names: ClassVar[tuple[str, ...]] = ()
    """Classes whose IoU is recorded besides that of the foreground; after every epoch only that of
    classes which `trainables.config.EpochRecord` has a field for."""
    in_table1: ClassVar[bool] = False
    """Whether the networks of the paper's Table 1 learnt this, so that their numbers are compared
    with ours."""
    keeps_targets: ClassVar[bool] = False
    """Whether targets are slow to make, so that those of validation images are kept."""
    recipe1: ClassVar[Mapping[str, Any]] = {}
    """Settings that recipe 1 did not record, and what they were."""

    channels: int
    """Output channels of the network."""
    grid: int
    """Logits and targets hold every `grid`-th pixel in both directions."""

    def __init__(self, config: TrialConfig, state: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.channels, self.grid = self.channels_of(config), self.grid_of(config)

    @classmethod
    def channels_of(cls, config: TrialConfig) -> int:
        """Return the output channels of a configuration's network."""
        raise NotImplementedError

    @classmethod
    def grid_of(cls, config: TrialConfig) -> int:
        """Return the distance in pixels, in both directions, of logits and targets."""
        return 1

    @classmethod
    def limited_by(cls, settings: Mapping[str, Any]) -> str:
        """Say what keeps a perfect network's IoU below 1, for given fields of `TrialConfig`."""
        return f"the targets of task {cls.name}"

    @classmethod
    def for_training(cls, config: TrialConfig, labels: Sequence[NDArray[np.integer]]) -> Task:
        """Make the task of a new trial from its training label images."""
        return cls(config)

    def target(self, labels: NDArray[np.integer]) -> NDArray[Any]:
        """Make the training target, without batch axis, from an (H, W) label image."""
        raise NotImplementedError

    def loss(self) -> nn.Module:
        """Make the loss: called with logits (N, channels, H, W) and a batch of targets."""
        raise NotImplementedError

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the (h, w) probability of any cell for (channels, h, w) logits."""
        raise NotImplementedError

    def foreground(self, logits: torch.Tensor, shape: Shape) -> NDArray[np.bool_]:
        """Return the (H, W) mask of any cell for the logits of an image of that shape."""
        return (self.probability(logits) >= 0.5).cpu().numpy()

    def ideal(self, target: NDArray[Any], shape: Shape) -> NDArray[np.bool_]:
        """Return the (H, W) mask of any cell that a target itself gives, as perfect outputs would:
        the ceiling of what can be reached.
        """
        raise NotImplementedError

    def maps(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """Return the maps from which instances are made, for (channels, h, w) logits.

        Foreground probability (1, H, W) for two classes, class probabilities (3, H, W) for
        three, probability and distances (1 + rays, h, w) of every ``config.grid``-th pixel for a
        star-convex head; what its way in `analysis.instances` reads for any other task.
        """
        raise NotImplementedError

    def classes(self, logits: torch.Tensor) -> NDArray[np.uint8]:
        """Return the most probable of `class_names` for each pixel, (H, W)."""
        raise NotImplementedError

    def labels(self, logits: torch.Tensor, shape: Shape) -> NDArray[np.int32]:
        """Return the (H, W) label image, of tasks whose outputs are instances.

        Raises
        ------
        ValueError
            For other tasks; `analysis.instances` makes their instances.
        """
        raise ValueError(f"task {self.config.task!r} predicts classes, not instances")

    def tune(
        self,
        predict: Callable[[NDArray[np.float32]], torch.Tensor],
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.integer]]],
    ) -> bool:
        """Choose what prediction needs besides the weights, on validation images.

        Parameters
        ----------
        predict : callable
            Gives (channels, h, w) logits for a normalised (H, W) image.
        images : sequence of (image, labels)

        Returns
        -------
        bool
            Whether there was anything to choose; predictions may then differ from earlier ones.
        """
        return False

    def state(self) -> dict[str, Any]:
        """Return what prediction needs besides weights and configuration, for JSON."""
        return {}
