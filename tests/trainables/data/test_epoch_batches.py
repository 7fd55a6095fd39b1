"""What a real training epoch hands to the network: every crop once, in batches of like sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainables.config import RunOptions, TrialConfig
from trainables.data.crop_positions import crop_corners, pad_to_size
from trainables.data.dataset import open_dataset
from trainables.module import SegmentationModule
from trainables.train import train


def whatever_its_turn(crop: NDArray[np.float32]) -> bytes:
    """Return what stays the same of a crop that is flipped or turned by quarters."""
    return np.sort(crop.ravel()).tobytes()


@pytest.mark.parametrize(
    ("size", "batch_size", "micro", "sizes", "strength"),
    [
        # three images of 90 x 100 pixels: 4 crops of 64 each, 2 of 96, about 15 of 32
        (64, 5, None, [4, 4, 4], "light"),
        (64, 8, 3, [3, 3, 3, 3], "none"),
        (96, 4, None, [3, 3], "none"),
        (32, 8, None, [8, 8, 8, 7, 7, 7], "none"),
    ],
)
def test_a_training_epoch_uses_every_crop_once(
    size: int,
    batch_size: int,
    micro: int | None,
    sizes: list[int],
    strength: str,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = TrialConfig(
        architecture="Unet",
        encoder="mobilenet_v2",
        crop_size=size,
        batch_size=batch_size,
        epochs=2,
        augmentation=strength,
        validate_every=2,
    )
    dataset = open_dataset(tiny_dataset)
    pairs = [dataset.load(item, cfg.normalization) for item in dataset.subset("train")]
    crops: Counter[bytes] = Counter()
    for image, labels in pairs:
        padded, cells = pad_to_size(image, labels, size)
        for y, x in crop_corners(cells, size):
            crops[whatever_its_turn(padded[y : y + size, x : x + size])] += 1
    seen: dict[int, list[list[bytes]]] = {}
    exactly: dict[int, list[bytes]] = {0: [], 1: []}
    step = SegmentationModule.training_step

    def watched(
        self: SegmentationModule, batch: tuple[torch.Tensor, torch.Tensor], index: int
    ) -> torch.Tensor:
        contents = [whatever_its_turn(one.numpy()) for one in batch[0].cpu()]
        exactly[self.current_epoch] += [one.numpy().tobytes() for one in batch[0].cpu()]
        seen.setdefault(self.current_epoch, []).append(contents)
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationModule, "training_step", watched)
    train(cfg, dataset, tmp_path / "t", options=RunOptions(micro_batch=micro))
    assert list(seen) == [0, 1]
    for batches in seen.values():
        assert Counter(one for batch in batches for one in batch) == crops
        assert sorted(map(len, batches), reverse=True) == sizes
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert seen[0] != seen[1], "both epochs came in the same order"
    alike = len(set(exactly[0]) & set(exactly[1]))
    if strength == "none":
        assert alike == len(crops)
    else:  # one in eight stays as it was
        assert alike < len(crops) / 2, "both epochs were augmented alike, or not at all"
