"""Measured images must be unseen: none may show what training or validation images show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.copies import KnownImages
from trainables.data.dataset import DataError, DataSet, Item
from trainables.data.imagefiles import ImageFileError, read_image
from trainables.data.splits import some

NAMES = {"train": "training image", "val": "validation image"}


def refuse_seen(dataset: DataSet, other: DataSet) -> None:
    """Refuse images that show what networks were trained on or chosen with.

    Contents are compared, as `trainables.data.copies.KnownImages` says; names, folders and file
    formats do not matter.

    Parameters
    ----------
    dataset : DataSet
        The data set of the sweep.
    other : DataSet
        Images to measure.

    Raises
    ------
    DataError
        When an image is not unseen, or cannot be read; the message names it.
    """
    items = {item.stem: item for item in dataset.items}
    seen = KnownImages(
        (f"{NAMES.get(part, f'image of {part}')} {stem}", _pixels(dataset, items[stem]))
        for part, stems in dataset.parts.items()  # folds: every one is trained and validated on
        if part != "test"
        for stem in stems
    )
    found = {item.image.name: seen.find(_pixels(other, item)) for item in other.items}
    copies = [f"images/{name} ({which})" for name, which in found.items() if which is not None]
    if copies:
        raise DataError(
            f"data set {other.root}: {len(copies)} of {len(found)} images show what the networks "
            f"were trained on or chosen with: {some(copies, 4)}; remove them, or give images that "
            "the sweep has not used"
        )


def _pixels(dataset: DataSet, item: Item) -> NDArray[np.uint8] | NDArray[np.uint16]:
    try:
        return read_image(item.image)
    except (ImageFileError, OSError) as error:
        raise DataError(f"data set {dataset.root}: images/{item.image.name}: {error}") from error
