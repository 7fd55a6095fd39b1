"""Which encoders and weights exist. Imports no torch."""

from __future__ import annotations

from difflib import get_close_matches

from trainables.config import PAPER_ENCODERS

SMP_ENCODERS: tuple[str, ...] = (
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "dpn107",
    "dpn131",
    "dpn68",
    "dpn68b",
    "dpn92",
    "dpn98",
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
    "inceptionresnetv2",
    "inceptionv4",
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mit_b3",
    "mit_b4",
    "mit_b5",
    "mobilenet_v2",
    "mobileone_s0",
    "mobileone_s1",
    "mobileone_s2",
    "mobileone_s3",
    "mobileone_s4",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x16d",
    "resnext101_32x32d",
    "resnext101_32x48d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext50_32x4d",
    "se_resnet101",
    "se_resnet152",
    "se_resnet50",
    "se_resnext101_32x4d",
    "se_resnext50_32x4d",
    "senet154",
    "timm-efficientnet-b0",
    "timm-efficientnet-b1",
    "timm-efficientnet-b2",
    "timm-efficientnet-b3",
    "timm-efficientnet-b4",
    "timm-efficientnet-b5",
    "timm-efficientnet-b6",
    "timm-efficientnet-b7",
    "timm-efficientnet-b8",
    "timm-efficientnet-l2",
    "timm-skresnet18",
    "timm-skresnet34",
    "timm-skresnext50_32x4d",
    "timm-tf_efficientnet_lite0",
    "timm-tf_efficientnet_lite1",
    "timm-tf_efficientnet_lite2",
    "timm-tf_efficientnet_lite3",
    "timm-tf_efficientnet_lite4",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "xception",
)
"""Native encoders of segmentation-models-pytorch 0.6.0, sorted."""

TIMM_NAMES: dict[str, str] = {
    # smp's old `timm-resnest269e` is deprecated.
    "resnest269": "tu-resnest269e",
}
"""Encoders of the paper that come from timm, with their names in smp."""


RGB = tuple[float, float, float]

IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's channels, in [0, 1]."""
HALF: tuple[RGB, RGB] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of encoders that were trained on [-1, 1]."""
DPN: tuple[RGB, RGB] = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
"""Mean and standard deviation of the dual path networks."""


def check_encoder(name: str) -> None:
    """Check an encoder's name.

    Names that start with ``tu-`` are timm's and are accepted without a check: timm is asked when
    the network is built.

    Parameters
    ----------
    name : str
        One of `trainables.config.PAPER_ENCODERS`, of `SMP_ENCODERS`, or ``tu-<timm name>``.

    Raises
    ------
    ValueError
        When the name is not known; the message lists similar names.

    Examples
    --------
    >>> check_encoder("resnet34")
    >>> check_encoder("resnet35")
    Traceback (most recent call last):
        ...
    ValueError: unknown encoder 'resnet35'; similar: resnet50, resnet34, resnet152
    """
    known = (*PAPER_ENCODERS, *SMP_ENCODERS)
    if name in known or (name.startswith("tu-") and len(name) > len("tu-")):
        return
    if name.startswith("timm-"):
        # smp still translates some of these old names, with a deprecation warning.
        raise ValueError(
            f"unknown encoder {name!r}; timm's encoders are named 'tu-{name[len('timm-') :]}'"
        )
    close = list(dict.fromkeys(get_close_matches(name.lower(), known)))
    hint = f"similar: {', '.join(close)}" if close else "timm's encoders are named 'tu-<timm name>'"
    raise ValueError(f"unknown encoder {name!r}; {hint}")


def scaling_of(name: str) -> tuple[RGB, RGB]:
    """Return mean and standard deviation of published weights, named ``<encoder>.<variant>``.

    segmentation-models-pytorch publishes them online with the weights; these are the values
    of its old table (``_legacy_pretrained_settings.py``). `weights.fetch` compares.
    """
    encoder, _, variant = name.partition(".")
    if variant == "advprop" or encoder.startswith("timm-tf_efficientnet_lite"):
        return HALF
    if encoder in ("inceptionresnetv2", "inceptionv4", "xception"):
        return HALF
    return DPN if encoder.startswith("dpn") else IMAGENET
