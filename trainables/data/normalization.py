"""Scaling of intensities: by each image's own percentiles, or equally for a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.config import Normalization
from trainables.data.imagefiles import read_image


class Intensities(NamedTuple):
    """Raw intensities of a training set."""

    low: float
    """Becomes 0."""
    high: float
    """Becomes 1."""
    bits: int
    """Bits per pixel of the images: 8 or 16."""


@lru_cache(maxsize=8)
def intensities_of(paths: Sequence[Path], low: float, high: float, fingerprint: str) -> Intensities:
    """Return percentiles over all pixels of some images together.

    Parameters
    ----------
    paths : tuple of Path
        Images of 8 or 16 bit; one is in memory at a time.
    low, high : float
        Percentiles, as for `numpy.percentile`.
    fingerprint : str
        Of the images' contents: the result is cached in the process.

    Raises
    ------
    ValueError
        When the images are of 8 and of 16 bit, or all pixels are equal.
    """
    counts = np.zeros(2**16, np.int64)
    bits: dict[int, str] = {}
    for path in paths:
        image = read_image(path)
        bits.setdefault(8 * image.dtype.itemsize, path.name)
        counts += np.bincount(image.ravel(), minlength=len(counts))
    if len(bits) > 1:
        raise ValueError(
            f"normalization=dataset: 8-bit images ({bits[8]}) and 16-bit images ({bits[16]}) "
            "cannot share one scale; save all in 16 bit from the same source, or omit this setting"
        )
    first, last = percentile(counts, low), percentile(counts, high)
    if last <= first:
        present = np.flatnonzero(counts)
        first, last = float(present[0]), float(present[-1])
    if last <= first:
        raise ValueError("normalization=dataset: all pixels of the training images are equal")
    return Intensities(first, last, next(iter(bits)))


def percentile(counts: NDArray[np.integer[Any]], q: float) -> float:
    """Return a percentile of integers of which only the counts are known.

    Parameters
    ----------
    counts : (N,) integer array
        How often 0, 1, ... occur.
    q : float
        0 to 100; between two values as `numpy.percentile` interpolates.

    Examples
    --------
    >>> percentile(np.array([1, 0, 3]), 25)  # of 0, 2, 2, 2
    1.5
    """
    upto = np.cumsum(counts)
    place = q / 100 * (upto[-1] - 1)
    below = int(np.floor(place))
    here, following = np.searchsorted(upto, [below, below + 1], side="right")
    return float(here + (min(following, len(counts) - 1) - here) * (place - below))


def normalize(
    image: NDArray[Any], normalization: Normalization, intensities: Intensities | None = None
) -> NDArray[np.float32]:
    """Scale an image's intensities.

    Parameters
    ----------
    image : (H, W) array
        Any integer or float type.
    normalization : Normalization
        Which percentiles become 0 and 1, and whether of the image or of the training set.
    intensities : Intensities, optional
        Those of the training set: needed for `normalization` of mode ``dataset``.

    Returns
    -------
    (H, W) float32 array in [-0.5, 1.5]
        All 0 for an image without contrast that is scaled by its own percentiles.

    Raises
    ------
    ValueError
        When an image of 8 bit is to be scaled like images of 16 bit, or the other way round.
    """
    if normalization.mode == "dataset":
        if intensities is None:
            raise ValueError("normalization=dataset needs the intensities of the training set")
        bits = 8 * image.dtype.itemsize
        if image.dtype in (np.uint8, np.uint16) and bits != intensities.bits:
            raise ValueError(
                f"the image has {bits} bit, but the training images had {intensities.bits} bit; "
                "with normalization=dataset they must be the same"
            )
        low, high = intensities.low, intensities.high
    else:
        low, high = np.percentile(image, [normalization.low, normalization.high])
    if high <= low:
        low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.float32)
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    clipped: NDArray[np.float32] = np.clip(scaled, -0.5, 1.5)
    return clipped
