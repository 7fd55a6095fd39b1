"""Which raw intensities become 0 and 1, where a data set's images are scaled alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.imagefiles import read_image


class Intensities(NamedTuple):
    """Raw intensities of a training set."""

    low: float
    """Becomes 0."""
    high: float
    """Becomes 1."""
    bits: int
    """Of the images' type: 8 or 16."""


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
        Of their contents: the result is remembered for a process.

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
            f"normalization=dataset: images of 8 bit ({bits[8]}) and of 16 bit ({bits[16]}) "
            "cannot share one scale; save all in 16 bit from the same source, or leave it out"
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
