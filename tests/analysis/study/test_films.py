"""Which images are frames of a film, and their numbers; tables for TrackMate that have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from analysis.evaluation.images import LabelledImages
from analysis.evidence import TRUTH
from analysis.study.annotations import CellAnnotations
from analysis.study.files import file_names, write_tables
from analysis.study.films import frames_of
from analysis.study.objects import CellMeasurer, together
from tests.analysis.evidence_data import make_evidence
from trainables.data.dataset import DataSet, index_dataset
from trainables.data.splits import DataOptions


def dataset_of(root: Path, stems: list[str], content: dict[str, Any], **options: Any) -> DataSet:
    """Write images of two cells that never move."""
    labels = np.zeros((40, 40), np.uint16)
    labels[4:14, 4:14], labels[22:34, 20:32] = 3, 7
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem in stems:
        pixels = (1000 + 400 * (labels > 0) + rng.normal(0, 20, labels.shape)).astype(np.uint16)
        tifffile.imwrite(root / "images" / f"{stem}.tif", pixels)
        tifffile.imwrite(root / "masks" / f"{stem}.tif", labels)
    (root / "dataset.yaml").write_text(yaml.safe_dump(content))
    return index_dataset(root, DataOptions(**options))


def numbers(dataset: DataSet) -> dict[str, tuple[str, int | None]]:
    table = frames_of(dataset)
    assert table["frame"].dtype == "Int64"
    frames = [None if pd.isna(frame) else int(frame) for frame in table["frame"]]
    return dict(zip(table["image"], zip(table["sequence"], frames)))


def films(**numbered: list[str]) -> dict[str, Any]:
    return {"groups": {stem: group for group, stems in numbered.items() for stem in stems}}


def test_a_number_in_the_names_is_the_frame_and_gaps_count(tmp_path: Path) -> None:
    groups = films(a=["a_t000", "a_t010", "a_t020"], b=["b_t7", "b_t11"], c=["c_t3"])
    found = numbers(dataset_of(tmp_path, list(groups["groups"]), groups))
    assert found == {
        "a_t000": ("a", 0),
        "a_t010": ("a", 10),
        "a_t020": ("a", 20),
        "b_t7": ("b", 7),
        "b_t11": ("b", 11),
        "c_t3": ("c", None),  # alone: no film
    }


@pytest.mark.parametrize(
    ("stems", "frames"),
    [
        (["red", "green", "blue"], {"blue": 0, "green": 1, "red": 2}),
        (["p1_t1", "p1_t2", "p2_t1"], {"p1_t1": 0, "p1_t2": 1, "p2_t1": 2}),
        (["t1", "t01", "t2"], None),  # which of the first two is frame 1?
        (["20240101120000", "20240101120100", "20240101120200"], None),
    ],
)
def test_other_names_are_numbered_in_their_order(
    stems: list[str], frames: dict[str, int] | None, tmp_path: Path
) -> None:
    dataset = dataset_of(
        tmp_path, [*stems, "x", "y"], {"groups": {**dict.fromkeys(stems, "a"), "x": "x", "y": "y"}}
    )
    found = {stem: frame for stem, (_, frame) in numbers(dataset).items() if stem in stems}
    if frames is None:
        assert sorted(frame for frame in found.values() if frame is not None) == [0, 1, 2]
    else:
        assert found == frames


def test_frames_count_from_the_start_of_the_film_whatever_was_trained_on(tmp_path: Path) -> None:
    stems = [f"t{n:02d}" for n in range(10)]
    dataset = dataset_of(tmp_path, stems, {}, split="time_blocks", gap_frames=1)
    found = numbers(dataset)
    assert found["t09"] == ("all images", 9)
    assert "t00" in dataset.split["train"]
    assert "t09" in dataset.split["test"]


def test_without_groups_a_frame_interval_makes_a_film(tmp_path: Path) -> None:
    stems = [f"t{n}" for n in range(1, 6)]
    film = dataset_of(tmp_path / "film", stems, {"frame_interval_s": 30})
    assert numbers(film)["t4"] == ("all images", 4)
    fields = dataset_of(tmp_path / "fields", stems, {})
    assert numbers(fields)["t4"] == ("t4", None)


def test_tables_for_trackmate_have_times_and_tracks_of_their_own(tmp_path: Path) -> None:
    """Two films that number their tracks alike, of which the later frames are measured."""
    stems = [f"{film}_t{n:03d}" for film in ("p", "q") for n in (5, 6, 9)]
    content = {
        "pixel_size_um": 0.5,
        "frame_interval_s": 60,
        "groups": {stem: stem[0] for stem in stems} | {"x": "x", "y": "y"},
        "split": {"train": ["x"], "val": ["y"], "test": ["p", "q"]},
    }
    data = dataset_of(tmp_path / "data", [*stems, "x", "y"], content)
    rows = [f"{stem},{label},{track}" for stem in stems for label, track in ((3, 0), (7, 4))]
    (tmp_path / "data" / "objects.csv").write_text("\n".join(["image,label,track", *rows, ""]))
    measurer = CellMeasurer("test", CellAnnotations(data), "trackmate", 0.5)
    tables, images = [], LabelledImages()
    for item in data.subset("test"):
        image = images.read(item)
        tables.append(measurer.true_cells(image))
        found = np.where(image.truth == 7, 1, 0).astype(np.int32)
        found[0:3, 36:40] = 2  # a cell that is not there
        tables.append(measurer.found_cells(found, image, method="A, b", trial_id="t")[0])
    evidence = replace(
        make_evidence(),
        objects=together(tables),
        frames=frames_of(data),
        settings={"pixel_size_um": 0.5, "frame_interval_s": 60.0},
    )
    report = tmp_path / "report"
    (report / "trackmate").mkdir(parents=True)
    (report / "trackmate" / "of_an_earlier_method.csv").write_text("")
    write_tables(evidence, report)

    written = sorted(path.name for path in (report / "trackmate").iterdir())
    assert written == ["A_b.csv", "ground_truth.csv"]
    true, one = (
        pd.read_csv(report / "trackmate" / name, skiprows=[1, 2, 3])
        for name in ("ground_truth.csv", "A_b.csv")
    )
    assert true["FRAME"].tolist() == [5, 5, 6, 6, 9, 9] * 2
    assert true["POSITION_T"].tolist() == [300, 300, 360, 360, 540, 540] * 2
    assert true["TRACK_ID"].tolist() == [0, 1] * 3 + [2, 3] * 3
    assert true["ID"].is_unique
    assert true["GROUP"].tolist() == ["p"] * 6 + ["q"] * 6
    matched = one["MATCHED_LABEL"] == 7
    assert one.loc[matched, "TRACK_ID"].tolist() == [1] * 3 + [3] * 3, "of the true cell"
    assert one.loc[~matched, "TRACK_ID"].isna().all()
    assert one["FRAME"].tolist() == [5, 5, 6, 6, 9, 9] * 2
    plain = pd.read_csv(report / "objects.csv")
    assert list(plain) == list(evidence.objects)
    assert plain["method"].value_counts().to_dict() == {TRUTH: 12, "A, b": 12}


def test_names_of_files_are_safe_and_different() -> None:
    names = ["ground truth", "U-Net, ResNet-18", "a/b", "A b", "../x", ".", "ü" * 300, "a" * 300]
    files = file_names(names)
    assert files["../x"] == "x.csv"
    assert files["."] == "method.csv"
    assert files["A b"] == "A_b-2.csv"
    lower = [name.casefold() for name in files.values()]
    assert len(set(lower)) == len(names)
    assert all(len(name) < 120 and "/" not in name and name[0] != "." for name in lower)
