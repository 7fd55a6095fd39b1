"""stardist's own model, trained and used in its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.trainables.data.intensities import DATASET, assert_intensities_are_kept
from trainables import checkpoint
from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.data.imagefiles import read_image
from trainables.errors import CheckpointError, OutOfMemory
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.stardist.client import StarDistPredictor, train_stardist
from trainables.tiling import chosen_inference

OFTEN = RunOptions(checkpoint_seconds=0)
CONFIG = TrialConfig(
    task="stardist",
    architecture="StarDist",
    crop_size=64,
    epochs=2,
    batch_size=4,
    learning_rate=1e-3,
    rays=16,
)
LONGER = CONFIG.model_copy(
    update={
        "epochs": 20,
        "learning_rate": 3e-3,
        "lr_schedule": "constant",
        "augmentation": "none",
        "validate_every": 10,
        "normalization": DATASET,
    }
)
"""Long enough to find the cells."""
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def longer(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    pictures: list[tuple[str, NDArray[np.uint8]]] = []
    result = train_stardist(
        LONGER, dataset, tmp_path_factory.mktemp("longer"), on_overlays=pictures.extend
    )
    assert [picture.shape for _, picture in pictures] == [(90, 100, 3), (82, 108, 3)]
    return result


@pytest.fixture(scope="module")
def calm(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return train_stardist(CONFIG, dataset, tmp_path_factory.mktemp("calm"))


def test_a_trial_and_its_checkpoint(longer: TrialResult, dataset: DataSet) -> None:
    assert longer.parameters_m == pytest.approx(1.4, abs=0.1)
    assert longer.history[1].train_loss < longer.history[0].train_loss
    files = {path.name for path in Path(longer.checkpoint).iterdir()}
    assert files == {"model.weights.h5", "checkpoint.json", "result.json"}
    predictor = checkpoint.load(longer.checkpoint)
    assert isinstance(predictor, StarDistPredictor)
    counts = []
    with predictor:
        for item in dataset.subset("test"):
            image = read_image(item.image)
            labels = predictor.labels(image)
            assert labels.dtype == np.int32
            np.testing.assert_array_equal(predictor.foreground(image), labels > 0)
            assert predictor.probability(image).shape == image.shape
            truth = dataset.load(item, LONGER.normalization)[1] > 0
            counts.append(overlap_counts(labels > 0, truth))
    dataset_iou, image_iou = iou_from_counts(counts)
    assert 0.3 < dataset_iou < 1, "it found nothing: any measure would agree"
    assert dataset_iou == pytest.approx(longer.test_dataset_iou, abs=1e-6)
    assert image_iou == pytest.approx(longer.test_image_iou, abs=1e-6)
    assert "tensorflow" not in sys.modules


def test_larger_images_than_were_validated_are_predicted_in_tiles(
    longer: TrialResult, dataset: DataSet
) -> None:
    predictor = checkpoint.load(longer.checkpoint)
    assert isinstance(predictor, StarDistPredictor)
    item = dataset.subset("test")[0]
    large = np.tile(dataset.load(item, LONGER.normalization)[0], (3, 4))
    assert predictor.inference.side(large.shape) == 64, "validation images had 90 x 100 pixels"
    with predictor:
        tiles = predictor.maps(large)
        whole = predictor.maps(large, chosen_inference(predictor.inference, "whole"))
    assert tiles.shape == whole.shape == (1 + LONGER.rays, 135, 200)
    # stardist's own tiles overlap by what the network sees
    np.testing.assert_allclose(tiles, whole, atol=1e-3 * np.abs(whole).max())
    assert whole[0].max() > 0.1, "nothing was found: any tiles would agree"


class Cut(Exception):
    pass


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_interrupted_equals_undisturbed(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    def cut(record: EpochRecord) -> None:
        raise Cut

    with pytest.raises(Cut):
        train_stardist(CONFIG, dataset, tmp_path / "t", options=OFTEN, on_epoch=cut)
    assert (tmp_path / "t" / "resume.json").is_file()
    seen: list[int] = []
    again = train_stardist(
        CONFIG, dataset, tmp_path / "t", options=OFTEN, on_epoch=lambda r: seen.append(r.epoch)
    )
    assert seen == [2]
    assert [r.train_loss for r in again.history] == [r.train_loss for r in calm.history]
    assert again.test_dataset_iou == calm.test_dataset_iou
    # a trial that has ended is not trained again
    before = written(tmp_path / "t")
    assert train_stardist(CONFIG, dataset, tmp_path / "t", on_epoch=cut) == again
    assert written(tmp_path / "t") == before


PARENT = """
import sys, json
from pathlib import Path
from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.stardist.client import train_stardist
config = TrialConfig.model_validate_json(sys.argv[1])
print("started", flush=True)
train_stardist(config, open_dataset(Path(sys.argv[2])), Path(sys.argv[3]),
               on_epoch=lambda record: print("epoch", flush=True))
"""


def workers_of(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [one for one in children if "trainables.stardist.worker" in " ".join(one.cmdline())]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/maps")
def test_the_process_dies_with_its_parent(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1000})
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, config.model_dump_json(), str(tiny_dataset), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    assert parent.stdout.readline() == "epoch\n"
    mine = workers_of(parent.pid)
    assert mine
    maps = "".join(Path(f"/proc/{one.pid}/maps").read_text() for one in mine)
    assert "tensorflow" in maps
    assert "libtorch" not in maps
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(mine, timeout=500)
    assert not alive


@pytest.mark.slow
def test_a_killed_process_is_told_of_and_resumed(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    def kill(record: EpochRecord) -> None:
        for one in workers_of(os.getpid()):
            one.kill()

    with pytest.raises(RuntimeError, match="code -9; most likely memory ran out"):
        train_stardist(CONFIG, dataset, tmp_path / "t", options=OFTEN, on_epoch=kill)
    again = train_stardist(CONFIG, dataset, tmp_path / "t", options=OFTEN)
    assert [r.train_loss for r in again.history] == [r.train_loss for r in calm.history]


@pytest.mark.slow
def test_a_limit_on_memory_is_felt(dataset: DataSet, tmp_path: Path) -> None:
    large = CONFIG.model_copy(update={"batch_size": 16, "crop_size": 512})
    options = RunOptions(memory_gb=0.05)
    with pytest.raises(OutOfMemory, match="out of memory"):
        train_stardist(large, dataset, tmp_path / "t", options=options)


def test_the_checkpoint_keeps_the_intensities(
    longer: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    shutil.copytree(longer.checkpoint, tmp_path / "t")
    assert_intensities_are_kept(tmp_path / "t", dataset, (90, 100))


def test_damaged_checkpoints_are_refused(longer: TrialResult, tmp_path: Path) -> None:
    for path in Path(longer.checkpoint).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**content, "task": {}}))
    with pytest.raises(CheckpointError, match="no thresholds"):
        checkpoint.load(tmp_path)
    weights = tmp_path / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(tmp_path)
