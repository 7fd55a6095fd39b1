"""Sequences by the real command line: tracked, told apart, and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from analysis.segment.cli import main
from tests.analysis.segment.command_line import ROOT, moving, picture, spots
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
