"""Training losses by name; those of segmentation-models-pytorch, on logits."""

from __future__ import annotations

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch import nn


class Dice(nn.Module):
    """Dice loss over the whole batch, the paper's choice."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.loss = smp.losses.DiceLoss(mode, from_logits=True)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        return self.loss(logits, target)


class CrossEntropy(nn.Module):
    """Mean cross-entropy per pixel, binary or over classes."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.binary = mode == "binary"

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        if self.binary:
            return nn.functional.binary_cross_entropy_with_logits(logits, target)
        return nn.functional.cross_entropy(logits, target)


class DiceCrossEntropy(nn.Module):
    """Sum of Dice loss and cross-entropy, as nnU-Net trains."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.dice, self.cross_entropy = Dice(mode), CrossEntropy(mode)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        return self.dice(logits, target) + self.cross_entropy(logits, target)


LOSSES: dict[str, Callable[[str], nn.Module]] = {
    "dice": Dice,
    "jaccard": lambda mode: smp.losses.JaccardLoss(mode, from_logits=True),
    "focal": lambda mode: smp.losses.FocalLoss(mode),
    "tversky": lambda mode: smp.losses.TverskyLoss(mode, from_logits=True, alpha=0.3, beta=0.7),
    "lovasz": lambda mode: smp.losses.LovaszLoss(mode, per_image=False),
    "cross_entropy": CrossEntropy,
    "dice_cross_entropy": DiceCrossEntropy,
}


def build_loss(name: str, *, classes: int = 1) -> nn.Module:
    """Make the loss of a given name.

    Parameters
    ----------
    name : str
        A key of `LOSSES`.
    classes : int
        1: binary, targets float (N, 1, H, W) of 0 and 1; above: targets int64 (N, H, W).

    Returns
    -------
    torch.nn.Module
        Called with logits (N, classes, H, W) and a target; gives a scalar.

    Raises
    ------
    ValueError
        When the name is not known.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]("binary" if classes == 1 else "multiclass")
