"""checkpoint.json, read without torch: what is there, what is missing, what is damaged."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from trainables.config import Normalization, TrialConfig
from trainables.data.normalization import Intensities
from trainables.errors import CheckpointError
from trainables.records.manifest import (
    first_line,
    input_record,
    library_versions,
    missing_file,
    read_intensities,
    read_manifest,
    sha256_of,
)

WHOLE: dict[str, Any] = {
    "format": 1,
    "weights": {"file": "weights.pt", "sha256": "abc"},
    "config": {},
    "input": {"mean": 0.5, "std": 0.25},
}
SHARED = TrialConfig(normalization=Normalization(mode="dataset"))


def put(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint.json").write_text(json.dumps(content))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    return str(caught.value).replace(str(folder), "HERE")


def test_versions_of_what_determines_a_result_and_of_others() -> None:
    found = library_versions("pytest", "no-such-library")
    assert list(found) == [
        "segsweep",
        "torch",
        "lightning",
        "segmentation-models-pytorch",
        "timm",
        "numpy",
        "pytest",
        "no-such-library",
    ]
    assert found["numpy"] == version("numpy")
    assert found["pytest"] == version("pytest")
    assert found["no-such-library"] == "not installed as a package"


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\r\n\0cells")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"\r\n\0cells").hexdigest()


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("this\nand that")) == "this"
    assert first_line(ValueError()) == "ValueError"


def test_intensities_are_recorded_only_if_all_images_share_them() -> None:
    assert input_record(0.5, 0.25, None) == {"mean": 0.5, "std": 0.25}
    assert input_record(0.5, 0.25, Intensities(100.0, 900.0, 16)) == {
        "mean": 0.5,
        "std": 0.25,
        "low": 100.0,
        "high": 900.0,
        "bits": 16,
    }


def test_intensities_are_read_where_the_configuration_needs_them() -> None:
    given = {"input": {"low": "100.5", "high": 900, "bits": 8.0}}
    path = Path("c.json")
    assert read_intensities(given, SHARED, path) == Intensities(100.5, 900.0, 8)
    assert isinstance(read_intensities(given, SHARED, path), Intensities)
    assert read_intensities(given, TrialConfig(), path) is None
    assert read_intensities({}, TrialConfig(), path) is None


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({}, "c.json is damaged: it has no intensities (KeyError('input'))"),
        ({"input": {"high": 2, "bits": 8}}, "it has no intensities (KeyError('low'))"),
        ({"input": {"low": 1, "bits": 8}}, "it has no intensities (KeyError('high'))"),
        ({"input": {"low": 1, "high": 2}}, "it has no intensities (KeyError('bits'))"),
        ({"input": None}, "it has no intensities (TypeError"),
        ({"input": {"low": "dark", "high": 2, "bits": 8}}, "it has no intensities (ValueError"),
        (
            {"input": {"low": 7, "high": 7, "bits": 8}},
            "c.json is damaged: its intensities go from 7 to 7",
        ),
        ({"input": {"low": 8, "high": 7, "bits": 8}}, "its intensities go from 8 to 7"),
    ],
)
def test_intensities_that_cannot_be(manifest: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_intensities(manifest, SHARED, Path("c.json"))
    assert expected in str(caught.value)
    assert str(caught.value).startswith("c.json is damaged: ")


def test_a_whole_manifest_is_returned_as_it_is(tmp_path: Path) -> None:
    content = {**WHOLE, "what a later version adds": ["µ"]}
    assert read_manifest(put(tmp_path / "t", content)) == content


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert refused(tmp_path) == "HERE is not a checkpoint: it has no checkpoint.json"


def test_a_manifest_of_another_version(tmp_path: Path) -> None:
    folder = put(tmp_path, {**WHOLE, "format": 2, "versions": {"segsweep": "9.1"}})
    assert refused(folder) == (
        "HERE/checkpoint.json has format 2, but this version reads 1; "
        "it was written by segsweep 9.1"
    )
    assert "written by segsweep None" in refused(put(tmp_path, {**WHOLE, "format": 0}))


@pytest.mark.parametrize(
    ("lacking", "name"),
    [
        (("format",), "format"),
        (("weights",), "weights"),
        (("weights", "file"), "file"),
        (("weights", "sha256"), "sha256"),
        (("config",), "config"),
        (("input",), "input"),
        (("input", "mean"), "mean"),
        (("input", "std"), "std"),
    ],
)
def test_a_manifest_that_lacks_something(
    tmp_path: Path, lacking: tuple[str, ...], name: str
) -> None:
    content = json.loads(json.dumps(WHOLE))
    inner = content
    for key in lacking[:-1]:
        inner = inner[key]
    del inner[lacking[-1]]
    assert refused(put(tmp_path, content)) == f"HERE/checkpoint.json is damaged: it has no {name!r}"


@pytest.mark.parametrize(
    "change",
    [{"weights": None}, {"input": {"mean": "grey", "std": 1}}, {"input": {"mean": 1, "std": None}}],
)
def test_a_manifest_with_what_cannot_be(tmp_path: Path, change: dict[str, Any]) -> None:
    said = refused(put(tmp_path, {**WHOLE, **change}))
    assert said.startswith("HERE/checkpoint.json is damaged: ")
    assert len(said) > len("HERE/checkpoint.json is damaged: ")
    assert "\n" not in said


def test_which_file_of_a_checkpoint_is_missing(tmp_path: Path) -> None:
    assert missing_file(tmp_path) == tmp_path / "checkpoint.json"
    put(tmp_path, WHOLE)
    assert missing_file(tmp_path) == tmp_path / "weights.pt"
    (tmp_path / "weights.pt").mkdir()
    assert missing_file(tmp_path) == tmp_path / "weights.pt", "a folder is no file"
    (tmp_path / "weights.pt").rmdir()
    (tmp_path / "weights.pt").touch()
    assert missing_file(tmp_path) is None
    (tmp_path / "checkpoint.json").write_text("{")
    assert missing_file(tmp_path) is None, "damaged, but there"
