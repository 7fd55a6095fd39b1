"""The networks: eight architectures on any encoder of segmentation-models-pytorch, and others'."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from trainables import extensions
from trainables.config import NO_ENCODER, SMALLEST_CROP, STARDIST, architecture_name
from trainables.encoders.dilated import DILATED
from trainables.encoders.names import TIMM_NAMES, check_encoder
from trainables.encoders.weights import load_into
from trainables.errors import TrainingError

__all__ = ["build_model"]

Builder = Callable[..., nn.Module]
"""Called as ``build(encoder, in_channels=1, classes=C, encoder_weights=None)``, the encoder's name
being segmentation-models-pytorch's; gives a network for images (N, 1, H, W) whose output is logits
(N, C, H, W). Encoder weights are loaded into its part named ``encoder`` afterwards."""

NETWORKS: dict[str, Builder] = {
    "Unet": smp.Unet,
    "UnetPlusPlus": smp.UnetPlusPlus,
    "MAnet": smp.MAnet,
    "Linknet": smp.Linknet,
    "FPN": smp.FPN,
    "DeepLabV3": smp.DeepLabV3,
    "DeepLabV3Plus": smp.DeepLabV3Plus,
    "PAN": smp.PAN,
}
"""Architecture name to class."""

ENCODERS: dict[str, str] = {
    **DILATED,
    **TIMM_NAMES,
}
"""Encoder name to smp's name, where they differ."""

# smp and timm refuse combinations in many ways: KeyError and NotImplementedError are among them.
_BUILD_ERRORS = (AssertionError, LookupError, RuntimeError, TypeError, ValueError)


def build_model(
    architecture: str,
    encoder: str,
    *,
    in_channels: int = 1,
    classes: int = 1,
    encoder_weights: str | Path | None = None,
) -> nn.Module:
    """Build a network that gives one logit per pixel and class.

    The network takes images (N, in_channels, H, W), float, and gives logits
    (N, classes, H, W), float; H and W are multiples of `input_divisor`. Its decoder is
    initialised at random, from torch's generator.

    Parameters
    ----------
    architecture : str
        One of `trainables.config.ARCHITECTURES`; case and punctuation do not matter. Or another's
        that `trainables.extensions` knows: its code is imported.
    encoder : str
        One of `trainables.config.PAPER_ENCODERS`, any encoder of segmentation-models-pytorch,
        or ``tu-<name>`` for timm's.
    in_channels : int
        Channels of the images.
    classes : int
        Channels of the output: any number, for a star-convex head as well.
    encoder_weights : str or path, optional
        None or ``none`` initialises the encoder at random; otherwise a weights file
        (`trainables.encoders.weights.fetch` gives one).

    Returns
    -------
    Module
        In training mode, on the CPU (or torch's default device), float32.

    Raises
    ------
    ValueError
        For names that are not known, encoders that the architecture cannot use, and weights
        that do not fit.
    """
    architecture = architecture_name(architecture)
    if architecture == STARDIST:
        raise ValueError(f"{STARDIST} is stardist's own model; it is not built from an encoder")
    builder = NETWORKS.get(architecture)
    if builder is None:
        builder = extensions.load_object(architecture, extensions.ARCHITECTURES)
        model = build_own(builder, architecture, encoder, in_channels=in_channels, classes=classes)
    else:
        name = _smp_name(encoder)
        try:
            model = builder(name, in_channels=in_channels, classes=classes, encoder_weights=None)
        except _BUILD_ERRORS as error:
            raise _unusable(architecture, encoder, error) from error
    if encoder_weights is not None and str(encoder_weights).lower() != "none":
        load_into(_encoder_of(model, architecture), encoder_weights)
    return model


def _encoder_of(model: nn.Module, architecture: str) -> nn.Module:
    if not hasattr(model, "encoder"):
        raise ValueError(
            f"{architecture} has no part named encoder that weights could be loaded into; use "
            "encoder_weights=none"
        )
    return model.get_submodule("encoder")


def build_own(
    builder: Builder, name: str, encoder: str, *, in_channels: int = 1, classes: int = 1
) -> nn.Module:
    """Build a network that is not this project's; its output is checked whenever it is used.

    Parameters
    ----------
    builder : Builder
    name : str
        For messages.
    encoder : str
        ``none`` where there is none to choose.
    in_channels, classes
        As for `build_model`.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        When the builder fails, or does not give a module.
    """
    given = encoder if encoder == NO_ENCODER else _smp_name(encoder)
    try:
        model = builder(given, in_channels=in_channels, classes=classes, encoder_weights=None)
    except Exception as error:  # the builder is the user's own code
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"{name}({given!r}, in_channels={in_channels}, classes={classes}, "
            f"encoder_weights=None) raises {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gives a {type(model).__name__}, not a torch.nn.Module")

    def check(_: nn.Module, images: tuple[torch.Tensor, ...], logits: Any) -> None:
        wanted = (len(images[0]), classes, *images[0].shape[2:])
        shape = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        if shape != wanted:
            raise TrainingError(
                f"{name} gives {shape} for images of {tuple(images[0].shape)}; it must give "
                f"logits of {wanted}"
            )

    model.register_forward_hook(check)
    return model


def _smp_name(encoder: str) -> str:
    """Check an encoder's name, and return the one by which smp knows it."""
    check_encoder(encoder)
    name = ENCODERS.get(encoder, encoder)
    if name.startswith("tu-"):
        _check_timm(name)
    return name


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, trained or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


SMALLEST_INPUT = SMALLEST_CROP
"""Smallest height and width of the input in pixels, where it is not `input_divisor`."""


def input_divisor(model: nn.Module) -> int:
    """Return what the height and width of a network's input must be multiples of.

    Parameters
    ----------
    model : Module
        Made by `build_model`.

    Returns
    -------
    int
        8 for DeepLabV3, 16 for DeepLabV3+ and PAN, 32 for the other architectures.
    """
    encoder: Any = model.encoder
    return int(encoder.output_stride)


def _check_timm(name: str) -> None:
    """Check that timm has the model ``tu-<model>[.<tag>]``, and the weights' tag if given."""
    model, _, tag = name.removeprefix("tu-").partition(".")
    if not timm.is_model(model):
        close = get_close_matches(model, timm.list_models())
        hint = f"; similar: {', '.join(f'tu-{match}' for match in close)}" if close else ""
        raise ValueError(
            f"unknown encoder {name!r}: timm {timm.__version__} has no {model!r}{hint}"
        )
    if tag:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(model)]
        if tag not in tags:
            raise ValueError(f"unknown encoder {name!r}: its tags in timm are {', '.join(tags)}")


def _unusable(architecture: str, encoder: str, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"{architecture} cannot use encoder {encoder!r}: {lines[0]}")
