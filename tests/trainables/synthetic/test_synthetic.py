import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from trainables.synthetic import dataset as synthetic
from trainables.synthetic.dataset import (
    POPULATIONS,
    generate,
    outline_from_text,
    outline_text,
    rasterize,
    render_frame,
    simulate,
)

SMALL = {"sequences": 2, "frames": 2, "seed": 3, "height": 128, "width": 160, "cells": 6}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "objects.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def touching(labels: np.ndarray) -> set[int]:
    found: set[int] = set()
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        meet = (a > 0) & (b > 0) & (a != b)
        found |= set(a[meet].tolist()) | set(b[meet].tolist())
    return found


def polygon_area(outline: np.ndarray) -> float:
    x, y = outline.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def best_threshold_iou(images: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Data-set IoU of the best global threshold of either polarity."""
    edges = np.linspace(
        min(float(i.min()) for i in images), max(float(i.max()) for i in images), 1001
    )
    pairs = zip(images, masks, strict=True)
    cells = np.sum([np.histogram(i[m], edges)[0] for i, m in pairs], axis=0)
    pixels = np.sum([np.histogram(i, edges)[0] for i in images], axis=0)
    best = 0.0
    for c, p in ((cells, pixels), (cells[::-1], pixels[::-1])):
        hit, chosen = np.cumsum(c), np.cumsum(p)
        best = max(best, float((hit / (chosen + c.sum() - hit)).max()))
    return best


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic") / "data", **SMALL)


@pytest.fixture(scope="module")
def sequence() -> list[synthetic.Frame]:
    return list(simulate(frames=12, seed=1, height=452, width=612))


def test_layout(data: Path) -> None:
    stems = ["s00_t000", "s00_t001", "s01_t000", "s01_t001"]
    for kind in ("images", "masks"):
        assert sorted(p.name for p in (data / kind).iterdir()) == [f"{s}.tif" for s in stems]
        for path in (data / kind).iterdir():
            with tifffile.TiffFile(path) as tif:
                page = tif.pages.first
                assert page.shape == (128, 160)
                assert page.dtype == np.uint16
                assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
                assert "DateTime" not in page.tags
                assert "Software" not in page.tags
    description = yaml.safe_load((data / "dataset.yaml").read_text())
    assert description == {"pixel_size_um": 0.323, "groups": {s: s[:3] for s in stems}}
    assert not list(data.parent.glob(".*"))


def test_objects_describe_every_label_exactly(data: Path) -> None:
    table = rows(data)
    assert list(table[0]) == ["image", "label", "track", "population", "outline"]
    for path in sorted((data / "masks").iterdir()):
        labels = tifffile.imread(path)
        mine = [r for r in table if r["image"] == path.stem]
        assert [int(r["label"]) for r in mine] == np.unique(labels)[1:].tolist()
        redrawn = rasterize([outline_from_text(r["outline"]) for r in mine], labels.shape)
        np.testing.assert_array_equal(redrawn, labels)
        assert {r["population"] for r in mine} <= set(POPULATIONS)


def test_same_seed_same_bytes(data: Path, tmp_path: Path) -> None:
    assert digest(generate(tmp_path / "again", **SMALL)) == digest(data)


def test_another_seed_differs(data: Path, tmp_path: Path) -> None:
    other = digest(generate(tmp_path / "other", **{**SMALL, "seed": 4}))
    mine = digest(data)
    same = {name for name in mine if mine[name] == other[name]}
    assert same == {"dataset.yaml"}


def test_more_frames_and_sequences_extend(data: Path, tmp_path: Path) -> None:
    more = digest(generate(tmp_path / "more", **{**SMALL, "frames": 3, "sequences": 3}))
    for name, value in digest(data).items():
        if name.endswith(".tif"):
            assert more[name] == value


def test_sequences_differ(data: Path) -> None:
    first = tifffile.imread(data / "masks" / "s00_t000.tif")
    assert (first != tifffile.imread(data / "masks" / "s01_t000.tif")).any()


def test_labels_are_connected_and_outlines_disjoint(sequence: list[synthetic.Frame]) -> None:
    for frame in sequence[::4]:
        shape = (frame.height, frame.width)
        labels = rasterize([c.outline for c in frame.cells], shape)
        covered = np.zeros(shape, int)
        for cell in frame.cells:
            alone = rasterize([cell.outline], shape) > 0
            assert label(alone)[1] == 1
            np.testing.assert_array_equal(labels == cell.track, alone)
            covered += alone
        assert covered.max() == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), cells=st.integers(1, 10))
def test_crowds_stay_disjoint(seed: int, cells: int) -> None:
    (frame,) = simulate(frames=1, seed=seed, height=128, width=128, cells=cells)
    covered = np.zeros((128, 128), int)
    for cell in frame.cells:
        inside = rasterize([cell.outline], (128, 128)) > 0
        assert label(inside)[1] == 1
        covered += inside
    assert covered.max() == 1


def test_radii_and_populations(sequence: list[synthetic.Frame]) -> None:
    seen: dict[str, int] = {"small": 0, "large": 0}
    for frame in sequence:
        for cell in frame.cells:
            low, high = POPULATIONS[cell.population]
            assert low <= cell.radius <= high
            seen[cell.population] += 1
            measured = np.sqrt(polygon_area(cell.outline) / np.pi)
            assert 0.88 * cell.radius < measured < 1.01 * cell.radius
    assert min(seen.values()) > 0.2 * sum(seen.values())


def test_tracks_persist_and_move(sequence: list[synthetic.Frame]) -> None:
    centers = np.array([[c.center for c in f.cells] for f in sequence])
    for frame in sequence:
        for cell, first in zip(frame.cells, sequence[0].cells, strict=True):
            assert cell.track == first.track
            assert cell.population == first.population
            assert cell.radius == first.radius
    assert centers.min() >= 0
    assert (centers.max(axis=(0, 1)) <= [611, 451]).all()
    steps = np.hypot(*np.moveaxis(np.diff(centers, axis=0), -1, 0))
    assert steps.max() < 10
    assert 0.8 < np.median(steps) < 4
    # Persistent: the way travelled is much longer than that of a random walk.
    travelled = np.hypot(*(centers[-1] - centers[0]).T)
    assert np.median(travelled) > 1.3 * np.median(steps) * np.sqrt(len(steps))


def test_shapes_change_slowly(sequence: list[synthetic.Frame]) -> None:
    # Once the movement of the centre is taken away, labels of a track overlap well.
    shape = (101, 101)
    for before, after in zip(sequence[0].cells, sequence[1].cells, strict=True):
        a, b = (rasterize([c.outline - c.center + 50], shape) > 0 for c in (before, after))
        assert (a & b).sum() / (a | b).sum() > 0.75
        assert (a != b).any()


def test_about_half_the_cells_touch() -> None:
    shares = []
    for seed in (0, 1):
        for frame in simulate(frames=13, seed=seed):
            if frame.index % 6 == 0:
                labels = rasterize([c.outline for c in frame.cells], (frame.height, frame.width))
                shares.append(len(touching(labels)) / len(frame.cells))
    assert min(shares) > 0.35
    assert max(shares) < 0.75


def test_image_and_labels_of_a_frame(sequence: list[synthetic.Frame]) -> None:
    image, labels = render_frame(sequence[0])
    assert image.shape == labels.shape == (452, 612)
    assert image.dtype == labels.dtype == np.uint16
    assert image.min() > 0
    assert image.max() < 65535
    flat = image / gaussian_filter(image.astype(float), 30) - 1
    noise = np.median(np.abs(np.diff(flat, axis=1))) / 0.6745 / np.sqrt(2)
    assert 0.015 < noise < 0.025
    # Blurry dark edge, brighter inner ring, darker middle; per depth inside the outline.
    depth = np.full(labels.shape, -1.0)
    y, x = np.indices(labels.shape)
    for cell in sequence[0].cells:
        inside = labels == cell.track
        along = np.hypot(x[inside] - cell.center[0], y[inside] - cell.center[1])
        depth[inside] = cell.radius - along
    radius = np.array([0.0, *(c.radius for c in sequence[0].cells)])[labels]
    big = radius > 14
    edge = flat[big & (depth > 0) & (depth < 2.5)].mean()
    ring = flat[big & (depth > 0.22 * radius) & (depth < 0.35 * radius)].mean()
    middle = flat[big & (depth > 0.7 * radius)].mean()
    assert edge < -0.01 < 0.01 < ring
    assert middle < ring - 0.01
    assert abs(flat[labels == 0].mean()) < 0.005


def test_debris_is_seen_and_not_labelled() -> None:
    (frame,) = simulate(frames=1, seed=2, height=452, width=612, cells=0)
    image, labels = render_frame(frame)
    assert not labels.any()
    flat = gaussian_filter(image / gaussian_filter(image.astype(float), 20) - 1, 1)
    noise = np.median(np.abs(flat)) / 0.6745
    spots = label(np.abs(flat) > 6 * noise)[1]
    assert spots >= 5


def test_thresholds_fail() -> None:
    images, masks = [], []
    for sequence in range(2):
        (frame,) = simulate(frames=1, seed=0, sequence=sequence, height=452, width=612)
        image, labels = render_frame(frame)
        images.append(image.astype(float))
        masks.append(labels > 0)
    scaled = []
    for image in images:
        low, high = np.percentile(image, [1.0, 99.8])
        scaled.append(np.clip((image - low) / (high - low), -0.5, 1.5))
    flat = [image - gaussian_filter(image, 30) for image in images]
    smooth = [gaussian_filter(image, 1) for image in flat]
    for candidates in (images, scaled, flat, smooth):
        assert best_threshold_iou(candidates, masks) < 0.4


def test_threshold_yardstick_finds_what_is_bright() -> None:
    mask = np.eye(8, dtype=bool)
    for image in (mask * 5.0, mask * -5.0):
        assert best_threshold_iou([image], [mask]) == 1


def test_rasterize_by_hand() -> None:
    triangle = np.array([[0.2, -0.3], [3.7, 3.2], [0.2, 3.2]])
    expected = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(rasterize([triangle], (5, 4)), expected)


def test_outline_text_round_trip() -> None:
    outline = np.array([[1.25, -2.5], [3.0004, 4.0], [0.125, 7.0]])
    assert outline_text(outline) == "[[1.25,-2.5],[3.0,4.0],[0.125,7.0]]"
    np.testing.assert_array_equal(outline_from_text(outline_text(outline)), outline.round(3))


def test_asking_again_changes_nothing(data: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    assert generate(data, **SMALL) == data
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*")} == before


def test_other_arguments_are_refused_by_name(data: Path) -> None:
    before = digest(data)
    with pytest.raises(FileExistsError, match=r"other arguments \(frames, seed differ\)"):
        generate(data, **{**SMALL, "seed": 9, "frames": 1})
    assert digest(data) == before


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        generate(tmp_path, **SMALL)
    (tmp_path / "synthetic.json").write_text("{broken")
    with pytest.raises(FileExistsError, match="not empty"):
        generate(tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match="not a folder"):
        generate(tmp_path / "notes.txt", **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    assert (generate(out, **{**SMALL, "sequences": 1}) / "objects.csv").is_file()


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full_disk(path: Path, *_: object, **__: object) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generate(tmp_path / "deep" / "data", **SMALL)
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequences": 0}, "sequences must be from 1"),
        ({"frames": -1}, "frames must be from 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"sequences": True}, "sequences must be a whole number"),
        ({"height": 10}, "height must be from 64"),
        ({"cells": 0}, "cells must be from 1"),
        ({"cells": 500}, "500 cells do not fit into 160 x 128 pixels: ask for 13 or fewer"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "out", **{**SMALL, **change})
    assert not (tmp_path / "out").exists()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainables.synthetic", *arguments],
        cwd=Path(synthetic.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_command_line(tmp_path: Path) -> None:
    size = ("--sequences", "1", "--frames", "2", "--seed", "3", "--height", "96", "--width", "96")
    out = tmp_path / "data"
    first = command(str(out), *size)
    assert (first.returncode, first.stderr) == (0, "")
    assert "wrote 2 images" in first.stdout
    assert json.loads((out / "synthetic.json").read_text())["seed"] == 3
    again = command(str(out), *size)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    refused = command(str(out), *size, "--cells", "3")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "cells differ" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--sequences", "0"), ("--seed", "-1"), ("--frames", "many"), ("--colour", "red")],
)
def test_command_line_refuses(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = synthetic.main([str(tmp_path / "out"), *arguments])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert arguments[0].lstrip("-") in said
    assert not (tmp_path / "out").exists()


def test_imports_no_torch() -> None:
    code = "import sys, trainables.synthetic; sys.exit('torch' in sys.modules)"
    folder = Path(synthetic.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=500).returncode == 0
