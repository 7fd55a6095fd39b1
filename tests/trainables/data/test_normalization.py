"""Intensities scaled by the training set's percentiles instead of each image's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep.run
import trainables.data.dataset
from tests.trainables.data.intensities import DATASET, assert_intensities_are_kept
from trainables import checkpoint
from trainables.config import Normalization, TrialConfig
from trainables.data.dataset import DataError, open_dataset
from trainables.data.imagefiles import read_image
from trainables.data.normalization import Intensities, intensities_of, normalize
from trainables.module import SegmentationModule
from trainables.train import train

SMALL = {"crop_size": 64, "batch_size": 4, "epochs": 1, "augmentation": "none"}
UNET = TrialConfig(encoder="mobilenet_v2", normalization=DATASET, **SMALL)


def write(root: Path, count: int = 5, dtype: type = np.uint16) -> Path:
    """Write images of very unequal contents: the last ones hold little but bright cells."""
    rng = np.random.default_rng(5)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    scale = 16 if dtype is np.uint8 else 1
    for number in range(count):
        labels = np.zeros((80, 90), np.uint16)
        for label in range(1, 2 + 2 * number):
            y, x = 10 * ((label - 1) // 4), 20 * ((label - 1) % 4)
            labels[y : y + 9, x : x + 18] = label
        image = (rng.normal(1000, 30, labels.shape) + (600 + 200 * number) * (labels > 0)) / scale
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(dtype))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    return root


Planned = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Planned:
    """Plan a sweep of a data set in this process; return exit code, text and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def planned(space: str, root: Path, *more: str) -> tuple[int, str, str]:
        words = [space, "--data", str(root), "--plan", "--wandb", "off"]
        code = sweep.run.main([*words, *more])
        return (code, *capsys.readouterr())

    return planned


@given(
    low=st.floats(0, 40),
    high=st.floats(60, 100),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
@settings(max_examples=25)
def test_percentiles_are_those_of_all_pixels_together(
    tmp_path_factory: pytest.TempPathFactory, low: float, high: float, seed: int, dtype: type[np.generic]
) -> None:
    folder, rng = tmp_path_factory.mktemp("p"), np.random.default_rng(seed)
    images = [rng.integers(0, 50 * 5**k, (7, 9 + k)).astype(dtype) for k in range(3)]
    for number, image in enumerate(images):
        tifffile.imwrite(folder / f"{number}.tif", image)
    paths = tuple(sorted(folder.iterdir()))
    found = intensities_of(paths, low, high, str(folder))
    pixels = np.concatenate([image.ravel() for image in images])
    assert found[:2] == pytest.approx(tuple(np.percentile(pixels, [low, high])))
    assert found.bits == 8 * pixels.itemsize


def test_an_image_is_scaled_as_the_training_set_was(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "d"))
    train_pixels = np.concatenate([read_image(i.image).ravel() for i in dataset.subset("train")])
    low, high = np.percentile(train_pixels, [1, 99.8])
    differences = []
    for item in dataset.items:  # validation and test images, too
        image = read_image(item.image)
        loaded, _ = dataset.load(item, DATASET)
        expected = np.clip((image - low) / (high - low), -0.5, 1.5)
        np.testing.assert_allclose(loaded, expected, atol=1e-5)
        own, _ = dataset.load(item, Normalization())
        differences.append(np.abs(own - loaded).max())
    assert max(differences) > 0.02
    with pytest.raises(ValueError, match="needs the intensities"):
        normalize(image, DATASET)


def test_the_checkpoint_keeps_the_intensities(tmp_path: Path) -> None:
    """So does that of StarDist: tests/trainables/stardist."""
    dataset = open_dataset(write(tmp_path / "d"))
    assert train(UNET, dataset, tmp_path / "t").epochs == 1
    assert_intensities_are_kept(tmp_path / "t", dataset, (80, 90))


def test_the_test_score_is_that_of_the_loaded_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, evaluation and prediction scale alike."""
    from trainables.metrics import iou_from_counts, overlap_counts

    dataset = open_dataset(write(tmp_path / "d"))
    # a trial before it in the same process keeps images of another scale
    other = UNET.model_copy(update={"normalization": Normalization()})
    train(other, dataset, tmp_path / "other")
    config = UNET.model_copy(update={"epochs": 4, "learning_rate": 5e-3})
    shown: list[np.ndarray] = []
    step = SegmentationModule.training_step

    def watched(self: SegmentationModule, batch: Any, number: int) -> Any:
        shown.extend(one[0].numpy().ravel() for one in batch[0])
        return step(self, batch, number)

    monkeypatch.setattr(SegmentationModule, "training_step", watched)
    result = train(config, dataset, tmp_path / "t")
    scaled = [dataset.load(item, DATASET)[0] for item in dataset.subset("train")]
    assert np.isin(np.concatenate(shown), np.concatenate([one.ravel() for one in scaled])).all()
    predictor = checkpoint.load(tmp_path / "t")
    for split in ("val", "test"):
        counts = [
            overlap_counts(
                predictor.foreground(read_image(i.image)), dataset.load(i, DATASET)[1] > 0
            )
            for i in dataset.subset(split)
        ]
        told = getattr(result, f"{split}_dataset_iou")
        assert iou_from_counts(counts)[0] == pytest.approx(told, abs=1e-6)
        assert told > 0.1


def test_old_checkpoints_still_load(tmp_path: Path) -> None:
    config = UNET.model_copy(update={"normalization": Normalization()})
    train(config, open_dataset(write(tmp_path / "d")), tmp_path / "t")
    path = tmp_path / "t" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    assert set(manifest["input"]) == {"mean", "std"}
    del manifest["config"]["normalization"]["mode"], manifest["data"]["image_shape"]
    path.write_text(json.dumps(manifest))
    assert checkpoint.load(tmp_path / "t").config.normalization.mode == "image"


def test_names_of_trials() -> None:
    old = TrialConfig().model_dump(mode="json")
    del old["normalization"]["mode"]
    assert TrialConfig(**old).trial_id("f") == TrialConfig().trial_id("f")
    assert TrialConfig(normalization=DATASET).trial_id("f") != TrialConfig().trial_id("f")
    word = TrialConfig(normalization="dataset")
    assert word == TrialConfig(normalization=DATASET)


def test_8_and_16_bit_cannot_share_a_scale(tmp_path: Path, plan: Planned) -> None:
    root = write(tmp_path / "d")
    image = tifffile.imread(root / "images" / "i2.tif")
    tifffile.imwrite(root / "images" / "i2.tif", (image // 16).astype(np.uint8))
    (root / "dataset.yaml").write_text("split: {train: [i0, i1, i2], val: [i3], test: [i4]}")
    dataset = open_dataset(root)
    assert any(
        "8-bit images (i2) and 16-bit images (i0, i1, i3 and 1 more)" in n for n in dataset.notes
    )
    with pytest.raises(DataError, match=r"8-bit images .* and 16-bit images"):
        dataset.load(dataset.items[0], DATASET)
    # an image for evaluation that differs from the training images
    (root / "dataset.yaml").write_text("split: {train: [i0, i1, i3], val: [i2], test: [i4]}")
    dataset = open_dataset(root)
    with pytest.raises(DataError, match=r"images/i2.tif: the image has 8 bit"):
        dataset.load(dataset.subset("val")[0], DATASET)
    code, _, err = plan("demo", root, "--set", "normalization=dataset")
    assert code == 2
    assert err.startswith("error: ")
    assert "some have 8 bit and some 16 bit" in err


def test_an_empty_scale_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((9, 9), 77, np.uint8))
    with pytest.raises(ValueError, match="all pixels of the training images are equal"):
        intensities_of((tmp_path / "a.tif",), 1, 99.8, "flat")
    image = np.zeros((100, 100), np.uint8)
    image[0, 0] = 200  # less than both percentiles leave: the range counts
    tifffile.imwrite(tmp_path / "b.tif", image)
    found = intensities_of((tmp_path / "b.tif",), 1, 99.8, "sparse")
    assert found == Intensities(0, 200, 8)


SPACE = """
from search_spaces import SearchSpace, grid
SPACE = SearchSpace(trials=grid(encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=1,
                                normalization={"low": 2.0}))
"""


def test_crops_are_told_of_and_the_grid_spans_both_modes(
    tmp_path: Path, plan: Planned, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "d")
    (tmp_path / "space.py").write_text(SPACE)
    assert trainables.data.dataset.main(["check", str(root)]) == 0
    text = capsys.readouterr().out
    told = "as small as cut-outs (at most 90x80 pixels; training crops have 224x224"
    assert told in text
    assert "--set normalization=dataset" in text
    code, text, err = plan("space.py", root)
    assert code == 0, err
    assert told in text
    code, text, err = plan("space.py", root, "--set", "normalization=image,dataset")
    assert code == 0, err
    assert "2 trials" in text
    assert told in text
    # whoever has taken the advice is not given it again
    _, text, _ = plan("space.py", root, "--set", "normalization=dataset")
    assert told not in text
    assert "1 trials" in text
    code, _, err = plan("space.py", root, "--set", "normalization=film")
    assert code == 2
    assert err.startswith("error: --set normalization.mode: ")
    assert "'image' or 'dataset', not 'film'" in err


def test_small_training_images_beside_whole_frames(tmp_path: Path) -> None:
    root = write(tmp_path / "d")
    for folder in ("images", "masks"):
        path = root / folder / "i4.tif"
        tifffile.imwrite(path, np.tile(tifffile.imread(path), (8, 8)))
    labels = np.zeros((640, 720), np.uint16)
    labels[10:40, 10:40] = 1
    tifffile.imwrite(root / "masks" / "i4.tif", labels)
    (root / "dataset.yaml").write_text("split: {train: [i0, i1, i2], val: [i3], test: [i4]}")
    (note,) = [n for n in open_dataset(root).notes if "normalization=dataset" in n]
    assert "(at most 90x80 pixels) are much smaller" in note
    assert "up to 720x640" in note
