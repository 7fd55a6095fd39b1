"""Training crops: cut so that every cell is used, in memory, in a reproducible order."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch.utils.data import Dataset, Sampler

from trainables.augmentation import Augmenter

Target = Callable[[NDArray[np.integer]], NDArray[Any]]


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


def _pad(array: NDArray, size: int) -> NDArray:
    """Mirror an image that is smaller than a crop."""
    missing = [max(0, size - n) for n in array.shape]
    if not any(missing):
        return array
    return np.pad(array, [(m // 2, m - m // 2) for m in missing], mode="symmetric")


def derived_seed(seed: int, *parts: int | str) -> int:
    """Mix a trial's seed with what it is for (epoch, purpose) into 31 bits."""
    return zlib.crc32(repr((seed, *parts)).encode()) & 0x7FFFFFFF


class CropDataset(Dataset):
    """All training crops of a data set, held in memory as images and cut when asked for.

    Parameters
    ----------
    images : sequence of (image, labels)
        Normalised float32 images and label images, each (H, W).
    size : int
        Side of a crop, in pixels.
    target : callable
        Makes the training target, without batch axis, from a crop's label image.
    strength : str
        Name of the augmentation.
    seed : int
        The trial's seed.
    """

    def __init__(
        self,
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]],
        size: int,
        target: Target,
        strength: str,
        seed: int,
    ) -> None:
        self._images = [(_pad(image, size), _pad(labels, size)) for image, labels in images]
        self._size, self._target, self._seed = size, target, seed
        self._augment = Augmenter(strength)
        self.corners = [
            (i, y, x)
            for i, (_, labels) in enumerate(self._images)
            for y, x in crop_corners(labels, size)
        ]

    def start_epoch(self, epoch: int) -> None:
        """Restart the augmentation's random stream for an epoch."""
        self._augment.reseed(derived_seed(self._seed, "augmentation", epoch))

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        i, y, x = self.corners[index]
        window = (slice(y, y + self._size), slice(x, x + self._size))
        image, labels = self._images[i]
        crop, cells = self._augment(image[window], labels[window])
        return (
            torch.from_numpy(np.ascontiguousarray(crop[None], np.float32)),
            torch.from_numpy(np.ascontiguousarray(self._target(cells))),
        )


class EpochBatches(Sampler[list[int]]):
    """Batches in an order derived from (seed, epoch), of sizes that differ by one at most.

    Even sizes keep the last batch from being a single crop, which the networks that normalise
    1x1 maps cannot train on.

    Parameters
    ----------
    dataset : CropDataset
    batch_size : int
        Largest number of crops in a batch (3, where 2 would leave a single crop over).
    seed : int
        The trial's seed.
    micro_batch : int, optional
        Cut every batch into equal parts of at most so many crops (but never fewer than 2), one
        after the other; all batches into equally many.

    Attributes
    ----------
    steps : int
        Batches in an epoch.
    splits : int
        Parts of a batch.
    """

    def __init__(
        self, dataset: CropDataset, batch_size: int, seed: int, micro_batch: int | None = None
    ) -> None:
        self._dataset, self._seed, self._epoch = dataset, seed, 0
        self.steps = max(1, min(-(-len(dataset) // batch_size), len(dataset) // 2))
        largest, smallest = -(-len(dataset) // self.steps), len(dataset) // self.steps
        wanted = -(-largest // micro_batch) if micro_batch else 1
        self.splits = max(1, min(wanted, smallest // 2))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is for (called by Lightning)."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.splits

    def __iter__(self) -> Iterator[list[int]]:
        self._dataset.start_epoch(self._epoch)
        rng = np.random.default_rng(derived_seed(self._seed, "order", self._epoch))
        order = rng.permutation(len(self._dataset))
        if len(order) == 1:
            order = np.repeat(order, 2)
        for batch in np.array_split(order, self.steps):
            for part in np.array_split(batch, self.splits):
                yield [int(i) for i in part]
