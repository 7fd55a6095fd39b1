"""Encoders that segmentation-models-pytorch lacks: VGG and InceptionResNetV2, dilated.

DeepLabV3, DeepLabV3+ and PAN read feature maps at an output stride of 8 or 16, which
segmentation-models-pytorch refuses for encoders that reduce by pooling. Here the last reductions
lose their stride but keep their kernel, and every convolution and pooling after them is dilated
by the stride that was lost (the a-trous algorithm, Holschneider et al. 1989,
doi:10.1007/978-3-642-75988-8_28; Chen et al. 2017, arXiv:1706.05587). The dilated encoder then
computes what the strided one computes, at every pixel instead of every second or fourth: sampled
on the strided encoder's grid its features are the same, borders included, wherever the input's
sides are multiples of 32. Names and shapes of the weights do not change, so pretrained weights
load as they are.

Importing this module registers the encoders as ``<name>-dilated``. With the usual output
stride of 32 they are the library's own.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.encoders import encoders as registry
from segmentation_models_pytorch.encoders.inceptionresnetv2 import InceptionResNetV2Encoder
from segmentation_models_pytorch.encoders.vgg import VGGEncoder
from torch import nn
from torch.nn import functional as F


class DenseMaxPool2d(nn.MaxPool2d):
    """Max pooling at every pixel: stride 1, dilated, output as large as the input.

    The input is padded with minus infinity here, because the built-in padding is at most half
    of the kernel and always the same on both sides.

    Parameters
    ----------
    kernel_size, padding : int
        Those of the strided pooling that this one replaces.
    dilation : int
        Distance of the kernel's taps in pixels.
    """

    def __init__(self, kernel_size: int, padding: int, dilation: int) -> None:
        super().__init__(kernel_size, stride=1, dilation=dilation)
        before = padding * dilation
        after = (kernel_size - 1 - padding) * dilation
        self.margin = (before, after, before, after)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, H, W) to (N, C, H, W)."""
        pooled: torch.Tensor = super().forward(F.pad(input, self.margin, value=float("-inf")))
        return pooled


def dilate(module: nn.Module, rate: int) -> nn.Module:
    """Remove the stride of a module's layers and dilate their kernels instead.

    Parameters
    ----------
    module : Module
        Changed in place, apart from pooling layers, which are replaced.
    rate : int
        Distance of the kernels' taps in pixels; 1 only removes the stride.

    Returns
    -------
    Module
        `module`, or what replaces it when it is itself a pooling.

    Raises
    ------
    ValueError
        For layers whose dilated form is not defined here.
    """
    if isinstance(module, nn.MaxPool2d):
        if isinstance(module, DenseMaxPool2d) or module.dilation != 1 or module.ceil_mode:
            raise ValueError(f"cannot dilate {module}")
        return DenseMaxPool2d(_one(module.kernel_size), _one(module.padding), rate)
    if isinstance(module, nn.Conv2d):
        if module.dilation != (1, 1) or isinstance(module.padding, str):
            raise ValueError(f"cannot dilate {module}")
        # Each side of the kernel on its own: a (1, 7) kernel spreads along its long axis.
        spread = tuple(rate if side > 1 else 1 for side in module.kernel_size)
        module.stride = (1, 1)
        module.dilation = (spread[0], spread[1])
        module.padding = (module.padding[0] * spread[0], module.padding[1] * spread[1])
        return module
    if isinstance(module, nn.AvgPool2d):
        raise ValueError(f"cannot dilate {module}")
    for name, child in list(module.named_children()):
        setattr(module, name, dilate(child, rate))
    return module


def _one(size: int | tuple[int, ...]) -> int:
    """Return the side of a square window."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"cannot dilate a pooling with the uneven window {size}")
    return int(sides.pop())


def _check_output_stride(output_stride: int) -> None:
    if output_stride not in (8, 16):
        raise ValueError(f"output stride must be 8 or 16, got {output_stride}")


class DilatedVGGEncoder(VGGEncoder):
    """VGG of smp that also works with output strides of 16 and 8."""

    def make_dilated(self, output_stride: int) -> None:
        """Change the network in place to an output stride of 8 or 16."""
        _check_output_stride(output_stride)
        stride = rate = 1
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
                if stride > output_stride:
                    self.features[index] = dilate(layer, rate)
                    rate *= 2
            elif rate > 1:
                dilate(layer, rate)


class DilatedInceptionResNetV2Encoder(InceptionResNetV2Encoder):
    """InceptionResNetV2 of smp that also works with output strides of 16 and 8."""

    def make_dilated(self, output_stride: int) -> None:
        """Change the network in place to an output stride of 8 or 16."""
        _check_output_stride(output_stride)
        rate = 1
        for stride, reduction, blocks in (
            (16, self.mixed_6a, (self.repeat_1,)),
            (32, self.mixed_7a, (self.repeat_2, self.block8, self.conv2d_7b)),
        ):
            if stride > output_stride:
                # A reduction's strided layers are the last of their branches: what comes
                # before them still runs on the grid of the reduction's input.
                dilate(reduction, rate)
                rate *= 2
                for block in blocks:
                    dilate(block, rate)


DILATED: dict[str, str] = {
    "inceptionresnetv2": "inceptionresnetv2-dilated",
    "vgg11": "vgg11-dilated",
    "vgg11_bn": "vgg11_bn-dilated",
    "vgg13": "vgg13-dilated",
    "vgg13_bn": "vgg13_bn-dilated",
    "vgg16": "vgg16-dilated",
    "vgg16_bn": "vgg16_bn-dilated",
    "vgg19": "vgg19-dilated",
    "vgg19_bn": "vgg19_bn-dilated",
}
"""Library name to registered name. The beginning is kept, as smp's decoders look for ``vgg``."""

for _name, _registered in DILATED.items():
    _class = DilatedVGGEncoder if _name.startswith("vgg") else DilatedInceptionResNetV2Encoder
    registry[_registered] = {**registry[_name], "encoder": _class}
