"""Images that are segmented in two goes: killed, interrupted, damaged, taken away, repaired."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import tifffile

from analysis.segment.cli import main
from tests.analysis.segment.command_line import moving, parts, picture, spots, start
from tests.waiting import wait_for


def test_killed_and_resumed_equals_undisturbed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, out, whole = (tmp_path / name for name in ("film.tif", "cut", "whole"))
    tifffile.imwrite(film, moving(14, (160, 200)))
    words = ["--model", str(model), str(film), "--track", "--out"]
    process = start(*words, out, cwd=tmp_path)
    wait_for(lambda: len(parts(out)) >= 3, process)
    process.kill()
    process.wait()
    process.communicate()
    before = parts(out)
    assert 3 <= len(before) < 14
    (out / "labels" / ".film_t0001.tif.0.tmp").write_text("half")
    assert main([*words, str(out)]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert f"{len(before)} of 14 images are already done" in text
    assert before.items() <= parts(out).items(), "what was done is not done again"
    assert not list(out.rglob("*.tmp"))
    whole.mkdir()  # killed before anything else was written
    (whole / ".settings.json.0123abcd.tmp").write_text("half")
    assert main([*words, str(whole)]) == 0
    files = {p.relative_to(out) for p in out.rglob("*.*") if p.is_file()}
    assert files == {p.relative_to(whole) for p in whole.rglob("*.*") if p.is_file()}
    for file in sorted(files - {Path("settings.json")}):
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_says_how_to_go_on(
    model: Path, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.tif"
    tifffile.imwrite(film, moving(60, (160, 200)))
    process = start("--model", model, film, "--out", "out", cwd=tmp_path)
    wait_for(lambda: parts(tmp_path / "out"), process)
    assert main(["--model", str(model), str(film), "--out", str(tmp_path / "out")]) == 2
    assert "another process" in capsys.readouterr().err
    process.send_signal(number)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 130
    assert err == "interrupted; run the same command again to continue\n"


def test_a_page_that_turns_out_damaged(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "film.tif", tmp_path / "out"
    tifffile.imwrite(path, moving(4), compression="zlib", photometric="minisblack")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[2].dataoffsets[0]
    path.write_bytes(whole[:offset] + b"\xff" * 40 + whole[offset + 40 :])
    words = [str(w) for w in ("--model", model, path, "--out", out, "--track")]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: 1 of 4 images could not be segmented: ")
    assert "film.tif: page 2" in err
    assert err.count("\n") == 1
    assert set(parts(out)) == {f"film_t{t:04d}.parquet" for t in (0, 1, 3)}
    assert spots(out, "tracks.csv")["NUMBER_GAPS"].tolist() == [1, 1]
    settings = json.loads((out / "settings.json").read_text())
    assert not settings["finished"]
    assert list(settings["unreadable"]) == ["film_t0002"]
    before = parts(out)
    assert main(words) == 1, "not finished: the same again"
    assert parts(out) == before


def test_a_changed_image_is_another_request(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), str(images / "a1.tif"), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    tifffile.imwrite(images / "a1.tif", picture(99)[0])
    assert main(words) == 2
    assert "image a1 has changed since" in capsys.readouterr().err


def test_what_was_taken_away_or_repaired_is_made_again(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (images / "a2.tif").read_bytes()
    (images / "a2.tif").write_bytes(good[:-3000])
    out = tmp_path / "o"
    words = ["--model", str(model), str(images), "--out", str(out)]
    assert main(words) == 1
    assert "a2.tif" in capsys.readouterr().err
    before = parts(out)
    (images / "a2.tif").write_bytes(good)
    assert main(words) == 0, "it was repaired, the others are not done again"
    assert {k: v for k, v in parts(out).items() if k in before} == before
    whole = {p: p.read_bytes() for p in out.rglob("*.tif")}
    for name in ("labels/a1.tif", "objects.csv", "rois/a11.zip"):
        (out / name).unlink()
    (out / "parts" / "a10.parquet").write_bytes(b"")
    assert main(words) == 0
    assert {p: p.read_bytes() for p in out.rglob("*.tif")} == whole
    assert (out / "objects.csv").is_file()
    assert (out / "rois" / "a11.zip").is_file()
    capsys.readouterr()
    assert main(words) == 0
    assert "is finished" in capsys.readouterr().out
