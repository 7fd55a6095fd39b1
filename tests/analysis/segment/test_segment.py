"""The real command line on new images: whole, killed, refused, in sequences."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.draw import disk
from skimage.measure import label as components

from analysis.formats.imagej import read_rois
from analysis.segment.cli import Segmenter, main, segment
from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.data.imagefiles import read_image
from trainables.train import train

ROOT = Path(__file__).parents[3]


def picture(seed: int, shape: tuple[int, int] = (96, 110), cells: int = 5) -> np.ndarray:
    rng, labels = np.random.default_rng(seed), np.zeros(shape, bool)
    for _ in range(cells):
        labels[disk(rng.integers(12, np.array(shape) - 12), 9, shape=shape)] = True
    return (rng.normal(1000, 30, shape) + 400 * labels).astype(np.uint16), labels


def moving(frames: int, shape: tuple[int, int] = (100, 120)) -> np.ndarray:
    """Two discs: one moves 4 px right, the other 3 px down in every frame."""
    rng, stack = np.random.default_rng(7), []
    for t in range(frames):
        image = rng.normal(1000, 30, shape)
        for center in ((25, 20 + 4 * t), (30 + 3 * t, 95)):
            image[disk(center, 9, shape=shape)] += 400
        stack.append(image.astype(np.uint16))
    return np.stack(stack)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small network that was trained on discs for a few seconds."""
    root = tmp_path_factory.mktemp("model")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(10):
        image, cells = picture(number)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image)
        tifffile.imwrite(root / "masks" / f"i{number}.tif", components(cells).astype(np.uint16))
    config = TrialConfig(
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=4,
        epochs=6,
        learning_rate=5e-3,
        augmentation="none",
    )
    train(config, open_dataset(root), root / "trial")
    # whole or tiles is decided by a rounding here, and differs between processors: say it
    predicts_in_tiles(root / "trial", None)
    return root / "trial"


def predicts_in_tiles(checkpoint: Path, side: int | None) -> None:
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    manifest["inference"]["tile"] = side
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def tiled_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, as if its trial had chosen tiles of 64."""
    tiled = tmp_path_factory.mktemp("tiled") / "trial"
    shutil.copytree(model, tiled)
    predicts_in_tiles(tiled, 64)
    return tiled


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder with 8 and 16 bit, TIFF and PNG, unequal sizes, and one image without cells."""
    folder = tmp_path / "field"
    folder.mkdir()
    tifffile.imwrite(folder / "a1.tif", picture(50)[0])
    tifffile.imwrite(folder / "a2.tif", (picture(51, (75, 133))[0] // 8).astype(np.uint8))
    (folder / "a10.png").write_bytes(imagecodecs.png_encode(picture(52, (130, 90))[0]))
    tifffile.imwrite(folder / "a11.tif", np.full((60, 70), 1000, np.uint16))
    return folder


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "analysis.segment", *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*words: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*words, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def parts(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (out / "parts").glob("*.parquet")}


def spots(out: Path, name: str = "objects.csv") -> pd.DataFrame:
    return pd.read_csv(out / name, skiprows=[1, 2, 3])


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
    assert settings["model"]["parameters"]["threshold"] == 0.5

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    code, text, err = run(*words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "is finished" in text
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_calibrated_parameters_are_used_and_said(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

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


def test_killed_and_resumed_equals_undisturbed(model: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "film.tif", moving(14, (400, 500)))
    words = ("--model", model, "film.tif", "--track", "--out")
    process, out = start(*words, "cut", cwd=tmp_path), tmp_path / "cut"
    deadline = time.monotonic() + 120
    while len(parts(out)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.communicate()
    before = parts(out)
    assert 3 <= len(before) < 14
    (out / "labels" / ".film_t0001.tif.0.tmp").write_text("half")
    code, text, err = run(*words, "cut", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert f"{len(before)} of 14 images are done already" in text
    assert before.items() <= parts(out).items(), "what was done is not done again"
    assert not list(out.rglob("*.tmp"))
    (tmp_path / "whole").mkdir()  # killed before anything else was written
    (tmp_path / "whole" / ".settings.json.0123abcd.tmp").write_text("half")
    assert run(*words, "whole", cwd=tmp_path)[0] == 0
    files = {p.relative_to(out) for p in out.rglob("*.*") if p.is_file()}
    assert files == {
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*") if p.is_file()
    }
    for file in sorted(files - {Path("settings.json")}):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_says_how_to_go_on(model: Path, tmp_path: Path, number: int) -> None:
    tifffile.imwrite(tmp_path / "film.tif", moving(30, (500, 500)))
    process = start("--model", model, "film.tif", "--out", "out", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(parts(tmp_path / "out")) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    second = run("--model", model, "film.tif", "--out", "out", cwd=tmp_path)
    assert second[0] == 2 or process.poll() is not None
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if process.returncode != 0:  # else it was faster than the second one
        assert process.returncode == 130
        assert err == "interrupted; the same command goes on\n"
        assert "another process" in second[2]


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model nowhere field --out out", "nowhere"),
        ("--model field field --out out", "field is neither a checkpoint"),
        ("--model MODEL field gone.tif --out out", "gone.tif: no such file"),
        ("--model MODEL --out out", "IMAGES"),
        ("--model MODEL field", "--out"),
        ("--model MODEL field/a1.tif --out out --track", "--track needs a sequence"),
        ("--model MODEL field --out out --max-distance 9", "--max-distance belongs to --track"),
        ("--model MODEL field --out out --pixel-size-um 0", "must be positive"),
        ("--model MODEL field --out field", "field is the folder of the images"),
        ("--model MODEL field --out field/a1.tif", "is a file"),
        ("--model MODEL field --out busy", "busy holds other files"),
        ("--model MODEL field --out out --tile 100", "multiple of 32"),
        ("--model MODEL field --out out --tile half", "choose auto, whole, or a number"),
        (
            "--model MODEL field --out old --convention imagej --tile 96",
            "another request (--tile: whole there, tiles of 96 here",
        ),
        ("--model MODEL field --out old", "another request (--convention: imagej there"),
        ("--model MODEL field/a1.tif --out old --convention imagej", "4 images there, 1 here"),
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
        assert f"images are predicted: {said}\n" in capsys.readouterr().out
        settings = json.loads((out / "settings.json").read_text())
        assert settings["request"]["inference"]["tile"] == (None if tile == "whole" else 64)
    np.testing.assert_array_equal(found["auto"], found["64"])
    assert (found["auto"] != found["whole"]).any()
    # the same tiles by another word are the same request
    words = ["--model", str(tiled_model), str(images / "a10.png"), "--out", str(tmp_path / "64")]
    assert main(words) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_changed_image_is_another_request(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), str(images / "a1.tif"), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    tifffile.imwrite(images / "a1.tif", picture(99)[0])
    assert main(words) == 2
    assert "image a1 was changed since" in capsys.readouterr().err


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
        for wrong, words in ((image, "finite"), (image > 0, "numbers"), ([[1, "a"]], "numbers")):
            with pytest.raises(ValueError, match=words):
                one(wrong)  # type: ignore[arg-type]


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
    from trainables.synthetic.dataset import generate

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
