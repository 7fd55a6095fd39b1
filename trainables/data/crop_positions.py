"""Where crops are cut, and the order in which epochs see them. Imports no torch.

Shared by torch's networks and stardist's own model, which trains in a separate process.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from trainables.data.augmentation import Augmenter
from trainables.labels import compact


def _starts(length: int, size: int) -> list[int]:
    count = -(-length // size)
    if count == 1:
        return [0]
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def crop_corners(labels: NDArray[np.integer], size: int) -> list[tuple[int, int]]:
    """Choose crops that together use every cell of an image.

    An even grid covers every pixel; a cell that no crop of the grid contains
    completely gets a further crop, centred on it (a cell larger than a crop is covered in parts by the grid). Crops
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


def pad_to_size(
    image: NDArray[np.float32], labels: NDArray[np.integer], size: int
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Mirror an image that is smaller than a crop, and its labels.

    Mirrored cells get new numbers, so that a cell and its mirror image stay separate.

    Parameters
    ----------
    image, labels : (H, W) arrays
    size : int
        Least side of what is returned, in pixels.

    Returns
    -------
    (image, labels)
        The given arrays where they are large enough.
    """
    missing = [max(0, size - side) for side in image.shape]
    if not any(missing):
        return image, labels
    margins = [(m // 2, m - m // 2) for m in missing]
    values, numbered = np.unique(np.append(labels, 0), return_inverse=True)
    cells = np.pad(numbered[:-1].reshape(labels.shape), margins, mode="symmetric")
    rows, columns = (
        np.arange(-before, side + after) // side - (-before // side)
        for side, (before, after) in zip(labels.shape, margins, strict=True)
    )
    copy = rows[:, None] * (columns[-1] + 1) + columns
    cells = np.where(cells > 0, cells + copy * len(values), 0)
    return np.pad(image, margins, mode="symmetric"), compact(cells)


class Cutter:
    """Cuts and augments the training crops of a data set, held in memory as whole images.

    Parameters
    ----------
    images : sequence of (image, labels)
        Normalised float32 images and integer label images, each (H, W).
    size : int
        Side of a crop, in pixels.
    strength : str
        Name of the augmentation.
    seed : int
        The trial's seed.

    Attributes
    ----------
    corners : list of (image's number, y, x)
        Where each crop lies, before it is turned.
    """

    def __init__(
        self,
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.integer]]],
        size: int,
        strength: str,
        seed: int,
    ) -> None:
        self._images = [pad_to_size(image, labels, size) for image, labels in images]
        self._size, self._seed, self._augment = size, seed, Augmenter(strength)
        self.corners = [
            (number, y, x)
            for number, (_, labels) in enumerate(self._images)
            for y, x in crop_corners(labels, size)
        ]

    def cut(self, index: int, epoch: int) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """Cut one crop, which depends only on seed, epoch and index.

        Returns
        -------
        crop, cells : (size, size) arrays
        """
        number, y, x = self.corners[index]
        rng = np.random.default_rng(derived_seed(self._seed, "augmentation", epoch, index))
        return self._augment(*self._images[number], (y, x), self._size, rng)


def derived_seed(seed: int, *parts: int | str) -> int:
    """Combine a trial's seed, a purpose and an epoch into a seed of 31 bits."""
    return zlib.crc32(repr((seed, *parts)).encode()) & 0x7FFFFFFF


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches for `count` crops; no batch has only a single crop."""
    return max(1, min(-(-count // batch_size), count // 2))


def epoch_batches(count: int, steps: int, seed: int, epoch: int) -> list[NDArray[np.intp]]:
    """Distribute crops over batches whose sizes differ by at most one.

    Even sizes keep the last batch from being a single crop, which the networks that normalise
    1x1 maps cannot train on.

    Parameters
    ----------
    count : int
        Number of crops; a single one is used twice.
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
