"""Training crops: cut so that every cell is used, in memory, in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from trainables.data.crop_positions import Cutter, epoch_batches, steps_per_epoch

Target = Callable[[NDArray[np.integer]], NDArray[Any]]


class CropDataset(Dataset[Any]):
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
        images: Sequence[tuple[NDArray[np.float32], NDArray[np.integer]]],
        size: int,
        target: Target,
        strength: str,
        seed: int,
    ) -> None:
        self._target, self._epoch = target, 0
        self._cutter = Cutter(images, size, strength, seed)
        self.corners = self._cutter.corners

    def start_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the crops get."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        crop, cells = self._cutter.cut(index, self._epoch)
        return (
            torch.from_numpy(np.ascontiguousarray(crop[None], np.float32)),
            torch.from_numpy(np.ascontiguousarray(self._target(cells))),
        )


class EpochBatches(Sampler[list[int]]):
    """Batches whose order depends on (seed, epoch), and whose sizes differ by at most one.

    Lightning announces an epoch to ``dataloader.batch_sampler.sampler``, never to the batch
    sampler itself; here both are this object.

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
        Cut every batch into equal parts of at most this many crops (but never fewer than 2), which
        are computed one after the other; all batches get the same number of parts.

    Attributes
    ----------
    steps : int
        Number of batches in an epoch.
    splits : int
        Number of parts of a batch.
    epoch : int
        The epoch, from 0, that the next iteration is for.
    first : int
        Number of batches (or parts of batches) that the next iteration leaves out.
    given : int
        Number of those that the present epoch has had.
    """

    def __init__(
        self, dataset: CropDataset, batch_size: int, seed: int, micro_batch: int | None = None
    ) -> None:
        self._dataset, self._seed, self.epoch = dataset, seed, 0
        self.first = self.given = 0
        self.sampler = self
        self.steps = steps_per_epoch(len(dataset), batch_size)
        largest, smallest = -(-len(dataset) // self.steps), len(dataset) // self.steps
        wanted = -(-largest // micro_batch) if micro_batch else 1
        self.splits = max(1, min(wanted, smallest // 2))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is for (called by Lightning)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.splits

    def __iter__(self) -> Iterator[list[int]]:
        self._dataset.start_epoch(self.epoch)
        batches = epoch_batches(len(self._dataset), self.steps, self._seed, self.epoch)
        parts = [part for batch in batches for part in np.array_split(batch, self.splits)]
        self.given, self.first = self.first, 0
        for part in parts[self.given :]:
            self.given += 1
            yield [int(i) for i in part]


class CropLoader(DataLoader[Any]):
    """Loads the batches of a sampler. Lightning stores its state within an epoch, and restores it.

    Parameters
    ----------
    dataset : CropDataset
    batches : EpochBatches
    """

    def __init__(self, dataset: CropDataset, batches: EpochBatches) -> None:
        super().__init__(dataset, batch_sampler=batches)
        self.batches = batches

    def state_dict(self) -> dict[str, int]:
        """Return how far the epoch is."""
        return {"given": self.batches.given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave out, in the next epoch, the batches that were given before."""
        self.batches.first = state_dict["given"]
