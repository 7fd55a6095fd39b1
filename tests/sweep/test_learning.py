"""What the trials of a sweep learn from, seen through the command line.

The weights hardly move (learning_rate=1e-9): what differs between epochs is what the network was
shown, and what a checkpoint holds is what the network started from.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from tests.sweep.command_line import QUICK, SPACE, TINY_TUNE, make_data, records, rows, run
from trainables import checkpoint
from trainables.config import RunOptions, TrialConfig
from trainables.data.dataset import open_dataset
from trainables.predict import Predictor
from trainables.train import train


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of encoder weights that no random start has."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)  # with some weights, two of the epochs below give nearly the same loss
    encoder = smp.encoders.get_encoder("mobilenet_v2", in_channels=3, weights=None)
    first = next(iter(encoder.parameters()))
    torch.nn.init.constant_(first, 0.01)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(encoder.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(scope="module")
def out(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder."""
    out = tmp_path_factory.mktemp("runs") / "run"
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        "--set",
        "architecture=Unet",
        *QUICK,
        *TINY_TUNE,
        "--set",
        "epochs=4",
        "--set",
        "learning_rate=1e-9",
        "--set",
        "augmentation=strong",
        "--set",
        "checkpoint_seconds=0",
        "--set",
        f"encoder_weights={weights}",
        cwd=out.parent,
    )
    assert code == 0, text + err
    return out


def test_every_epoch_sees_crops_of_its_own(out: Path, data: Path, tmp_path: Path) -> None:
    first = [float(row["train_loss"]) for row in rows(out, "history.csv")]
    # the same again, without a sweep
    (record,) = records(out)
    config = TrialConfig.model_validate(record["config"])
    options = RunOptions(device="cpu", checkpoint_seconds=0)
    again = train(config, open_dataset(data), tmp_path / "again", options=options)
    assert first == [epoch.train_loss for epoch in again.history]
    assert len(first) == 4
    # the same crops give losses that differ by 2e-4 at most (steps of 1e-9, running averages)
    assert min(abs(a - b) for a, b in itertools.combinations(first, 2)) > 1e-3, first


def test_encoders_start_from_the_weights_that_were_named(out: Path, weights: Path) -> None:
    (row,) = rows(out)
    assert row["encoder_weights"] == str(weights)
    predictor = checkpoint.load(out / row["checkpoint"])
    assert isinstance(predictor, Predictor)
    parameter = next(predictor.network.get_submodule("encoder").parameters())
    # summed over colours
    torch.testing.assert_close(parameter, torch.full_like(parameter, 0.03), atol=1e-6, rtol=0)
    record = predictor.info["encoder_weights"]
    assert record["sha256"]
    assert row["weights_id"].endswith(record["sha256"])
