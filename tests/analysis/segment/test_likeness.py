"""New images that look unlike the training images are said to, and no others."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk
from skimage.measure import label as components

from analysis.segment.cli import main
from analysis.segment.likeness import difference, likeness_warning
from trainables.config import Normalization, TrialConfig
from trainables.data.appearance import QUANTITIES, appearance_of, describe, typical_diameter
from trainables.data.dataset import open_dataset
from trainables.data.imagefiles import read_image
from trainables.synthetic.dataset import generate
from trainables.train import train

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def changes() -> ModuleType:
    """How images are changed where the limits were measured."""
    spec = importlib.util.spec_from_file_location("likeness", ROOT / "benchmarks" / "likeness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def looks_of(images: list[np.ndarray]) -> list[dict[str, float]]:
    found = [look for image in images if (look := describe(image)) is not None]
    assert found
    return found


def quantity(record: dict[str, Any], images: list[np.ndarray], **config: Any) -> str | None:
    found = difference(record, looks_of(images), TrialConfig(**config))
    return None if found is None else found.quantity


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[np.ndarray]]:
    """Images of the built-in data by seed."""
    base = tmp_path_factory.mktemp("builtin")
    roots = {
        seed: generate(base / str(seed), sequences=8, frames=1, seed=seed, height=300, width=400)
        for seed in (0, 1)
    }
    return {
        seed: [read_image(path) for path in sorted((root / "images").iterdir())]
        for seed, root in roots.items()
    }


def record_of(images: list[np.ndarray]) -> dict[str, Any]:
    looks = looks_of(images)
    low, high = ({q: f(look[q] for look in looks) for q in QUANTITIES} for f in (min, max))
    return {"images": len(looks), "low": low, "high": high}


def test_built_in_images_of_another_seed_look_alike(
    builtin: dict[int, list[np.ndarray]], changes: ModuleType
) -> None:
    record = record_of(builtin[0])
    same, inverted = builtin[1], [255 - changes.eight_bit(image) for image in builtin[1]]
    assert quantity(record, same) is None
    assert quantity(record, [changes.eight_bit(image) for image in same]) is None
    darker = [(0.6 * image).astype(np.uint16) for image in same]
    assert quantity(record, darker) is None, "each is scaled by itself"
    every = Normalization(mode="dataset")
    assert quantity(record, darker, normalization=every) in ("typical", "bright", "dark")
    assert quantity(record, same, normalization=every) is None
    assert quantity(record, inverted) in ("low_grey", "middle_grey", "high_grey")
    for change in (changes.half, changes.double, changes.blurred):
        other = [change(image) for image in same]
        assert str(quantity(record, other)).startswith(("focus", "detail_")), change
        # half of them, or one of three
        assert quantity(record, [*other[:3], *same[:3]]) is not None
        assert quantity(record, [*other[:1], *same[:2]]) is None


@pytest.mark.realdata
def test_real_data_sets_are_told_apart(real_data: Path, changes: ModuleType) -> None:
    images = {
        folder.name: [read_image(path) for path in sorted((folder / "images").iterdir())[:12]]
        for folder in sorted(real_data.iterdir())
        if (folder / "images").is_dir()
    }
    assert len(images) >= 3
    for name, mine in images.items():
        dataset = open_dataset(real_data / name) if name != "yeastvision_phase" else None
        if dataset is None:  # one field: neighbouring frames
            record, new = record_of(mine[:6]), {"later": mine[6:]}
        else:
            record = appearance_of(dataset)
            new = {
                split: [read_image(item.image) for item in dataset.subset(split)]
                for split in ("val", "test")
            }
        for split, those in new.items():
            assert quantity(record, those) is None, (name, split)
            for image in those:
                assert quantity(record, [image]) is None, (name, split)
        for other, those in images.items():
            if other != name:
                assert quantity(record, those) is not None, (name, other)
        assert quantity(record, [255 - changes.eight_bit(image) for image in mine]) is not None
        if not name.startswith("dsb2018"):  # whose cells differ five-fold in size
            assert quantity(record, [changes.half(image) for image in mine]) is not None


def test_what_is_said_of_an_image() -> None:
    assert describe(np.full((40, 50), 7, np.uint8)) is None
    rng = np.random.default_rng(0)
    image = rng.normal(1000, 100, (200, 200)).astype(np.uint16)
    look = describe(image)
    assert look is not None
    assert list(look) == list(QUANTITIES)
    assert look["typical"] == pytest.approx(1000 / 65535, rel=0.01)
    assert look["focus"] == pytest.approx(np.log2(20), abs=0.1)  # 1 + 1 + 1 + 1 + 16 of noise
    # exposure and offset change neither greys nor detail
    other = describe((image * 3 + 500).astype(np.uint16))
    assert other is not None
    for name in QUANTITIES[3:]:
        assert other[name] == pytest.approx(look[name], abs=0.01)
    labels = np.zeros((50, 50), np.int32)
    labels[2:6, 2:6] = 3
    assert typical_diameter(labels) == pytest.approx(2 * np.sqrt(16 / np.pi))
    assert typical_diameter(np.zeros((5, 5), np.int32)) is None


def test_without_a_record_nothing_is_said(tmp_path: Path) -> None:
    assert likeness_warning(None, [], TrialConfig()) is None
    assert difference(None, [dict.fromkeys(QUANTITIES, 9.0)], TrialConfig()) is None


def picture(seed: int, radius: int = 9, step: int = 38) -> tuple[np.ndarray, np.ndarray]:
    rng, cells = np.random.default_rng(seed), np.zeros((150, 170), bool)
    for y in range(radius + 6, 150 - radius, step):
        for x in range(radius + 6, 170 - radius, step):
            place = np.array([y, x]) + rng.integers(-3, 4, 2)
            cells[disk(place, radius, shape=cells.shape)] = True
    return (rng.normal(1000, 20, cells.shape) + 400 * cells).astype(np.uint16), cells


def segmented(
    capsys: pytest.CaptureFixture[str], model: Path, out: Path, images: list[np.ndarray]
) -> list[str]:
    folder = out.with_name(f"{out.name}_images")
    folder.mkdir()
    for number, image in enumerate(images):
        tifffile.imwrite(folder / f"i{number}.tif", image)
    words = ["--model", str(model), str(folder), "--out", str(out), "--no-rois", "--no-overlays"]
    assert main(words) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    kept = json.loads((out / "settings.json").read_text())["warnings"]
    assert said == [f"warning: {line}" for line in kept]
    return said


def test_segmenting_warns_of_images_unlike_the_training_images(
    tmp_path: Path, changes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    root, model = tmp_path / "data", tmp_path / "trial"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(8):
        image, cells = picture(number)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image)
        tifffile.imwrite(root / "masks" / f"i{number}.tif", components(cells).astype(np.uint16))
    config = TrialConfig(
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=4,
        epochs=4,
        learning_rate=5e-3,
        augmentation="none",
    )
    train(config, open_dataset(root), model)
    record = json.loads((model / "checkpoint.json").read_text())["data"]["appearance"]
    assert record["images"] == 4
    assert record["diameter"] == pytest.approx([18, 18, 18], abs=0.5)

    new = [picture(seed)[0] for seed in range(20, 24)]
    assert segmented(capsys, model, tmp_path / "same", new) == []
    (grey,) = segmented(
        capsys, model, tmp_path / "inverted", [255 - changes.eight_bit(image) for image in new]
    )[:1]
    assert "4 of 4 checked images look different from the model's training images: " in grey
    assert "% of the way from dark to bright (training images: " in grey
    large = segmented(
        capsys, model, tmp_path / "large", [picture(seed, 30, 75)[0] for seed in range(4)]
    )
    assert "pixels across, but those in the model's training images 18 to 18" in large[-1]

    old = shutil.copytree(model, tmp_path / "old")
    manifest = json.loads((old / "checkpoint.json").read_text())
    del manifest["data"]["appearance"]
    (old / "checkpoint.json").write_text(json.dumps(manifest))
    assert segmented(capsys, old, tmp_path / "o", [255 - changes.eight_bit(i) for i in new]) == []
