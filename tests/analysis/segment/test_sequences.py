"""Sequences by the real command line: tracked, told apart, and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from skimage.draw import disk

from analysis.formats.imagej import read_rois
from analysis.segment.cli import main
from analysis.segment.folder import Options, write_cells
from analysis.segment.inputs import list_frames
from analysis.segment.model import choose_model, normalizer
from tests.analysis.segment.command_line import ROOT, moving, picture, run, spots
from trainables.synthetic.dataset import generate


@pytest.mark.parametrize("imagej", [True, False])
def test_a_stack_is_tracked(
    model: Path, tmp_path: Path, imagej: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "film.tif", tmp_path / "out"
    tifffile.imwrite(path, moving(6), imagej=imagej)
    words = ("--model", model, path, "--out", out, "--track", "--frame-interval", 20)
    assert main([*map(str, words), "--pixel-size-um", "2", "--max-distance", "9"]) == 0
    assert "2 tracks" in capsys.readouterr().out
    tracks = spots(out, "tracks.csv").sort_values("TRACK_X_LOCATION")
    right, down = tracks.to_dict("records")
    assert right["NUMBER_SPOTS"] == down["NUMBER_SPOTS"] == 6
    assert right["TRACK_DURATION"] == 100
    assert right["TRACK_MEAN_SPEED"] == pytest.approx(4 * 2 / 20, rel=0.1)
    assert down["TRACK_DISPLACEMENT"] == pytest.approx(15 * 2, rel=0.1)
    assert right["CONFINEMENT_RATIO"] > 0.95
    plain = pd.read_csv(out / "objects_plain.csv")
    assert set(plain["sequence"]) == {"film"}
    assert spots(out)["TRACK_ID"].tolist() == plain["track_id"].tolist()
    assert spots(out)["POSITION_T"].tolist() == (plain["frame"] * 20).tolist()
    for name, cells in plain.groupby("image"):
        labels = tifffile.imread(out / "labels" / f"{name}.tif")
        followed = tifffile.imread(out / "tracked" / f"{name}.tif")
        for row in cells.to_dict("records"):
            assert set(followed[labels == row["label"]]) == {row["track_id"] + 1}
    from roifile import roiread

    assert {roi.position for roi in roiread(out / "rois" / "film_t0004.zip")} == {5}


MEMORY = """
import sys, resource
from analysis.segment import folder as segmenting
from analysis.segment.cli import main
sizes, real = [], segmenting.segment_frame
def measured(*words):
    count = real(*words)
    with open("/proc/self/statm") as handle:
        sizes.append(int(handle.read().split()[1]) * resource.getpagesize() / 2**20)
    return count
segmenting.segment_frame = measured
code = main(sys.argv[1:])
print("MB", *sizes)
sys.exit(code)
"""


@pytest.mark.slow
def test_47_frames_take_no_more_memory_than_a_few(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    with tifffile.TiffWriter(path) as tiff:
        for t in range(47):
            tiff.write(picture(t, (928, 1280), 300)[0], contiguous=True)
    words = [sys.executable, "-c", MEMORY, "--model", str(model), str(path), "--out", "out"]
    done = subprocess.run(
        [*words, "--track"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    sizes = [float(w) for w in done.stdout.split("MB ")[1].split()]
    assert len(sizes) == 47
    assert max(sizes[10:]) < max(sizes[3:10]) + 60, sizes


def test_the_generators_sequences_are_tracked_apart(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = generate(tmp_path / "d", sequences=2, frames=3, seed=1, height=200, width=230, cells=4)
    words = ("--model", model, root / "images", "--out", tmp_path / "out", "--track")
    assert main([*map(str, words), "--no-rois", "--max-distance", "9"]) == 0
    text = capsys.readouterr().out
    assert "6 images" in text
    frames = json.loads((tmp_path / "out" / "settings.json").read_text())["request"]["images"]
    assert [(f["sequence"], f["number"]) for f in frames] == [
        (name, number) for name in ("s00", "s01") for number in range(3)
    ]
    plain = pd.read_csv(tmp_path / "out" / "objects_plain.csv")
    tracks = plain.dropna(subset="track_id").groupby("track_id")["sequence"].nunique()
    assert (tracks == 1).all()
    # trained on images of 110x96
    assert "the images (230x200 pixels) are much larger" in text
    assert "110x96" in text
    assert "--set normalization=dataset" in text


def side_by_side(frames: int, shape: tuple[int, int] = (100, 120)) -> NDArray[np.uint16]:
    """Two discs with a gap of two pixels that move together, 3 px right in every frame."""
    rng, stack = np.random.default_rng(3), []
    for t in range(frames):
        image = rng.normal(1000, 30, shape)
        for y in (35, 55):
            image[disk((y, 20 + 3 * t), 9, shape=shape)] += 400
        stack.append(image.astype(np.uint16))
    return np.stack(stack)


def test_a_fused_pair_is_split_in_all_files(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "film.tif", tmp_path / "out"
    tifffile.imwrite(path, side_by_side(8))
    words = [str(w) for w in ("--model", model, path, "--out", out, "--track")]
    assert main(words) == 0
    assert "2 tracks" in capsys.readouterr().out
    assert not (out / "fused").exists()
    # as if the network had shown both as one cell in the fourth frame
    frame, options = list_frames([path])[3], Options(track=True)
    fused = tifffile.imread(out / "labels" / "film_t0003.tif")
    assert fused.max() == 2
    fused[44:47, 22:36] = 1
    fused[fused > 0] = 1
    choice = choose_model(model)
    write_cells(out, frame, options, frame.read(), fused.astype(np.int32), normalizer(choice))
    (out / "objects.csv").unlink()
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "1 objects were split into 2 cells" in text
    assert "16 cells, 2 tracks" in text
    written = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert np.array_equal(tifffile.imread(out / "fused" / "film_t0003.tif"), fused)
    assert len(pd.read_parquet(out / "fused" / "film_t0003.parquet")) == 1
    labels = tifffile.imread(out / "labels" / "film_t0003.tif")
    assert np.array_equal(labels > 0, fused > 0)
    assert labels.max() == 2
    assert read_rois(out / "rois" / "film_t0003.zip", fused.shape).max() == 2
    plain = pd.read_csv(out / "objects_plain.csv")
    assert list(plain)[-3:] == ["tracked_label", "short_track", "split"]
    assert plain.loc[plain["split"], "image"].tolist() == ["film_t0003"] * 2
    assert plain.groupby("track_id").size().tolist() == [8, 8]
    assert not plain["short_track"].any()
    assert plain["area"].min() > 0.75 * plain["area"].max(), "cells were measured again"
    tracking = json.loads((out / "settings.json").read_text())["tracking"]
    assert (tracking["fused_objects"], tracking["cells_from_fused"]) == (1, 2)
    assert tracking["max_gap"] == 3
    # again from what is kept: the same files
    (out / "objects.csv").unlink()
    assert main(words) == 0
    again = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    settings = out / "settings.json"
    assert {p: b for p, b in again.items() if p != settings} == {
        p: b for p, b in written.items() if p != settings
    }
    # the frame is segmented again, and is not fused now: nothing old is left
    (out / "labels" / "film_t0003.tif").unlink()
    assert main(words) == 0
    assert list((out / "fused").iterdir()) == []
    assert "were split" not in capsys.readouterr().out.splitlines()[-3]
    assert main([*words, "--no-split"]) == 2
    assert "--no-split was False, is now True" in capsys.readouterr().err


def test_cells_without_a_track_stay_in_the_tracked_images(model: Path, tmp_path: Path) -> None:
    film = moving(12)
    film[5][disk((75, 30), 9)] += 400  # in one frame only
    tifffile.imwrite(tmp_path / "film.tif", film)
    out = tmp_path / "out"
    code, text, err = run(
        "--model", model, "film.tif", "--out", "out", "--track", "--no-split", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert "1 cells have no track" in text
    plain = pd.read_csv(out / "objects_plain.csv")
    alone = plain[plain["track_id"].isna()]
    assert alone["image"].tolist() == ["film_t0005"]
    assert alone["short_track"].all()
    for name, cells in plain.groupby("image"):
        labels = tifffile.imread(out / "labels" / f"{name}.tif")
        followed = tifffile.imread(out / "tracked" / f"{name}.tif")
        assert np.array_equal(labels > 0, followed > 0)
        for label, number in zip(cells["label"], cells["tracked_label"]):
            assert set(followed[labels == label]) == {number}
    assert alone["tracked_label"].tolist() == [3]


def test_no_tracking_is_not_another_request_because_of_tracking(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of earlier versions know another gap and nothing of splitting."""
    words = ["--model", str(model), str(images), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    path = tmp_path / "o" / "settings.json"
    settings = json.loads(path.read_text())
    settings["request"]["options"]["max_gap"] = 1
    del settings["request"]["options"]["split"]
    path.write_text(json.dumps(settings))
    capsys.readouterr()
    assert main(words) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([*words, "--no-split"]) == 2
    assert "--no-split works only with --track" in capsys.readouterr().err
