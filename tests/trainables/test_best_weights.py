"""What is saved are the weights of the best validated epoch, whatever came after it.

Only the evaluation is scripted: validation peaks at epoch 2 of 4. Training, files and interruption
are real. (Of StarDist: test_stardist_scripted.py.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import checkpoint
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.data.dataset import DataSet, open_dataset
from trainables.module import Scores, SegmentationModule
from trainables.predict import Predictor
from trainables.train import train

IOUS = [0.2, 0.9, 0.5, 0.6]
BEST = 2
OFTEN = RunOptions(checkpoint_seconds=0)


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


def in_pieces(run: Any, cut: int | None) -> Any:
    """Train; with `cut`, break off after that epoch and train on."""

    def on_epoch(record: EpochRecord) -> None:
        if record.epoch == cut:
            raise Cut

    if cut is not None:
        with pytest.raises(Cut):
            run(on_epoch)
    return run(None)


@pytest.mark.parametrize("cut", [None, 1, 2, 3])
def test_the_best_epochs_weights_are_saved(
    cut: int | None, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def scripted(self: SegmentationModule, *_: Any, **__: Any) -> Scores:
        epoch = self.current_epoch + 1
        if epoch <= len(IOUS) and epoch not in seen:
            state = self.network.state_dict()
            seen[epoch] = {name: value.detach().clone() for name, value in state.items()}
        # a loss that disagrees: the lowest is the last epoch's
        return Scores(1 / epoch, IOUS[min(epoch, BEST if epoch > len(IOUS) else epoch) - 1], 0.3)

    monkeypatch.setattr(SegmentationModule, "evaluate", scripted)
    cfg = TrialConfig(
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=8,
        epochs=4,
        learning_rate=1e-2,
        augmentation="none",
    )
    # undisturbed, nothing is written before the end: the best weights are kept in memory
    options = RunOptions() if cut is None else OFTEN
    result = in_pieces(
        lambda on_epoch: train(cfg, dataset, tmp_path / "t", options=options, on_epoch=on_epoch),
        cut,
    )
    assert (result.best_epoch, result.epochs, result.val_dataset_iou) == (BEST, 4, IOUS[BEST - 1])
    assert [r.val_dataset_iou for r in result.history] == IOUS
    predictor = checkpoint.load(result.checkpoint)
    assert isinstance(predictor, Predictor)
    saved = predictor.network.state_dict()
    assert sorted(seen) == [1, 2, 3, 4]
    for epoch, state in seen.items():
        equal = [torch.equal(saved[name], value) for name, value in state.items()]
        assert (
            all(equal)
            if epoch == BEST
            else not any(same for same, name in zip(equal, state) if name.endswith("weight"))
        ), f"epoch {epoch}"
