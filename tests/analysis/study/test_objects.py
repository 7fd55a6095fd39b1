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
    return of.found_cells(labels, image, method="U-Net", trial_id="unet-s0")[0]


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
        "overlap_label",
        "outcome",
        "at_border",
        "left_out",
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
    assert kinds["overlap_label"] == "Int64"
    assert kinds["at_border"] == kinds["left_out"] == "bool"
    assert table["overlap_label"].tolist() == [8, pd.NA, 3]
    assert table["outcome"].tolist() == ["found", "invented", "found"]


def test_a_cell_has_the_population_of_the_true_cell_that_it_overlaps_most(
    image: LabelledImage, known: CellAnnotations
) -> None:
    fused = np.zeros_like(FOUND)
    fused[2:12, 2:29] = 4  # all of 3, and 90 of the 100 pixels of 8: an IoU of 100 / 270
    table = found(fused, image, measurer(known))
    assert table["matched_label"].isna().all()
    assert table["population"].tolist() == ["round"]
    assert table["track"].tolist() == [11]
    assert table["outcome"].tolist() == ["merged"]


def test_cells_at_the_border_and_all_that_overlap_them_most_are_left_out(
    image: LabelledImage, known: CellAnnotations
) -> None:
    truth = TRUTH.copy()
    truth[16:20, 30:36] = 9  # touches the lower border
    truth[0, 15] = 10  # the upper one
    labels = FOUND.copy()
    labels[16:19, 30:36] = 7  # the same cell as 9, not quite to the border
    labels[10:20, 12:14] = 8  # invented, at the border
    labels[2:12, 32:40] = 9  # touches the right border; its true cell does not
    labels[labels == 1] = 0
    truth[2:12, 31:39] = 8
    truth[2:12, 20:30] = 0
    other = LabelledImage(image.item, image.image, truth)
    true = measurer(known).true_cells(other).set_index("label")
    assert true["left_out"].to_dict() == {3: False, 8: False, 9: True, 10: True}
    assert true["at_border"].equals(true["left_out"])
    table = found(labels, other, measurer(known)).set_index("label")
    assert table["at_border"].to_dict() == {2: False, 5: False, 7: False, 8: True, 9: True}
    assert table["left_out"].to_dict() == {2: False, 5: False, 7: True, 8: True, 9: False}


def test_errors_say_where_they_are_from(image: LabelledImage, known: CellAnnotations) -> None:
    errors = measurer(known).found_cells(FOUND, image, method="U-Net", trial_id="unet-s0")[1]
    keys = errors[["method", "image", "group", "split"]].drop_duplicates()
    assert keys.to_numpy().tolist() == [["U-Net", "t7", "fieldB", "test"]]
    counts = errors.set_index("cause")[["true_cells", "predicted_cells"]]
    assert list(counts.loc["boundary"]) == [2, 2]
    assert list(counts.loc["invented"]) == [0, 1]


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
