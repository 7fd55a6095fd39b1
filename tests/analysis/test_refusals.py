"""What `analysis.run` refuses in one line, before any work: bad folders, images already seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

from analysis.run import main
from tests.analysis.test_run import Analyse, run


@pytest.fixture
def analyse(capsys: pytest.CaptureFixture[str]) -> Analyse:
    """Run the command in this process, which has imported everything already."""

    def run_here(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_here


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ("copies", "4 of 5 images show"),
        ("renamed", "images/n0.tif (training image i00)"),
        ("validation", "images/n0.tif (validation image i06)"),
        ("8 bits", "images/n0.png (training image i00)"),
        ("part", "images/n0.tif (training image i00)"),
    ],
)
def test_images_that_were_trained_on_are_refused_whatever_their_names(
    seen: str, words: str, swept: Path, cells: Path, tmp_path: Path, analyse: Analyse
) -> None:
    """A test image, and with it images that the networks know."""
    data = tmp_path / "data"

    def put(stem: str, name: str, *, part: slice = slice(None)) -> None:
        for folder in ("images", "masks"):
            (data / folder).mkdir(parents=True, exist_ok=True)
            pixels = tifffile.imread(cells / folder / f"{stem}.tif")[part, part]
            tifffile.imwrite(data / folder / f"{name}.tif", pixels)

    put("i12", "i12")
    if seen == "copies":
        for n in range(4):
            put(f"i0{n}", f"i0{n}")
    else:
        part = slice(10, 90) if seen == "part" else slice(None)
        put("i06" if seen == "validation" else "i00", "n0", part=part)
    if seen == "8 bits":
        pixels = tifffile.imread(data / "images" / "n0.tif").astype(float)
        pixels = (255 * (pixels - pixels.min()) / np.ptp(pixels)).round().astype(np.uint8)
        (data / "images" / "n0.tif").unlink()
        (data / "images" / "n0.png").write_bytes(imagecodecs.png_encode(pixels))
    if seen == "copies":  # the real command line
        code, text, err = run(swept, "--data", data, cwd=tmp_path)
    else:
        code, text, err = analyse(swept, "--data", data)
    assert code == 2
    assert text == ""
    assert words in err
    assert "remove them, or give images that the sweep has not used" in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (swept / "report").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("nothing", "no such folder"),
        ("no plan", "no plan.json"),
        ("broken plan", "plan.json cannot be read"),
        ("no table", "leaderboard.csv is missing"),
        ("none done", "no trial is done yet (5 waiting)"),
        ("data changed", "has changed since the sweep"),
        ("data gone", "--data PATH"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    spoil: str, words: str, swept: Path, tmp_path: Path, analyse: Analyse
) -> None:
    out = tmp_path / "run"
    if spoil != "nothing":
        shutil.copytree(swept, out, ignore=shutil.ignore_patterns("checkpoints", "tune"))
        shutil.copytree(swept / "checkpoints", out / "checkpoints")
    plan = out / "plan.json"
    if spoil == "no plan":
        plan.unlink()
    elif spoil == "broken plan":
        plan.write_text(plan.read_text()[:-40])
    elif spoil == "no table":
        (out / "leaderboard.csv").unlink()
    elif spoil == "none done":
        board = pd.read_csv(out / "leaderboard.csv").assign(status="waiting")
        board.to_csv(out / "leaderboard.csv", index=False)
    elif spoil.startswith("data"):
        told = json.loads(plan.read_text())
        here = tmp_path / "data"
        if spoil == "data changed":
            shutil.copytree(told["data"]["path"], here)
            image = here / "images" / "i00.tif"
            tifffile.imwrite(image, tifffile.imread(image) + 1)
        told["data"]["path"] = str(here)
        plan.write_text(json.dumps(told))
    code, text, err = analyse(out)
    assert code == 2
    assert text == ""
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (out / "report").exists()
