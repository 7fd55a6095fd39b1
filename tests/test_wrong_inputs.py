"""Wrong inputs through the real command lines: refused by name in one line, or said in a note."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from analysis.run import main as analysis_run
from analysis.segment.cli import main as analysis_segment
from sweep.run import main as sweep_run
from tests.conftest import Swept
from trainables.data.dataset import main as data_main

Change = Callable[[Path], object]
BAD = os.fsdecode(b"z\xe4")
"""A name in Latin-1."""


def two_cells(dtype: type[np.generic] = np.uint16, size: int = 40) -> NDArray[Any]:
    labels: NDArray[Any] = np.zeros((size, size), dtype)
    labels[5:15, 5:15] = 1
    labels[20:30, 20:30] = 2
    return labels


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, (40, 40)).astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good data set of five images, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("images", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)
    for number in range(5):
        tifffile.imwrite(tmp_path / f"d/images/i{number}.tif", noise(number))
        tifffile.imwrite(tmp_path / f"d/masks/i{number}.tif", two_cells())
    return tmp_path / "d"


def image(pixels: np.ndarray, **options: object) -> Change:
    return lambda d: tifffile.imwrite(d / "images/i0.tif", pixels, **options)  # type: ignore[arg-type]


def mask(labels: np.ndarray) -> Change:
    return lambda d: tifffile.imwrite(d / "masks/i0.tif", labels)


def both(pixels: np.ndarray, labels: np.ndarray) -> Change:
    return lambda d: (image(pixels)(d), mask(labels)(d))


def text(name: str, content: str | bytes) -> Change:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda d: (d / name).write_bytes(data)


def pair(name: str, copy: bool = False) -> Change:
    move = shutil.copy if copy else os.rename
    return lambda d: [move(d / f / "i0.tif", d / f / name) for f in ("images", "masks")]


def instead(name: str, make: Change) -> Change:
    def change(d: Path) -> None:
        (d / name).unlink(missing_ok=True)
        make(d / name)

    return change


def no_folder(make: Change) -> Change:
    """Make something else of the folder of images."""

    def change(d: Path) -> None:
        shutil.rmtree(d / "images")
        make(d / "images")

    return change


def picture(name: str, content: bytes | bytearray) -> Change:
    def change(d: Path) -> None:
        (d / name).with_suffix(".tif").unlink()
        (d / name).write_bytes(content)

    return change


def header(field: str, value: int) -> Change:
    """Write another number into the header of a TIFF file."""

    def change(d: Path) -> None:
        path = d / "images/i0.tif"
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            place = tiff.pages.first.tags[field].valueoffset
        content[place : place + 2] = value.to_bytes(2, "little")
        path.write_bytes(content)

    return change


def pages(d: Path) -> None:
    with tifffile.TiffWriter(d / "images/i0.tif") as tiff:
        tiff.write(noise())
        tiff.write(noise()[:20, :20])


def label(value: int, dtype: type[np.generic] = np.uint32) -> Change:
    labels = two_cells(dtype)
    labels[labels == 2] = value
    return mask(labels)


def floats(value: float) -> np.ndarray:
    labels = two_cells(np.float32)
    labels[0, 0] = value
    return labels


FLAT = np.full((40, 40), 500, np.uint16)
HEAD = "image,label,track,population\ni0,1,,small\n"
SPLIT = "split: {train: [i0, i1, i2], val: [i3], test: [i4]}\n"

REFUSED: dict[str, tuple[Change, str]] = {
    # names
    "name not UTF-8": (pair(f"{BAD}.tif"), "images/z\\xe4.tif: its name is not UTF-8"),
    "other file not UTF-8": (text(f"images/{BAD}.txt", ""), "images/z\\xe4.txt: its name is not"),
    "line break in a name": (pair("a\nb.tif"), "images/a\\nb.tif: its name contains a control"),
    "stem twice by case of the suffix": (
        lambda d: shutil.copy(d / "images/i0.tif", d / "images/i0.TIFF"),
        "same stem as i0.TIFF",
    ),
    "folder named like an image": (instead("images/i0.tif", Path.mkdir), "images/i0.tif: not a f"),
    "link to itself": (instead("masks/i0.tif", lambda p: p.symlink_to(p)), "masks/i0.tif: not a f"),
    "dead link": (instead("masks/i0.tif", lambda p: p.symlink_to("x")), "masks/i0.tif: not a file"),
    "pipe": (instead("masks/i0.tif", os.mkfifo), "masks/i0.tif: not a file"),
    "images is a link to itself": (
        no_folder(lambda images: images.symlink_to("images")),
        "images/: not a folder, or a link",
    ),
    "images is a file": (
        no_folder(lambda images: images.write_text("")),
        "images/: not a folder",
    ),
    # labels
    "negative labels": (mask(-two_cells(np.int16)), "masks/i0.tif: mask contains negative labels"),
    "fractions": (mask(two_cells(np.float32) / 2), "masks/i0.tif: mask of type float32"),
    "NaN": (mask(floats(np.nan)), "masks/i0.tif: mask of type float32"),
    "infinity": (mask(floats(np.inf)), "masks/i0.tif: mask of type float32"),
    "complex": (mask(two_cells(np.complex64)), "masks/i0.tif: mask of type complex64"),
    "more than the pixels": (
        label(123456),
        "masks/i0.tif: mask contains label 123456 but has only 1600",
    ),
    "more than the pixels, 16 bit": (
        label(65535, np.uint16),
        "mask contains label 65535 but has only",
    ),
    "an image for a mask": (mask(noise()), "masks/i0.tif: mask contains label"),
    "above 2^31": (label(2**31 + 5), "masks/i0.tif: mask contains labels above 2147483647"),
    "above 2^63": (label(2**63 + 5, np.uint64), "masks/i0.tif: mask contains labels above"),
    # pixels
    "flat with cells": (image(FLAT), "images/i0.tif: all pixels are 500, so the cells in"),
    "saturated": (image(np.full((40, 40), 65535, np.uint16)), "images/i0.tif: all pixels are 655"),
    "black": (image(np.zeros((40, 40), np.uint8)), "images/i0.tif: all pixels are 0"),
    "NaN image": (image(np.full((40, 40), np.nan, np.float32)), "images/i0.tif: image of type flo"),
    "signed": (image(noise().astype(np.int16)), "images/i0.tif: image of type int16"),
    "one pixel": (both(FLAT[:1, :1], two_cells()[5:6, 5:6]), "images/i0.tif: 1x1 pixels; each"),
    "one row": (both(noise()[:1], two_cells()[5:6]), "images/i0.tif: 40x1 pixels"),
    "no pixel": (header("ImageLength", 0), "images/i0.tif: cannot be read"),
    "a header of gigabytes": (
        lambda d: (header("ImageLength", 65535)(d), header("ImageWidth", 65535)(d)),
        "images/i0.tif: has 65535 x 65535 pixels; at most",
    ),
    "0-byte TIFF": (text("images/i0.tif", b""), "images/i0.tif: cannot be read"),
    "0-byte mask": (text("masks/i0.tif", b""), "masks/i0.tif: cannot be read"),
    "0-byte PNG": (picture("images/i0.png", b""), "images/i0.png: cannot be read"),
    "PNG that is a TIFF": (
        lambda d: (d / "images/i0.tif").rename(d / "images/i0.png"),
        "images/i0.png: cannot be read",
    ),
    "grey and alpha": (
        picture("images/i0.png", imagecodecs.png_encode(np.zeros((40, 40, 2), np.uint8))),
        "images/i0.png: image of shape (40, 40, 2)",
    ),
    "colour": (
        picture("masks/i0.png", imagecodecs.png_encode(np.zeros((40, 40, 3), np.uint8))),
        "masks/i0.png: colour mask",
    ),
    "two images in a file": (pages, "images/i0.tif: contains 2 images"),
    # dataset.yaml
    "yaml cut in braces": (text("dataset.yaml", SPLIT[:30]), "dataset.yaml: not valid YAML"),
    "yaml cut in a word": (text("dataset.yaml", "pixel_size_um: 0.5\nspl"), "dataset.yaml: not va"),
    "yaml with NUL": (text("dataset.yaml", b"pixel_size_um: 1\n\0\0"), "dataset.yaml: not valid"),
    "yaml in UTF-16": (text("dataset.yaml", SPLIT.encode("utf-16")), "dataset.yaml: not UTF-8"),
    "yaml in Latin-1": (text("dataset.yaml", b"groups: {i0: \xe4}"), "dataset.yaml: not UTF-8"),
    "yaml is a folder": (instead("dataset.yaml", Path.mkdir), "dataset.yaml: cannot be read (Is a"),
    "yaml links to itself": (
        instead("dataset.yaml", lambda p: p.symlink_to(p)),
        "dataset.yaml: cannot be read (Too many levels",
    ),
    "yaml links nowhere": (
        instead("dataset.yaml", lambda p: p.symlink_to("x")),
        "dataset.yaml: cannot be read (No such file",
    ),
    "yaml nested": (text("dataset.yaml", "[" * 1_500), "dataset.yaml: not valid YAML: nested"),
    "yaml key twice": (text("dataset.yaml", SPLIT * 2), "not valid YAML: split appears twice"),
    "image in two groups": (
        text("dataset.yaml", "groups: {i0: a, i0: b, i1: b, i2: c}"),
        "dataset.yaml: not valid YAML: i0 appears twice",
    ),
    "group without name": (
        text("dataset.yaml", "groups: {i0: , i1: a, i2: b, i3: c}"),
        "dataset.yaml: groups.i0: empty",
    ),
    "group is a list": (
        text("dataset.yaml", "groups: {i0: [a], i1: a, i2: b, i3: c}"),
        "dataset.yaml: groups.i0: not a name",
    ),
    "pixel size is NaN": (text("dataset.yaml", "pixel_size_um: .nan"), "dataset.yaml: pixel_size"),
    "pixel size is infinite": (text("dataset.yaml", "pixel_size_um: .inf"), "dataset.yaml: pixel_"),
    "pixel size with comma": (text("dataset.yaml", "pixel_size_um: 0,5"), "dataset.yaml: pixel_s"),
    "dataset.yml": (text("dataset.yml", SPLIT), "dataset.yml: ignored"),
    # objects.csv
    "objects cut in quotes": (text("objects.csv", HEAD + 'i0,2,,"lar'), "unexpected end of data"),
    "objects cut in a row": (text("objects.csv", HEAD + "i0,2"), "objects.csv: line 3 has more or"),
    "objects with NUL": (text("objects.csv", HEAD.encode() + b"\0\0\0"), "objects.csv: line 3 con"),
    "objects empty": (text("objects.csv", ""), "objects.csv: is empty"),
    "objects without columns": (text("objects.csv", "img,lab\ni0,1\n"), "has no column image and"),
    "objects with semicolons": (text("objects.csv", HEAD.replace(",", ";")), "has no column image"),
    "objects in UTF-16": (text("objects.csv", HEAD.encode("utf-16")), "objects.csv: not UTF-8"),
    "objects in Latin-1": (text("objects.csv", HEAD.encode() + b"i0,2,,\xe4\n"), ": not UTF-8"),
    "objects is a folder": (instead("objects.csv", Path.mkdir), "objects.csv: cannot be read"),
    "label is a word": (text("objects.csv", HEAD + "i0,two,,small\n"), "label 'two' is not"),
    "label is missing": (text("objects.csv", HEAD + "i0,,,small\n"), "line 3 has no label"),
    "track is infinite": (text("objects.csv", HEAD + "i0,2,inf,\n"), "line 3: track 'inf' is not"),
    "cell twice": (text("objects.csv", HEAD + "i0,1,,large\n"), "label 1 of image i0 appears"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_right_are_refused(
    name: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, said = REFUSED[name]
    change(root)
    for main, words in (
        (data_main, ["check", str(root)]),
        (sweep_run, ["demo", "--data", str(root), "--plan"]),
    ):
        assert main(words) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(f"error: data set {root}")
        first, *more = err.strip().splitlines()
        assert said in err
        # one line, or one line for each file that is wrong
        assert not more or (first.endswith("problems:") and all(x[:2] == "  " for x in more)), err
    assert not Path("runs").exists()


NOTED: dict[str, tuple[Change, str]] = {
    "upper-case suffix": (pair("i0.TIF"), ""),
    "umlauts": (pair("zäh.tif"), ""),
    "names alike but for case": (
        lambda d: (pair("I0.tif", copy=True)(d), image(noise(9))(d)),
        "I0 and i0",
    ),
    "flat without cells": (
        both(FLAT, two_cells() * 0),
        "blank images (all their pixels are equal): i0",
    ),
    "nearly flat": (image(np.where(np.eye(40) > 0, 501, 500).astype(np.uint16)), ""),
    "small binary mask of 255": (mask((two_cells(size=40) == 1).astype(np.uint8) * 255), ""),
    "yaml with BOM": (text("dataset.yaml", b"\xef\xbb\xbf" + SPLIT.encode()), ""),
    "yaml empty": (text("dataset.yaml", ""), ""),
    "objects with BOM": (text("objects.csv", b"\xef\xbb\xbf" + HEAD.encode()), ""),
    "objects with empty lines": (text("objects.csv", HEAD + "\n,,,\n"), ""),
    "objects with floats": (text("objects.csv", HEAD + "i0,2.0,3.0,\n"), ""),
    "objects of other images": (text("objects.csv", HEAD + "zz,1,,\n"), "do not exist"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_may_be_right_is_at_most_noted(
    name: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, said = NOTED[name]
    change(root)
    assert data_main(["check", str(root)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    always = ("as small as cut-outs", "validation has 1")  # of any data set as small as this
    notes = [line for line in out.splitlines() if "note: " in line]
    notes = [line for line in notes if not any(words in line for words in always)]
    assert len(notes) == bool(said), notes
    assert said in "".join(notes)


def test_known_cells_of_a_table_with_bom(root: Path) -> None:
    """They were lost in silence: the first column was called otherwise."""
    from analysis.study.objects import CellAnnotations
    from trainables.data.dataset import index_dataset

    text("objects.csv", b"\xef\xbb\xbf" + HEAD.encode())(root)
    assert CellAnnotations(index_dataset(root)).get("i0", 1)[1] == "small"


@pytest.mark.parametrize("words", [["--data", BAD], ["--out", BAD]])
def test_paths_that_are_not_utf8_are_refused(
    words: list[str], root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, BAD)
    data = [] if "--data" in words else ["--data", "d"]
    assert sweep_run(["demo", "--plan", *data, *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "z\\xe4: the name is not UTF-8" in err
    assert len(err.strip().splitlines()) == 1


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def line_off(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def add(name: str, more: bytes) -> Change:
    return lambda run: (run / name).write_bytes((run / name).read_bytes() + more)


RUNS: dict[str, tuple[Change, str]] = {
    "leaderboard cut in a row": (lambda r: cut(r / "leaderboard.csv", 0.6), "board.csv cannot"),
    "leaderboard cut between rows": (lambda r: line_off(r / "leaderboard.csv"), "lacks 1 of the 5"),
    "leaderboard with NUL": (add("leaderboard.csv", b"\0\0\0\n"), "contains zero bytes"),
    "leaderboard empty": (text("leaderboard.csv", ""), "leaderboard.csv is missing or empty"),
    "leaderboard not UTF-8": (add("leaderboard.csv", b"\xe4\n"), "board.csv cannot be"),
    "leaderboard with semicolons": (
        lambda r: (r / "leaderboard.csv").write_text(
            (r / "leaderboard.csv").read_text().replace(",", ";")
        ),
        "leaderboard.csv has no column trial_id",
    ),
    "leaderboard a folder": (instead("leaderboard.csv", Path.mkdir), "board.csv cannot"),
    "leaderboard links to itself": (
        instead("leaderboard.csv", lambda p: p.symlink_to(p)),
        "leaderboard.csv cannot be read",
    ),
    "history cut": (lambda r: cut(r / "history.csv", 0.5), "history.csv cannot be read: "),
    "candidates cut": (lambda r: cut(r / "candidates.csv", 0.5), "candidates.csv cannot be read: "),
    "plan cut": (lambda r: cut(r / "plan.json", 0.5), "plan.json"),
    "plan with NUL": (add("plan.json", b"\0\0"), "plan.json"),
    "plan not UTF-8": (add("plan.json", b"\xe4"), "plan.json"),
    "plan empty": (text("plan.json", ""), "plan.json"),
    "plan a list": (text("plan.json", "[]"), "plan.json"),
    "plan of nothing": (text("plan.json", '{"format": 1}'), "plan.json"),
}


@pytest.fixture
def torn(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run's tables; its checkpoints are linked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "run").mkdir()
    for path in swept.iterdir():
        if path.suffix in (".csv", ".json"):
            shutil.copy(path, tmp_path / "run")
    for name in ("ledger", "checkpoints"):
        (tmp_path / "run" / name).symlink_to(swept / name)
    return tmp_path / "run"


@pytest.mark.parametrize("name", RUNS)
def test_torn_tables_of_a_run_are_refused(
    name: str, torn: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change, said = RUNS[name]
    change(torn)
    assert analysis_run([str(torn)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("plan")])
def test_a_sweep_refuses_a_torn_plan(
    name: str, torn: Path, sweep_of_cells: Swept, capfd: pytest.CaptureFixture[str]
) -> None:
    RUNS[name][0](torn)
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--out", str(torn)]
    for more in ([], ["--plan"], ["--resume"]):
        assert sweep_run([*words, *more]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "plan.json is damaged: " in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b'{"trial_id": "a', b"\0\0\0", b"\xe4", b"[]", b"{}"])
def test_a_sweep_refuses_a_torn_record(
    content: bytes, torn: Path, sweep_of_cells: Swept, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger = (torn / "ledger").resolve()
    (torn / "ledger").unlink()
    shutil.copytree(ledger, torn / "ledger")
    record = min((torn / "ledger").glob("*.json"))
    record.write_bytes(content)
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--out", str(torn)]
    for more in ([], ["--plan"], ["--resume"]):
        assert sweep_run([*words, *more]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert f"error: {record} is " in err
        assert len(err.strip().splitlines()) == 1


def test_tables_that_were_cut_are_written_anew(
    torn: Path, sweep_of_cells: Swept, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the refusal says."""
    whole = {name: (torn / name).read_bytes() for name in ("leaderboard.csv", "candidates.csv")}
    for name in whole:
        cut(torn / name, 0.5)
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--out", str(torn)]
    assert sweep_run(words) == 1
    assert {name: (torn / name).read_bytes() for name in whole} == whole
    assert json.loads((torn / "plan.json").read_text())["commands"]


def test_a_damaged_objects_table_stops_the_analysis_at_once(
    torn: Path, cells: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads((torn / "plan.json").read_text())
    shutil.copytree(cells, torn.parent / "cells")
    plan["data"]["path"] = str(torn.parent / "cells")
    (torn / "plan.json").write_text(json.dumps(plan))
    add("objects.csv", b'i00,"1')(torn.parent / "cells")
    assert analysis_run([str(torn)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "objects.csv: line" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "name not UTF-8",
        "line break in a name",
        "no pixel",
        "0-byte TIFF",
        "0-byte PNG",
        "PNG that is a TIFF",
        "colour image",
        "two images in a file",
        "NaN image",
    ],
)
def test_segment_refuses_images_by_name(
    name: str, root: Path, torn: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    colour = picture("images/i0.png", imagecodecs.png_encode(np.zeros((40, 40, 3), np.uint8)))
    change, said = {**REFUSED, "colour image": (colour, "images/i0.png: colour image")}[name]
    change(root)
    words = ["--model", str(torn), str(root / "images"), "--out", "cells"]
    assert analysis_segment(words) == 2
    err = capfd.readouterr().err
    assert said.split(":")[0] in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("cells").exists()
