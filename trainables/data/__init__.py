"""Data sets: reading and checking them, splits, crops, augmentation. Only `crops` imports torch."""

from trainables.data.dataset import (
    DataError,
    DataSet,
    Item,
    cached_index,
    index_dataset,
    largest_shape,
    main,
    open_dataset,
)
from trainables.data.imagefiles import read_image, read_labels
from trainables.data.splits import DataOptions

__all__ = [
    "DataError",
    "DataOptions",
    "DataSet",
    "Item",
    "cached_index",
    "index_dataset",
    "largest_shape",
    "main",
    "open_dataset",
    "read_image",
    "read_labels",
]
