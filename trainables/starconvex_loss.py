"""The loss of a star-convex head, and the meaning of its raw outputs."""

from __future__ import annotations

import torch
from torch import nn

DISTANCE_WEIGHT = 0.2
"""StarDist's default weight of the distances' error."""
BACKGROUND_WEIGHT = 1e-4
"""StarDist's regularisation of distances in the background."""


def probability(raw: torch.Tensor) -> torch.Tensor:
    """Return object probabilities (N, H, W) of raw outputs (N, 1 + rays, H, W)."""
    return torch.sigmoid(raw[:, 0])


def distances(raw: torch.Tensor, scale: float) -> torch.Tensor:
    """Return radial distances (N, rays, H, W) in pixels of raw outputs (N, 1 + rays, H, W).

    Softplus keeps them positive. The raw outputs are in units of `scale`, a typical radius in
    pixels.
    """
    return nn.functional.softplus(raw[:, 1:]) * scale


class StarConvexLoss(nn.Module):
    """Binary cross-entropy of the object probability, plus weighted error of the distances.

    As in StarDist (Schmidt et al. 2018, doi:10.1007/978-3-030-00934-2_30), the absolute error of
    distances is weighted by the true object probability. Here it is in units of a typical radius,
    so that the balance of both terms does not depend on the size of the cells.

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
