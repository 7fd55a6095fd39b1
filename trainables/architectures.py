"""The networks: eight architectures on any encoder of segmentation-models-pytorch."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from torch import nn

from trainables.config import architecture_name


def build_model(
    architecture: str,
    encoder: str,
    *,
    in_channels: int = 1,
    classes: int = 1,
    encoder_weights: str | None = None,
) -> nn.Module:
    """Build a network (first form)."""
    return getattr(smp, architecture_name(architecture))(
        encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=classes
    )
