"""The images of a trial in memory, for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, Item
from trainables.labels import compact
from trainables.tasks import Task

MOST_TARGETS_MB = 1024
"""Size of the validation targets that are kept in memory; others are made again each time."""


@dataclass
class Example:
    """One image that a network is evaluated on."""

    stem: str
    group: str
    image: NDArray[np.float32]
    """(H, W), normalised."""
    labels: NDArray[np.integer]
    """(H, W) label image."""
    target: NDArray[Any] | None = None
    """Training target made from the labels; None: it is made when it is needed."""


def each_example(dataset: DataSet, split: str, config: TrialConfig) -> Iterator[Example]:
    """Read the images of a split one after the other."""
    for item in dataset.subset(split):
        yield _read(dataset, item, config)


def _read(dataset: DataSet, item: Item, config: TrialConfig) -> Example:
    image, labels = dataset.load(item, config.normalization)
    return Example(item.stem, item.group, image, compact(labels))


_loaded: dict[tuple[Any, ...], Example] = {}


def load_split(dataset: DataSet, split: str, config: TrialConfig) -> list[Example]:
    """Return the images of a split; a process that runs many trials on them reads them once."""
    # scaled by the training images, an image looks different in every fold
    fold = dataset.fold if config.normalization.mode == "dataset" else None
    data = (dataset.fingerprint, str(dataset.root), config.normalization, fold)
    for key in [key for key in _loaded if key[1:] != data]:
        del _loaded[key]
    items = dataset.subset(split)
    for item in items:
        if (item.stem, *data) not in _loaded:
            _loaded[item.stem, *data] = _read(dataset, item, config)
    return [replace(_loaded[item.stem, *data]) for item in items]


def forget_images() -> None:
    """Free the images that are kept for later trials of this process."""
    _loaded.clear()


def keep_targets(task: Task, examples: Sequence[Example]) -> None:
    """Make and keep the targets that are slow to make."""
    room = MOST_TARGETS_MB * 2**20 if task.keeps_targets else 0
    for one in examples:
        room -= 4 * task.channels * one.labels.size // task.grid**2
        if room < 0:
            return
        one.target = task.target(one.labels)


def most_pixels(examples: Sequence[Example]) -> int:
    """Return the number of pixels of the largest image."""
    return max(one.labels.size for one in examples)
