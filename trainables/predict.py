"""Predict foreground probability, masks and label images from whole images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.config import TrialConfig
from trainables.data.normalization import Intensities, normalize
from trainables.errors import NoGpu
from trainables.machine.hardware import cpu_computes_bf16, pretended_gpu
from trainables.memory import is_out_of_memory
from trainables.tasks import Task
from trainables.tiling import STRIDE, Inference, stored_inference, tiled

SMALLEST = 128
"""Smaller images are padded to this side, which every network accepts."""


@dataclass(frozen=True)
class Scaling:
    """What the network was trained to see: ``(x - mean) / std`` of normalised images."""

    mean: float
    std: float
    intensities: Intensities | None = None
    """Raw intensities that become 0 and 1; None: percentiles of each image."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Standardise a batch."""
        return (x - self.mean) / self.std


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return cpu_computes_bf16()


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means here.

    ``cuda`` is always ``cuda:0``, because parts of torch refuse a GPU without a number. If GPUs
    are pretended (`trainables.machine.hardware.PRETEND`), it is the CPU.

    Raises
    ------
    NoGpu
        When a GPU is asked for and torch sees none.
    """
    if name == "cpu" or pretended_gpu() is not None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name == "auto":
            return torch.device("cpu")
        raise NoGpu(
            "torch sees no GPU here; check nvidia-smi, CUDA_VISIBLE_DEVICES and torch's version"
        )
    return torch.device("cuda:0" if name in ("auto", "cuda") else name)


def why_no_gpu() -> str | None:
    """Say in one line why torch cannot compute on the GPU of this process; None if it can, or could
    if other processes freed memory.
    """
    try:
        device = resolve_device("cuda")
        float(torch.ones(2, device=device).sum())
    except (NoGpu, RuntimeError) as error:
        if not is_out_of_memory(error):
            return (str(error).splitlines() or ["no message"])[0]
    return None


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return Lightning's name for the precision of a configuration on a device."""
    if precision == "bf16" or (precision == "auto" and computes_bf16(device)):
        return "bf16-mixed"
    return "32-true"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a network runs in `resolve_precision`'s precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def pad_to_stride(image: torch.Tensor, stride: int = STRIDE) -> tuple[torch.Tensor, slice, slice]:
    """Mirror an image's borders so that both sides become multiples of `stride`, and no side
    is shorter than `SMALLEST`.

    Parameters
    ----------
    image : (N, C, H, W) tensor
    stride : int

    Returns
    -------
    padded : (N, C, H', W') tensor
    rows, columns : slice
        Where the image lies in it.
    """
    height, width = image.shape[-2:]
    extra_y = max((-height) % stride, SMALLEST - height)
    extra_x = max((-width) % stride, SMALLEST - width)
    top, left = extra_y // 2, extra_x // 2
    padding = (left, extra_x - left, top, extra_y - top)
    # mirroring needs a side longer than the padding; tiny images repeat their border instead
    mode = "reflect" if max(extra_y, extra_x) < min(height, width) else "replicate"
    padded = nn.functional.pad(image, padding, mode=mode)
    return padded, slice(top, top + height), slice(left, left + width)


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    image: NDArray[np.float32],
    scaling: Scaling,
    precision: str,
    *,
    inference: Inference,
    grid: int = 1,
) -> torch.Tensor:
    """Run a network in evaluation mode on a normalised image, as a whole or in blended tiles.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode already.
    image : (H, W) float32 array
        As `trainables.data.normalize` gives it for the whole image.
    scaling : Scaling
    precision : str
        As `resolve_precision` gives it.
    inference : Inference
        Whether to use tiles, and of which size.
    grid : int
        Keep only the logits of every `grid`-th pixel in both directions.

    Returns
    -------
    (classes, ceil(H / grid), ceil(W / grid)) float32 tensor
        On the network's device; with tiles, on the CPU.
    """
    device = next(network.parameters()).device

    def once(part: NDArray[np.float32]) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(part))[None, None].to(device)
        padded, rows, columns = pad_to_stride(scaling(x))
        with autocast(precision, device):
            logits: torch.Tensor = network(padded.contiguous(memory_format=torch.channels_last))
        return logits[0, :, rows, columns][:, ::grid, ::grid].float()

    side = inference.side(image.shape)
    if side is None:
        return once(image)
    return torch.from_numpy(tiled(lambda part: once(part).cpu().numpy(), image, side, grid=grid))


class Predictor:
    """A trained network with everything needed to predict from raw images.

    Attributes
    ----------
    config : TrialConfig
    network : torch.nn.Module
        In evaluation mode.
    task : Task
    info : dict
        What `checkpoint.json` says besides the configuration: data fingerprint, versions.
    """

    def __init__(
        self,
        config: TrialConfig,
        network: nn.Module,
        scaling: Scaling,
        task: Task,
        info: dict[str, Any],
    ) -> None:
        self.config, self.network, self.scaling, self.info = config, network.eval(), scaling, info
        self.task = task
        self.inference = stored_inference(info)

    def to(self, device: str | torch.device) -> Predictor:
        """Move the network to a device."""
        self.network.to(device)
        return self

    def close(self) -> None:
        """Do nothing: the network goes with the object. StarDist's own model has a process."""

    def logits(self, image: NDArray[Any]) -> torch.Tensor:
        """Run the network on a raw image.

        Parameters
        ----------
        image : (H, W) array
            Raw intensities, of any integer or float type; normalised here as in training.

        Returns
        -------
        (channels, h, w) float32 tensor
            For every ``task.grid``-th pixel in both directions.
        """
        return self._logits(self.normalize(image), self.inference)

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Scale a raw (H, W) image as the training images were scaled: (H, W) float32."""
        return normalize(image, self.config.normalization, self.scaling.intensities)

    def _logits(self, normalized: NDArray[np.float32], inference: Inference) -> torch.Tensor:
        device = next(self.network.parameters()).device
        precision = resolve_precision(self.config.precision, device)
        return predict_logits(
            self.network,
            normalized,
            self.scaling,
            precision,
            inference=inference,
            grid=self.task.grid,
        )

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        """Run the network on a normalised image.

        Parameters
        ----------
        normalized : (H, W) float32 array
            As `normalize` gives it for the whole image.
        inference : Inference, optional
            Whether to use tiles, and of which size; None: as the checkpoint says.

        Returns
        -------
        (C, h, w) float32 array
            Maps from which instances are made, as `trainables.tasks.Task.maps` gives them.
        """
        return self.task.maps(self._logits(normalized, inference or self.inference))

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Predict the probability of foreground of each pixel.

        Parameters
        ----------
        image : (H, W) array
            As for `logits`.

        Returns
        -------
        (H, W) float32 array in [0, 1]
            Probability of any cell. For a star-convex head it is the object probability, which
            falls towards a cell's edge.
        """
        probability = self.task.probability(self.logits(image)).cpu().numpy()
        grid = self.task.grid
        full = probability if grid == 1 else probability.repeat(grid, 0).repeat(grid, 1)
        return full[: image.shape[0], : image.shape[1]]

    def foreground(self, image: NDArray[Any]) -> NDArray[np.bool_]:
        """Predict which pixels belong to a cell, as the ranking counts them: (H, W)."""
        return self.task.foreground(self.logits(image), (image.shape[0], image.shape[1]))

    def labels(self, image: NDArray[Any]) -> NDArray[np.int32]:
        """Predict the (H, W) label image of a star-convex head.

        Raises
        ------
        ValueError
            For other tasks; `analysis.instances` makes their instances.
        """
        return self.task.labels(self.logits(image), (image.shape[0], image.shape[1]))
