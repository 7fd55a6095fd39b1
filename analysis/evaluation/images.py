"""Images with their true cells, read only once if they fit into memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.data.dataset import DataError, Item
from trainables.data.imagefiles import ImageFileError, read_image, read_labels

MOST_BYTES = 256 * 2**20
"""Bytes of images and label images to keep in memory; others are read again when needed."""


class LabelledImage(NamedTuple):
    """One image and its true cells."""

    item: Item
    image: NDArray[Any]
    """(H, W), raw intensities."""
    truth: NDArray[np.int32]
    """(H, W) label image."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.truth.shape[0], self.truth.shape[1]


class LabelledImages:
    """Reads images and their masks, and keeps the first of them in memory for further networks.

    All networks of a study use the same images. Usual test splits fit into `MOST_BYTES` and are
    read once; images of long sequences that do not fit are read again for each network.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = self._free = most_bytes
        self._held: dict[Item, LabelledImage] = {}

    def __reduce__(self) -> tuple[type[LabelledImages], tuple[int]]:
        """Another process gets none of the images: it reads those that it needs."""
        return LabelledImages, (self._most,)

    def read(self, item: Item) -> LabelledImage:
        """Return an image and its true cells, which the caller must not change.

        Raises
        ------
        DataError
            When one of them cannot be used, or their shapes differ.
        """
        if item in self._held:
            return self._held[item]
        image = _read(item)
        size = image.image.nbytes + image.truth.nbytes
        if size <= self._free:
            self._free -= size
            self._held[item] = image
        return image


def _read(item: Item) -> LabelledImage:
    path = item.image
    try:
        image = read_image(path)
        path = item.mask
        truth = read_labels(path).labels
    except ImageFileError as error:
        raise DataError(f"{path}: {error}") from error
    if image.shape != truth.shape:
        raise DataError(
            f"{path}: mask of shape {truth.shape}, but its image has {image.shape}; make them equal"
        )
    return LabelledImage(item, image, truth)
