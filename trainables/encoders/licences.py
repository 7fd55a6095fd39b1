"""Training data and licence of published encoder weights. Imports no torch.

Everything here was read at `Terms.source`; nothing is guessed. The cards of
segmentation-models-pytorch's copies on the hub say only ``license: other``, so the terms are
those of whoever published the file that was copied. In addition, weights that were trained on
ImageNet may be subject to ImageNet's own terms (research, no commercial use); torchvision's README
says so of its models, and leaves it to the user to find out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

IMAGENET_1K = "ImageNet-1k"
NOT_KNOWN = "licence not known"


@dataclass(frozen=True)
class Terms:
    """What weights were trained on, and under which terms they were published."""

    data: str
    licence: str
    source: str
    """Where the licence is stated."""

    def __str__(self) -> str:
        return f"trained on {self.data}; {self.licence}"


TRAINING_DATA: dict[str, str] = {
    "imagenet": IMAGENET_1K,
    "imagenet+background": f"{IMAGENET_1K} with a background class",
    "imagenet+5k": f"ImageNet-5k, then {IMAGENET_1K}",
    "advprop": f"{IMAGENET_1K} with adversarial examples",
    "ssl": f"YFCC100M without labels, then {IMAGENET_1K}",
    "swsl": f"940 million public images with hashtags, then {IMAGENET_1K}",
    "instagram": f"billions of public images with hashtags, then {IMAGENET_1K}",
    "noisy-student": f"JFT-300M without labels and {IMAGENET_1K}",
    "noisy-student-475": f"JFT-300M without labels and {IMAGENET_1K}",
}
"""Names of published weights (the values of ``encoder_weights``) and what they were trained on."""

_NC = "CC-BY-NC-4.0 (no commercial use)"

_BY_NAME: dict[str, tuple[str, str]] = {
    "ssl": (_NC, "github.com/facebookresearch/semi-supervised-ImageNet1K-models"),
    "swsl": (_NC, "github.com/facebookresearch/semi-supervised-ImageNet1K-models"),
    "instagram": (_NC, "github.com/facebookresearch/WSL-Images"),
}
"""Licences of weights that have one publisher, whatever the encoder."""

_TORCHVISION = ("BSD-3-Clause", "github.com/pytorch/vision")
_CADENE = ("BSD-3-Clause", "github.com/Cadene/pretrained-models.pytorch")
_TIMM = ("Apache-2.0", "github.com/huggingface/pytorch-image-models")

_BY_ENCODER: dict[str, tuple[str, str]] = {
    "resnet": _TORCHVISION,
    "resnext": _TORCHVISION,
    "vgg": _TORCHVISION,
    "mobilenet_v2": _TORCHVISION,
    "densenet": _CADENE,
    "dpn": _CADENE,
    "inceptionresnetv2": _CADENE,
    "inceptionv4": _CADENE,
    "se_res": _CADENE,
    "senet": _CADENE,
    "xception": _CADENE,
    "efficientnet-": ("Apache-2.0", "github.com/lukemelas/EfficientNet-PyTorch"),
    "timm-": _TIMM,
    "mit_b": (
        "NVIDIA Source Code License for SegFormer (no commercial use)",
        "github.com/NVlabs/SegFormer",
    ),
    "mobileone_": ("Apple's licence of MobileOne", "github.com/apple/ml-mobileone"),
}
"""Licences by the beginning of the encoder's name: its weights come from one publisher."""


def terms_of(encoder: str, variant: str) -> Terms:
    """Return what is known of weights in segmentation-models-pytorch's registry.

    Parameters
    ----------
    encoder : str
        A native encoder of segmentation-models-pytorch.
    variant : str
        Name of the weights there.

    Returns
    -------
    Terms
        With `NOT_KNOWN` if the licence is not known.

    Examples
    --------
    >>> print(terms_of("resnet152", "imagenet"))
    trained on ImageNet-1k; BSD-3-Clause
    >>> print(terms_of("resnet18", "swsl").licence)
    CC-BY-NC-4.0 (no commercial use)
    """
    data = TRAINING_DATA.get(variant, "unknown data")
    by_encoder = next(
        (terms for start, terms in _BY_ENCODER.items() if encoder.startswith(start)),
        (NOT_KNOWN, ""),
    )
    return Terms(data, *_BY_NAME.get(variant, by_encoder))


_MORE_THAN_IMAGENET_1K = re.compile(
    r"(^|_)(ft|dist|distilled|ssld|usi|ap|adv|jft|swag|seer|ssl|swsl|wsl|in\d\dk)(_|$)"
)


def tag_is_imagenet_1k(tag: str) -> bool:
    """Tell whether timm's tag of weights names ImageNet-1k and nothing else.

    A tag of timm names what the weights were trained on: ``a1_in1k`` only on ImageNet-1k,
    ``fb_swsl_ig1b_ft_in1k`` on more data before. Fine-tuned, distilled and adversarially trained
    weights do not count here, because they had another teacher or other images.

    Examples
    --------
    >>> [tag_is_imagenet_1k(tag) for tag in ("a1_in1k", "in12k_ft_in1k", "ns_jft_in1k", "openai")]
    [True, False, False, False]
    """
    plain = re.search(r"(^|_)in1k(_\d+)?$", tag)
    return bool(plain) and not _MORE_THAN_IMAGENET_1K.search(tag)


def terms_of_timm(tag: str, licence: str | None, origin: str | None) -> Terms:
    """Return what timm's registry says of weights: training data, licence and origin.

    Parameters
    ----------
    tag : str
        timm's name of the weights, such as ``a1_in1k``.
    licence, origin : str or None
        ``license`` and ``origin_url`` of timm's entry.
    """
    data = IMAGENET_1K if tag_is_imagenet_1k(tag) else f"other data as well (timm tag {tag!r})"
    known = licence and licence not in ("unknown", "other")
    text = str(licence) if known else NOT_KNOWN
    if "-nc" in text.lower() or "noncommercial" in text.lower():
        text += " (no commercial use)"
    return Terms(data, text, origin or "timm's registry")
