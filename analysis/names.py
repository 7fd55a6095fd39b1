"""What people read: one name for each network, the same in tables, figures and text."""

from __future__ import annotations

import re

from analysis.instances.methods import WAYS
from trainables.config import STARDIST

ARCHITECTURES = {
    "Unet": "U-Net",
    "UnetPlusPlus": "U-Net++",
    "MAnet": "MA-Net",
    "Linknet": "LinkNet",
    "DeepLabV3Plus": "DeepLabV3+",
}
"""As the paper writes them, where that differs from what configurations say."""
ENCODERS = {"inceptionresnetv2": "InceptionResNetV2", "vgg16": "VGG16", "vgg19": "VGG19"}
FAMILIES = {"resnet": "ResNet", "resnext": "ResNeXt", "resnest": "ResNeSt"}
OWN_ENCODER = "own encoder"


def network_name(architecture: str, encoder: str, task: str) -> str:
    """Return the name of a network.

    Examples
    --------
    >>> network_name("Unet", "resnet18", "semantic3")
    'U-Net, ResNet-18, 3-class'
    >>> network_name("StarDist", "none", "stardist")
    'StarDist'
    """
    if architecture == STARDIST:
        return architecture_name(architecture)
    return f"{architecture_name(architecture)}, {encoder_name(encoder)}, {task_name(task)}"


def architecture_name(architecture: str) -> str:
    """Return the name of an architecture; one that the paper does not have keeps its own."""
    return ARCHITECTURES.get(architecture, architecture)


def encoder_name(encoder: str) -> str:
    """Return the name of an encoder; stardist's own model has none that could be exchanged.

    Examples
    --------
    >>> [encoder_name(name) for name in ("resnext101_32x32d", "vgg19", "own_net", "none")]
    ['ResNeXt-101 32x32d', 'VGG19', 'own_net', 'own encoder']
    """
    if encoder in ("", "none"):
        return OWN_ENCODER
    parts = re.fullmatch(r"(resnet|resnext|resnest)(\d+)(?:_(\w+))?", encoder)
    if parts is None:
        return ENCODERS.get(encoder, encoder)
    family, depth, variant = parts.groups()
    return " ".join(filter(None, (f"{FAMILIES[family]}-{depth}", variant)))


def task_name(task: str) -> str:
    """Return how a task makes cells; one without a way of its own is called as it is."""
    return WAYS[task].short if task in WAYS else task
