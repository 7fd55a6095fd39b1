"""The real command line on new images: whole folders, parameters, tiles, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.measure import label as components

from analysis.formats.imagej import read_rois
from analysis.segment.cli import Segmenter, main, segment
from analysis.segment.inputs import list_frames
from analysis.segment.tables import _parts
from tests.analysis.segment.command_line import picture, predicts_in_tiles, run, spots
from trainables.data.imagefiles import read_image


@pytest.fixture(scope="module")
def tiled_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, as if its trial had chosen tiles of 64."""
    tiled = tmp_path_factory.mktemp("tiled") / "trial"
    shutil.copytree(model, tiled)
    predicts_in_tiles(tiled, 64)
    return tiled


def test_everything_of_a_folder(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("b.jpg", "c.JPG", "notes.txt", ".DS_Store", "._a1.tif"):
        (images / name).write_text("")
    (images / "more").mkdir()
    words = ("--model", model, "field", "--out", "out", "--pixel-size-um", 0.5)
    code, text, err = run(*words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "default" in text
    (skipped,) = [line for line in text.splitlines() if "skipped" in line]
    assert skipped.startswith("note: skipped 5 files: ")
    assert "b.jpg, c.JPG (lossy compression changes intensities: export" in skipped
    assert "notes.txt (only .tif, .tiff and .png are read)" in skipped
    assert "more/ (a folder" in skipped
    assert "._a1.tif (hidden" in skipped
    assert "DS_Store" not in skipped
    names = ["a1", "a2", "a10", "a11"]
    for folder, suffix in (
        ("labels", "tif"),
        ("binary", "png"),
        ("overlays", "png"),
        ("rois", "zip"),
        ("parts", "parquet"),
    ):
        assert {p.name for p in (out / folder).iterdir()} == {f"{n}.{suffix}" for n in names}
    plain = pd.read_csv(out / "objects_plain.csv")
    assert list(plain)[:8] == ["image", "frame", "label", "track_id", "sequence", "x", "y", "area"]
    assert list(dict.fromkeys(plain["image"])) == ["a1", "a2", "a10"]
    with Segmenter(model) as network:
        for name in names:
            file = next(images.glob(f"{name}.*"))
            labels = tifffile.imread(out / "labels" / f"{name}.tif")
            assert labels.dtype == np.uint16
            image = read_image(file)
            assert np.array_equal(labels, network(image))
            assert np.array_equal(labels, segment(image, network))
            cells = plain[plain["image"] == name]
            assert cells["label"].tolist() == np.unique(labels[labels > 0]).tolist()
            inner = labels[1:-1, 1:-1]
            outside = np.ones(labels.shape, bool)
            outside[1:-1, 1:-1] = False
            touching = {n for n in np.unique(labels) if n and (outside & (labels == n)).any()}
            assert set(cells.loc[cells["at_border"], "label"]) == touching
            assert set(cells.loc[~cells["at_border"], "label"]) <= set(np.unique(inner))
            mask = imagecodecs.png_decode((out / "binary" / f"{name}.png").read_bytes())
            assert components(mask, connectivity=1).max() == len(cells)
            rois = read_rois(out / "rois" / f"{name}.zip", labels.shape)
            assert (rois[labels > 0] == labels[labels > 0]).all()
            for row in cells.to_dict("records"):
                assert row["intensity_mean"] == pytest.approx(image[labels == row["label"]].mean())
    assert (plain["image"] == "a1").sum() >= 3
    trackmate = spots(out)
    assert trackmate["LABEL"].tolist() == [
        f"{i}:{n}" for i, n in zip(plain["image"], plain["label"])
    ]
    np.testing.assert_allclose(trackmate["AREA"], plain["area_um2"])
    # nobody said that these images are of one sequence
    assert trackmate["FRAME"].isna().all()
    assert trackmate["POSITION_T"].isna().all()
    assert plain["frame"].isna().all()
    from roifile import roiread

    assert {roi.position for roi in roiread(out / "rois" / "a2.zip")} == {0}
    settings = json.loads((out / "settings.json").read_text())
    assert settings["finished"]
    assert settings["objects"] == len(plain)
    part = out / "parts" / "a1.parquet"  # as an earlier version wrote it
    pd.read_parquet(part).drop(columns="at_border").to_parquet(part, index=False)
    frame = next(one for one in list_frames([images]) if one.name == "a1")
    (again,) = _parts(out, [frame], {})
    assert again["at_border"].tolist() == plain.loc[plain["image"] == "a1", "at_border"].tolist()
    assert settings["model"]["parameters"]["threshold"] == 0.5

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    code, text, err = run(*words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "is finished" in text
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_calibrated_parameters_are_used_and_said(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "trial"
    shutil.copytree(model, mine)
    weights = json.loads((mine / "checkpoint.json").read_text())["weights"]["sha256"]
    chosen = {"threshold": 0.25, "seed_depth": 0.7, "min_size": 90, "smoothing": 0.5}
    calibration = {"format": 1, "weights": weights, "calibrated": chosen}
    (mine / "calibration.json").write_text(json.dumps(calibration))
    file = str(images / "a1.tif")
    assert main(["--model", str(mine), file, "--out", str(tmp_path / "o"), "--no-rois"]) == 0
    text = capsys.readouterr().out
    assert "threshold 0.25" in text
    assert "calibrated (calibration.json)" in text
    assert not (tmp_path / "o" / "rois").exists()
    assert json.loads((tmp_path / "o" / "settings.json").read_text())["model"]["calibrated"]
    assert main(["--model", str(model), file, "--out", str(tmp_path / "o"), "--no-rois"]) == 2
    assert "parameters" in capsys.readouterr().err


def test_the_same_images_by_another_path_are_the_same_request(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["--model", str(model), "--out", str(out), "--no-rois", "--no-overlays"]
    assert main([*words, str(images)]) == 0
    (tmp_path / "link").symlink_to(images)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    monkeypatch.chdir(images)
    files = sorted(path.name for path in images.iterdir())
    for given in ([f"{images}/"], ["."], [str(tmp_path / "link")], files, files[::-1]):
        capsys.readouterr()
        assert main([*words, *given]) == 0, given
        assert "is finished" in capsys.readouterr().out, given
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    # earlier versions kept paths as they were given, in that order
    settings = json.loads((out / "settings.json").read_text())
    settings["request"]["images"].reverse()
    for one in settings["request"]["images"]:
        one["path"] = one["path"].replace(str(images), str(tmp_path / "link"))
    (out / "settings.json").write_text(json.dumps(settings))
    assert main([*words, str(images)]) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model nowhere field --out out", "nowhere"),
        ("--model field field --out out", "field is neither a checkpoint"),
        ("--model MODEL field gone.tif --out out", "gone.tif: no such file"),
        ("--model MODEL --out out", "IMAGES"),
        ("--model MODEL field", "--out"),
        ("--model MODEL field/a1.tif --out out --track", "--track needs a time-lapse"),
        (
            "--model MODEL field --out out --max-distance 9",
            "--max-distance works only with --track",
        ),
        ("--model MODEL field --out out --pixel-size-um 0", "must be positive"),
        ("--model MODEL field --out field", "field is the folder of the images"),
        ("--model MODEL field --out field/a1.tif", "is a file"),
        ("--model MODEL field --out busy", "busy already contains other files"),
        ("--model MODEL field --out out --tile 100", "multiple of 32"),
        ("--model MODEL field --out out --tile half", "choose auto, whole, or a number"),
        (
            "--model MODEL field --out old --convention imagej --tile 96",
            "another request (--tile was whole, is now tiles of 96",
        ),
        ("--model MODEL field --out old", "another request (--convention was imagej, is now"),
        (
            "--model MODEL field/a1.tif --out old --convention imagej",
            "it had 4 images, now there are 1",
        ),
    ],
)
def test_refusals(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "mine.txt").write_text("")
    if "old" in words:
        old = ["--model", str(model), "field", "--out", "old", "--convention", "imagej"]
        assert main(old) == 0
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main([str(model) if w == "MODEL" else w for w in words.split()])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said
    assert sorted(tmp_path.rglob("*")) == before


def test_images_are_predicted_in_the_tiles_that_were_asked_for(
    tiled_model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for tile in ("auto", "64", "whole"):
        out = tmp_path / tile
        words = ["--model", str(tiled_model), str(images / "a10.png"), "--out", str(out)]
        assert main([*words, "--tile", tile]) == 0
        found[tile] = tifffile.imread(out / "labels" / "a10.tif")
        said = "whole" if tile == "whole" else "tiles of 64"  # what the trial chose
        assert f"prediction: {said}\n" in capsys.readouterr().out
        settings = json.loads((out / "settings.json").read_text())
        assert settings["request"]["inference"]["tile"] == (None if tile == "whole" else 64)
    np.testing.assert_array_equal(found["auto"], found["64"])
    assert (found["auto"] != found["whole"]).any()
    # the same tiles by another word are the same request
    words = ["--model", str(tiled_model), str(images / "a10.png"), "--out", str(tmp_path / "64")]
    assert main(words) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["weights", "missing", "calibration"])
def test_a_damaged_checkpoint_is_refused_before_anything(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    shutil.copytree(model, tmp_path / "m")
    weights = tmp_path / "m" / "weights.pt"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    else:
        (tmp_path / "m" / "calibration.json").write_text("{")
    assert main(["--model", str(tmp_path / "m"), str(images), "--out", str(tmp_path / "o")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert ("calibration.json" if damage == "calibration" else "weights.pt") in err
    assert not (tmp_path / "o").exists()


def test_python_refuses_what_is_no_image(model: Path) -> None:
    image = picture(1)[0].astype(float)
    image[3, 4] = np.nan
    with Segmenter(model) as one:
        for wrong, words in ((image, "NaN"), (image > 0, "numbers"), ([[1, "a"]], "numbers")):
            with pytest.raises(ValueError, match=words):
                one(wrong)  # type: ignore[arg-type]


def test_no_word_on_sizes_where_all_images_are_scaled_alike(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(model, tmp_path / "trial")
    manifest = json.loads((mine / "checkpoint.json").read_text())
    manifest["config"]["normalization"]["mode"] = "dataset"
    manifest["input"].update(low=950.0, high=1450.0, bits=16)
    (mine / "checkpoint.json").write_text(json.dumps(manifest))
    large = picture(3, (250, 300))[0]
    tifffile.imwrite(tmp_path / "large.tif", large)
    tifffile.imwrite(tmp_path / "part.tif", large[:96, :110])
    words = [str(w) for w in ("--model", mine, tmp_path / "large.tif", "--out", tmp_path / "o")]
    assert main([*words, "--no-rois"]) == 0
    assert "much larger" not in capsys.readouterr().out
    # another type of image cannot be scaled so: said for the image
    (tmp_path / "eight.png").write_bytes(imagecodecs.png_encode((large // 8).astype(np.uint8)))
    words[2], words[4] = str(tmp_path / "eight.png"), str(tmp_path / "p")
    assert main([*words, "--no-rois"]) == 2
    assert "8 bit, but the training images had 16 bit" in capsys.readouterr().err
