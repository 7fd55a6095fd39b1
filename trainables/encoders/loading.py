"""Load encoder weights: drop classifier heads, turn colour into grey, check everything else."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Files that can be read without executing anything in them."""

HEADS = ("classifier", "fc", "_fc", "last_linear", "linear", "head", "AuxLogits")
"""Modules of classifiers that encoders lack, unless timm names them itself."""


class WeightsError(ValueError):
    """Weights that do not exist, cannot be downloaded, or do not fit; one line says which."""


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read named tensors, and nothing else, from a file.

    Parameters
    ----------
    path : str or path
        A state dict: ``.safetensors``, ``.pth`` or ``.pt``; it may be inside a dictionary, under
        ``state_dict`` or ``model``.

    Raises
    ------
    WeightsError
        When the file cannot be read or contains anything else.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights files end in {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever the file makes it raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{path} cannot be read: {lines[0]}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path} is not a state dict: it may contain only named tensors")
    # Weights of a whole network: only the encoder's are wanted.
    inner = {key.removeprefix("encoder."): state[key] for key in state if key[:8] == "encoder."}
    return inner or dict(state)


def load_into(encoder: nn.Module, path: str | Path) -> None:
    """Load weights into an encoder.

    For an encoder of grey images, the weights for red, green and blue are summed. It then gives
    the same result as the colour encoder for three equal channels. For other numbers
    of channels they are repeated in turn and scaled by 3 / channels, as smp and timm do.

    Parameters
    ----------
    encoder : Module
        The ``encoder`` of a network of `trainables.architectures.build_model`.
    path : str or path
        Local file. Its names are those of smp or torchvision, or timm's for ``tu-`` encoders.

    Raises
    ------
    WeightsError
        When a tensor is missing, left over or of another shape; classifier heads are ignored.
    """
    state = read_state(path)
    if hasattr(encoder, "model") and type(encoder).__name__.startswith("Timm"):
        state = _names_of_timm(encoder, state, path)
    expected = encoder.state_dict()
    if any("denselayer" in key for key in expected):
        # torchvision's first DenseNet files write norm.1 for norm1.
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
        state = {old.sub(r"\1\2", key): value for key, value in state.items()}
    state = {
        key: value
        for key, value in state.items()
        if key in expected or key.partition(".")[0] not in HEADS
    }
    for key, value in state.items():
        if key in expected:
            state[key] = to_channels(value, expected[key].shape)
    _check(state, expected, path)
    encoder.load_state_dict(state)


def to_channels(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Turn the weights (out, 3, h, w) of a first convolution to (out, channels, h, w).

    Parameters
    ----------
    weight : Tensor
        Any; only weights for three channels are changed.
    shape : tuple of int
        Shape that is needed.

    Returns
    -------
    Tensor
        Of that shape when nothing but the number of input channels differed.
    """
    import torch

    shape = tuple(shape)
    fits = weight.ndim == 4 and weight.shape[1] == 3 and shape[1:2] != (3,)
    if (
        not fits
        or len(shape) != 4
        or (weight.shape[0], *weight.shape[2:])
        != (
            shape[0],
            *shape[2:],
        )
    ):
        return weight
    if shape[1] == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(shape[1]) % 3] * (3 / shape[1])


def _check(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: str | Path
) -> None:
    # Files older than 2018 lack these counters, which only matter for a momentum of None.
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in state]
    extra = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in state
        if key in expected and state[key].shape != expected[key].shape
    ]
    found = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (("missing", missing), ("unknown", extra), ("of wrong shape", shapes))
        if names
    ]
    if found:
        raise WeightsError(
            f"{path} does not fit the encoder: of {len(needed)} tensors {'; '.join(found)}"
        )


def _names_of_timm(
    encoder: nn.Module, state: dict[str, torch.Tensor], path: str | Path
) -> dict[str, torch.Tensor]:
    """Turn the names of a file of timm's into those of smp's wrapper around timm's features.

    The file is checked against timm's whole network, because the wrapper leaves out the layers
    behind the last feature map.
    """
    import timm
    import torch

    expected = encoder.state_dict()
    if all(key in expected for key in state):
        return state
    name = str(encoder.name)
    channels = int(encoder._in_channels)  # type: ignore[arg-type]
    try:
        with torch.device("meta"):
            whole = timm.create_model(name, in_chans=channels)
    except (NotImplementedError, RuntimeError):  # networks that compute while they are made
        whole = timm.create_model(name, in_chans=channels)
    reference = whole.state_dict()
    if any(key not in reference for key in state):
        module = sys.modules[timm.models.model_entrypoint(name.partition(".")[0]).__module__]
        if convert := getattr(module, "checkpoint_filter_fn", None):
            state = convert(state, whole)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    is_head = tuple(f"{head}." for head in heads)
    state = {
        key: to_channels(value, reference[key].shape) if key in reference else value
        for key, value in state.items()
        if not is_head or not key.startswith(is_head)
    }
    reference = {
        key: value for key, value in reference.items() if not is_head or not key.startswith(is_head)
    }
    _check(state, reference, path)
    named: dict[str, torch.Tensor] = {}
    for key in expected:
        inner = key.removeprefix("model.")
        # The wrapper flattens containers: stages_0.x in it is stages.0.x in the file.
        nested = re.sub(r"^([^.]+)_([^_.]+)\.", r"\1.\2.", inner)
        for candidate in (inner, nested, inner.removeprefix("model.")):
            if candidate in state:
                named[key] = state[candidate]
                break
    return named
