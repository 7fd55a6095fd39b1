"""The real command line on images without masks: compared, refused, and gone again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from analysis.evidence import FEATURES
from analysis.run import main
from tests.analysis.page_text import claims, drawn, visible


def table(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "report" / f"{name}.csv")


def film(folder: Path, frames: int = 4) -> Path:
    """Draw round cells like those of `swept`, which move by a pixel from frame to frame."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows, columns = np.indices((100, 120))
    for frame in range(frames):
        cells = np.zeros(rows.shape, bool)
        for n, (row, column) in enumerate(product((18, 48, 78), (20, 50, 80))):
            cells |= np.hypot(rows - row, columns - column - frame) < (8, 11)[n % 2]
        image = rng.normal(1000, 30, rows.shape) + 400 * cells
        tifffile.imwrite(folder / f"t{frame}.tif", image.astype(np.uint16))
    return folder


@pytest.mark.slow  # two analyses
def test_images_without_masks(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(swept, out, ignore=shutil.ignore_patterns("tune", "wandb"))

    def analyse(*more: object) -> tuple[int, str, str]:
        code = main([*map(str, (out, "--budget", 12, "--resamples", 300, *more))])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, text, err = analyse("--unlabelled", film(tmp_path / "film"))
    assert code == 0, text + err
    assert "images without masks: 4 frames of 1 field" in text
    objects = pd.read_parquet(out / "report" / "unlabelled_objects.parquet")
    methods = table(out, "methods")
    ways = methods[methods["representative"]].drop_duplicates("way")["method"].tolist()
    there = [method for method in ways if (objects["method"] == method).any()]
    assert objects["method"].unique().tolist() == there
    for method in set(ways) - set(there):
        assert f"{method} found no cell" in text
    assert set(objects["frame"]) == {0, 1, 2, 3}
    first = objects[objects["method"] == ways[0]]
    assert first["track"].nunique() >= 8
    assert first.groupby("track").size().max() == 4
    assert objects["area_um2"].to_numpy() == pytest.approx(objects["area"].to_numpy() / 4)
    assert len(table(out, "unlabelled_objects")) == len(objects)
    found = table(out, "unlabelled_statistics")
    pairs = len(there) * (len(there) - 1) // 2
    assert pairs
    assert len(found) == pairs * len(FEATURES)
    assert (found["units_a"] >= 6).all()
    assert found["unit_difference_low"].notna().all()
    assert found.loc[found["feature"] == "area", "verdict"].notna().all()
    page = out / "report" / "index.html"
    said = visible(page)
    assert claims(said) == []
    assert "4 frames without masks of 1 field" in said
    assert "nobody knows which method is right" in said
    assert f"n = {int((~first['left_out']).sum())}" in " ".join(drawn(page)["figure9_unlabelled"])
    before = {name: table(out, name) for name in ("methods", "statistics", "scores")}
    code, _, err = analyse()
    assert code == 0, err
    assert not list((out / "report").glob("unlabelled*"))
    assert "without masks" not in visible(page)
    for name, frame in before.items():  # as with these images
        pd.testing.assert_frame_equal(table(out, name), frame)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("missing", "no such file or folder"),
        ("empty", "no TIFF or PNG file in this folder"),
        ("colour", "colour"),
    ],
)
def test_unlabelled_images_that_cannot_be_used_are_refused(
    spoil: str, words: str, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "film"
    if spoil != "missing":
        folder.mkdir()
    if spoil == "colour":
        pixels = np.zeros((20, 20, 3), np.uint8)
        tifffile.imwrite(folder / "t0.tif", pixels, photometric="rgb")
        command = [sys.executable, "-m", "analysis.run", str(swept), "--unlabelled", "film"]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=200)
        code, text, err = done.returncode, done.stdout, done.stderr
    else:
        code = main([str(swept), "--unlabelled", str(folder)])
        text, err = capsys.readouterr()
    assert (code, text) == (2, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (swept / "report").exists()
