"""What is saved are the weights of the best validated epoch, whatever came after it.

Only the evaluation is scripted: validation peaks at epoch 2 of 4. Training, files and interruption
are real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import checkpoint
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.data import DataSet, open_dataset
from trainables.module import Scores, SegmentationModule
from trainables.stardist import train_stardist
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
def test_of_a_network(
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
        encoder="mobilenet_v2", crop_size=64, batch_size=8, epochs=4, learning_rate=1e-2,
        augmentation="none",
    )  # fmt: skip
    result = in_pieces(
        lambda on_epoch: train(cfg, dataset, tmp_path / "t", options=OFTEN, on_epoch=on_epoch), cut
    )
    assert (result.best_epoch, result.epochs, result.val_dataset_iou) == (BEST, 4, IOUS[BEST - 1])
    assert [r.val_dataset_iou for r in result.history] == IOUS
    saved = checkpoint.load(result.checkpoint).network.state_dict()
    assert sorted(seen) == [1, 2, 3, 4]
    for epoch, state in seen.items():
        equal = [torch.equal(saved[name], value) for name, value in state.items()]
        assert all(equal) if epoch == BEST else not any(
            same for same, name in zip(equal, state) if name.endswith("weight")
        ), f"epoch {epoch}"  # fmt: skip


SCRIPT = """
import importlib.abc, importlib.util, json, os, sys

class Scripted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "trainables.stardist_training":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            patch(module)
        spec.loader.exec_module = exec_module
        return spec

def patch(module):
    import numpy as np
    ious = json.loads(os.environ["SCRIPTED_IOUS"])
    def scripted(self, model, pairs, *_, **__):
        epoch = len(self.history.records) + 1
        if epoch > len(ious):
            return max(ious), 0.3
        arrays = model.keras_model.get_weights()
        np.savez(os.path.join(os.environ["SCRIPTED_OUT"], f"{epoch}.npz"), *arrays)
        return ious[epoch - 1], 0.3
    module.Trial._iou = scripted

sys.meta_path.insert(0, Scripted())
"""
"""Read by StarDist's process as it starts: replaces its evaluation, as monkeypatch does here."""


def h5_arrays(path: Path) -> list[np.ndarray]:
    import h5py

    found: list[np.ndarray] = []
    with h5py.File(path) as handle:
        handle.visititems(
            lambda _, node: found.append(node[()]) if isinstance(node, h5py.Dataset) else None
        )
    return found


@pytest.mark.parametrize("cut", [None, 3])
def test_of_stardist(
    cut: int | None, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "seen").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("SCRIPTED_IOUS", json.dumps(IOUS))
    monkeypatch.setenv("SCRIPTED_OUT", str(tmp_path / "seen"))
    cfg = TrialConfig(
        task="stardist", architecture="StarDist", crop_size=64, epochs=4, batch_size=8,
        learning_rate=1e-3, rays=16, augmentation="none",
    )  # fmt: skip
    result = in_pieces(
        lambda on_epoch: train_stardist(
            cfg, dataset, tmp_path / "t", options=OFTEN, on_epoch=on_epoch
        ),
        cut,
    )
    assert (result.best_epoch, result.epochs, result.val_dataset_iou) == (BEST, 4, IOUS[BEST - 1])
    saved = h5_arrays(Path(result.checkpoint) / "model.weights.h5")

    def is_saved(array: np.ndarray) -> bool:
        return any(one.shape == array.shape and np.array_equal(one, array) for one in saved)

    for epoch in range(1, 5):
        with np.load(tmp_path / "seen" / f"{epoch}.npz") as content:
            kernels = [content[name] for name in content.files if content[name].ndim > 1]
            arrays = [content[name] for name in content.files]
        if epoch == BEST:
            assert all(map(is_saved, arrays))
        else:
            assert not any(map(is_saved, kernels)), f"epoch {epoch}"
