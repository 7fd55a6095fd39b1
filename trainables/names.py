"""One name for each network, the same on the screen, in tables, figures and text."""

from __future__ import annotations

import re

from trainables.config import STARDIST
from trainables.tasks import TASKS

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

    Parameters
    ----------
    architecture, encoder, task : str
        As `TrialConfig` has them; an encoder that is "none" or empty is not named.

    Examples
    --------
    >>> network_name("Unet", "resnet18", "semantic3")
    'U-Net, ResNet-18, 3-class'
    >>> network_name("mynet:build", "none", "semantic2")
    'mynet:build, 2-class'
    >>> network_name("StarDist", "none", "stardist")
    'StarDist'
    """
    if architecture == STARDIST:
        return architecture_name(architecture)
    chosen = [] if encoder in ("", "none") else [encoder_name(encoder)]
    return ", ".join([architecture_name(architecture), *chosen, task_name(task)])


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
    """Return the name of a task; one that is not registered here is called as it is."""
    return TASKS[task].short if task in TASKS else task
