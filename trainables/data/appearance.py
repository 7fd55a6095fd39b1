"""A few numbers that describe how images look. They are kept with a checkpoint, so that new images
from another microscope, magnification or focus are noticed before their results are trusted.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.dataset import DataSet, largest_shape
from trainables.data.imagefiles import read_image, read_labels
from trainables.labels import compact

MOST_IMAGES = 40
"""Training images that are looked at, evenly spread over the set."""
LEVELS = ("dark", "typical", "bright")
"""Percentiles 1, 50 and 99.8 of an image, as fractions of the largest value of its type."""
RELATIVE = ("low_grey", "middle_grey", "high_grey")
"""Percentiles 10, 50 and 90 on a scale where percentile 1 is 0 and percentile 99.8 is 1; exposure and
camera offset do not change them."""
DETAIL = ("focus", "detail_2px", "detail_4px", "detail_8px")
"""Logarithms to base 2 of the variance of the Laplacian over the variance, and of the variance of
structures of 1 to 2, 2 to 4, and 4 to 8 pixels over that of structures of twice the size."""
QUANTITIES = (*LEVELS, *RELATIVE, *DETAIL)


def describe(image: NDArray[Any]) -> dict[str, float] | None:
    """Return `LEVELS`, `RELATIVE` and `DETAIL` of an image.

    Parameters
    ----------
    image : (H, W) array of uint8 or uint16

    Returns
    -------
    dict or None
        None for an image without contrast.
    """
    import cv2

    low, p10, p50, p90, high = np.percentile(image, [1, 10, 50, 90, 99.8])
    pixels = image.astype(np.float32)
    variance = float(pixels.var())
    if high <= low or variance == 0:
        return None
    full = 2.0 ** (8 * image.dtype.itemsize) - 1
    levels = [low / full, p50 / full, high / full]
    relative = [(p - low) / (high - low) for p in (p10, p50, p90)]
    sharp = float(cv2.Laplacian(pixels, cv2.CV_32F).var())
    blurred = [cv2.GaussianBlur(pixels, (0, 0), sigma) for sigma in (1, 2, 4, 8, 16)]
    bands = [float((a - b).var()) for a, b in pairwise(blurred)]
    tiny = 1e-9 * variance
    detail = [sharp / variance, *(a / max(b, tiny) for a, b in pairwise(bands))]
    logs = [float(np.log2(max(value, 1e-9))) for value in detail]
    return dict(zip(QUANTITIES, [*map(float, levels + relative), *logs]))


def typical_diameter(labels: NDArray[np.integer[Any]]) -> float | None:
    """Return the median over cells of 2 sqrt(area / pi), in pixels; None without cells."""
    areas = np.bincount(compact(labels).ravel())[1:]
    areas = areas[areas > 0]
    return float(2 * np.sqrt(np.median(areas) / np.pi)) if areas.size else None


def trained_on(dataset: DataSet, shapes: Iterable[tuple[int, ...]]) -> dict[str, Any]:
    """Return what `checkpoint.json` says of the data that a network was trained on.

    Parameters
    ----------
    dataset : DataSet
    shapes : iterable of (H, W)
        Of the training images.
    """
    return {
        "fingerprint": dataset.fingerprint,
        "pixel_size_um": dataset.pixel_size_um,
        "image_shape": largest_shape(shapes),
        "appearance": appearance_of(dataset),
    }


def appearance_of(dataset: DataSet) -> dict[str, Any]:
    """Return what a data set's training images look like, for `checkpoint.json`.

    Returns
    -------
    dict
        images (how many were looked at); low and high: the smallest and the largest value of each
        quantity of `describe` over all images; diameter: the smallest, the median and the largest
        typical cell diameter of an image, in pixels.
    """
    items = dataset.subset("train")
    step = max(1, -(-len(items) // MOST_IMAGES))
    paths = tuple((item.image, item.mask) for item in items[::step])
    return dict(_appearance(paths, dataset.fingerprint))


@lru_cache(maxsize=8)
def _appearance(paths: Sequence[tuple[Path, Path]], fingerprint: str) -> dict[str, Any]:
    """Do it once in a process that runs many trials."""
    looks = [look for image, _ in paths if (look := describe(read_image(image))) is not None]
    diameters = [typical_diameter(read_labels(mask).labels) for _, mask in paths]
    found = [diameter for diameter in diameters if diameter is not None]
    record: dict[str, Any] = {"images": len(looks)}
    for name, extreme in (("low", min), ("high", max)):
        record[name] = {q: extreme(look[q] for look in looks) for q in QUANTITIES if looks}
    if found:
        record["diameter"] = [min(found), float(np.median(found)), max(found)]
    return record
