"""The images of a trial in memory, for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.config import TrialConfig
from trainables.data.dataset import DataSet
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
        image, labels = dataset.load(item, config.normalization)
        yield Example(item.stem, item.group, image, compact(labels))


_loaded: dict[tuple[Any, ...], list[Example]] = {}


def load_split(dataset: DataSet, split: str, config: TrialConfig) -> list[Example]:
    """Return the images of a split; a process that runs many trials on them reads them once."""
    data = (dataset.fingerprint, str(dataset.root), config.normalization)
    for key in [key for key in _loaded if key[1:] != data]:
        del _loaded[key]
    if (split, *data) not in _loaded:
        _loaded[split, *data] = list(each_example(dataset, split, config))
    return [replace(one) for one in _loaded[split, *data]]


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
