"""Whether new images are so much larger than the training images that it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.config import TrialConfig

MUCH_LARGER = 4
"""Factor on the number of pixels of the largest training image."""


def trained_shape(manifest: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the (H, W) of the largest training image, if the checkpoint says so."""
    try:
        height, width = (manifest.get("data") or {})["image_shape"]
        return int(height), int(width)
    except (KeyError, TypeError, ValueError):
        return None


def size_note(
    config: TrialConfig, trained: tuple[int, int] | None, shapes: Sequence[tuple[int, ...]]
) -> str | None:
    """Return a note if images are much larger than the training images and that matters.

    It matters where each image is scaled by its own intensity percentiles, because those of
    cut-outs differ from those of whole frames.

    Parameters
    ----------
    config : TrialConfig
    trained : tuple of int or None
        (H, W) of the largest training image; None if unknown.
    shapes : sequence of tuple of int
        (H, W) of the images.

    Returns
    -------
    str or None

    Examples
    --------
    >>> size_note(TrialConfig(), (224, 224), [(400, 400)]) is None
    True
    """
    if trained is None or config.normalization.mode != "image" or not shapes:
        return None
    largest = max(shapes, key=lambda shape: shape[0] * shape[1])
    if largest[0] * largest[1] < MUCH_LARGER * trained[0] * trained[1]:
        return None
    return (
        f"the images ({largest[1]}x{largest[0]} pixels) are much larger than the largest training "
        f"image ({trained[1]}x{trained[0]}), and each is scaled by its own intensity percentiles, "
        "which differ between cut-outs and whole frames: check the outlines, or train with "
        "--set normalization=dataset"
    )
