"""The star-convex head's loss, and what its raw outputs mean."""

from __future__ import annotations

import torch
from torch import nn

DISTANCE_WEIGHT = 0.2
"""StarDist's default weight of the distances' error."""
BACKGROUND_WEIGHT = 1e-4
"""StarDist's regularisation of distances where there is no object."""


def probability(raw: torch.Tensor) -> torch.Tensor:
    """Return object probabilities (N, H, W) of raw outputs (N, 1 + rays, H, W)."""
    return torch.sigmoid(raw[:, 0])


def distances(raw: torch.Tensor, scale: float) -> torch.Tensor:
    """Return radial distances (N, rays, H, W) in pixels of raw outputs (N, 1 + rays, H, W).

    Softplus keeps them positive; `scale`, a typical radius in pixels, is the raw outputs' unit.
    """
    return nn.functional.softplus(raw[:, 1:]) * scale


class StarConvexLoss(nn.Module):
    """Binary cross-entropy of the object probability, plus weighted error of the distances.

    As StarDist trains (Schmidt et al. 2018): the absolute error of distances counts by the true
    object probability; here in units of a typical radius, so that both terms keep their balance
    whatever the cells' size.

    Parameters
    ----------
    rays : int
    scale : float
        Typical radius, in pixels.
    """

    def __init__(self, rays: int, scale: float) -> None:
        super().__init__()
        self.rays, self.scale = rays, scale

    def forward(self, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of (N, 1 + rays, H, W) outputs and targets as a scalar tensor."""
        prob = target[:, :1]
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(raw[:, :1], prob)
        found = distances(raw, self.scale)
        error = (found - target[:, 1:]).abs() / self.scale
        weighted = (error * prob).mean() / (prob.mean() + 1e-6)
        outside = ((found / self.scale).abs() * (prob <= 0)).mean()
        return cross_entropy + DISTANCE_WEIGHT * weighted + BACKGROUND_WEIGHT * outside
