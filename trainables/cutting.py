"""Where crops lie, in which order they come, and at what rate they teach. Imports no torch.

Shared by the networks of torch and stardist's own, which train in processes of their own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects


def _starts(length: int, size: int) -> list[int]:
    count = -(-length // size)
    if count == 1:
        return [0]
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def crop_corners(labels: NDArray[np.integer], size: int) -> list[tuple[int, int]]:
    """Choose crops that together use every cell of an image.

    An even grid covers every pixel; a cell that no crop of the grid holds whole gets one of
    its own, centred on it (a cell larger than a crop is covered in parts by the grid). Crops
    without any cell are kept: they teach what background is.

    Parameters
    ----------
    labels : (H, W) integer array
        At least `size` in both directions.
    size : int
        Side of a crop, in pixels.

    Returns
    -------
    list of (y, x)
        Upper left corners.
    """
    height, width = labels.shape
    corners = [(y, x) for y in _starts(height, size) for x in _starts(width, size)]
    for box in find_objects(labels):
        if box is None:
            continue
        (y0, y1), (x0, x1) = ((s.start, s.stop) for s in box)
        if y1 - y0 > size or x1 - x0 > size:
            continue
        if any(y <= y0 and y1 <= y + size and x <= x0 and x1 <= x + size for y, x in corners):
            continue
        y = int(np.clip((y0 + y1 - size) // 2, 0, height - size))
        x = int(np.clip((x0 + x1 - size) // 2, 0, width - size))
        corners.append((y, x))
    return corners


def pad_to_size(array: NDArray, size: int) -> NDArray:
    """Mirror an (H, W) array that is smaller than a crop."""
    missing = [max(0, size - n) for n in array.shape]
    if not any(missing):
        return array
    return np.pad(array, [(m // 2, m - m // 2) for m in missing], mode="symmetric")


def derived_seed(seed: int, *parts: int | str) -> int:
    """Mix a trial's seed with what it is for (epoch, purpose) into 31 bits."""
    return zlib.crc32(repr((seed, *parts)).encode()) & 0x7FFFFFFF


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the batches that `count` crops make; none of them holds a single crop."""
    return max(1, min(-(-count // batch_size), count // 2))


def epoch_batches(count: int, steps: int, seed: int, epoch: int) -> list[NDArray[np.intp]]:
    """Deal crops into batches of sizes that differ by one at most.

    Even sizes keep the last batch from being a single crop, which the networks that normalise
    1x1 maps cannot train on.

    Parameters
    ----------
    count : int
        Number of crops; a single one is dealt twice.
    steps : int
        Number of batches.
    seed, epoch : int
        Determine the order.

    Returns
    -------
    list of integer arrays
        Indices of crops.
    """
    order = np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(count)
    return np.array_split(np.repeat(order, 2) if count == 1 else order, steps)


def learning_rate_factor(schedule: str, steps: int) -> Callable[[int], float]:
    """Return the factor on the peak learning rate as a function of the step.

    Parameters
    ----------
    schedule : {"constant", "cosine"}
        ``cosine``: linear warm-up over 5 % of the steps, then a half cosine down to 1 %.
    steps : int
        Optimiser steps in the whole trial.
    """
    warmup = max(1, round(0.05 * steps))

    def cosine(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return cosine if schedule == "cosine" else lambda step: 1.0
