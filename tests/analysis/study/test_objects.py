"""The object table of one image: who is paired with whom, measured how, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

from analysis.evaluation.images import LabelledImage
from analysis.morphology.features import measure
from analysis.study.annotations import CellAnnotations
from analysis.study.objects import KEYS, CellMeasurer, together
from trainables.data.dataset import DataSet, Item

TRUTH = np.zeros((20, 40), np.int32)
TRUTH[2:12, 2:12] = 3
TRUTH[2:12, 20:30] = 8
FOUND = np.zeros((20, 40), np.int32)
FOUND[2:12, 22:32] = 1  # 80 of 120 pixels of 8
FOUND[15:19, 2:6] = 2  # nothing there
FOUND[2:12, 2:12] = 5  # the same as 3


@pytest.fixture
def image(tmp_path: Path) -> LabelledImage:
    item = Item("t7", tmp_path / "images" / "t7.tif", tmp_path / "masks" / "t7.tif", "fieldB")
    return LabelledImage(item, np.zeros(TRUTH.shape, np.uint16), TRUTH)


@pytest.fixture
def known(tmp_path: Path) -> CellAnnotations:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "t7.tif", TRUTH.astype(np.uint16))
    (tmp_path / "objects.csv").write_text(
        "image,label,track,population\nt7,3,11,round\nt7,8,,spindle\nt8,3,12,other\n"
    )
    return CellAnnotations(DataSet(tmp_path, (), {}, None, ""))


def measurer(known: CellAnnotations, **changes: object) -> CellMeasurer:
    options = {"split": "test", "known": known, "convention": "trackmate_raw"}
    return CellMeasurer(**{**options, "pixel_size_um": None, **changes})  # type: ignore[arg-type]


def found(labels: NDArray[np.int32], image: LabelledImage, of: CellMeasurer) -> pd.DataFrame:
    return of.found_cells(labels, image, method="U-Net", trial_id="unet-s0")


def test_cells_of_a_method_are_paired_with_true_ones(
    image: LabelledImage, known: CellAnnotations
) -> None:
    table = found(FOUND, image, measurer(known))
    assert tuple(table.columns[: len(KEYS)]) == KEYS
    assert KEYS == (
        "trial_id",
        "method",
        "image",
        "group",
        "split",
        "label",
        "matched_label",
        "iou",
        "track",
        "population",
    )
    assert table["label"].tolist() == [1, 2, 5]
    assert table["matched_label"].tolist() == [8, pd.NA, 3]
    assert table["iou"].tolist()[::2] == pytest.approx([80 / 120, 1])
    assert np.isnan(table["iou"][1])
    assert table["track"].tolist() == [pd.NA, pd.NA, 11]
    assert table["population"].tolist() == ["spindle", pd.NA, "round"]
    for name, value in (
        ("trial_id", "unet-s0"),
        ("method", "U-Net"),
        ("image", "t7"),
        ("group", "fieldB"),
        ("split", "test"),
    ):
        assert table[name].tolist() == [value] * 3
    kinds = {name: str(kind) for name, kind in table.dtypes.items()}
    assert kinds["label"] == "int64"
    assert kinds["matched_label"] == kinds["track"] == "Int64"
    assert kinds["population"] == "string"
    assert kinds["iou"] == "float64"


def test_features_are_those_of_measure_in_the_given_convention_and_units(
    image: LabelledImage, known: CellAnnotations
) -> None:
    usual: dict[str, Any] = {"convention": "trackmate", "pixel_size_um": None}
    for options in (usual, {"convention": "skimage", "pixel_size_um": 0.5}):
        table = found(FOUND, image, measurer(known, **options))
        features = measure(FOUND, **options)
        assert list(table.columns[len(KEYS) :]) == list(features.columns.drop("label"))
        pd.testing.assert_frame_equal(table[features.columns], features)


def test_true_cells_are_their_own_partners(image: LabelledImage, known: CellAnnotations) -> None:
    table = measurer(known, split="other").true_cells(image)
    assert table["label"].tolist() == table["matched_label"].tolist() == [3, 8]
    assert table["iou"].tolist() == [1, 1]
    assert table["population"].tolist() == ["round", "spindle"]
    assert set(table["method"]) == {"ground truth"}
    assert set(table["trial_id"]) == {""}
    assert set(table["split"]) == {"other"}


def test_an_image_without_cells_has_no_rows_and_all_columns(
    image: LabelledImage, known: CellAnnotations
) -> None:
    full = found(FOUND, image, measurer(known))
    empty = found(np.zeros_like(FOUND), image, measurer(known))
    assert empty.empty
    assert list(empty) == list(full)
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_tables_of_images_are_joined_and_empty_ones_left_out(
    image: LabelledImage, known: CellAnnotations
) -> None:
    one, none = (found(a, image, measurer(known)) for a in (FOUND, np.zeros_like(FOUND)))
    joined = together([none, one, one])
    assert joined["label"].tolist() == [1, 2, 5, 1, 2, 5]
    assert joined.index.tolist() == list(range(6))
    assert joined.dtypes.to_dict() == one.dtypes.to_dict()
    assert list(together([none, none])) == list(one)
    assert together([none]).empty
