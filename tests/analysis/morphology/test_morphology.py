"""Morphology: hand-computed squares, what the real programs give, regionprops, discs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import label as connected
from skimage.measure import regionprops_table

from analysis.morphology.features import CONVENTIONS, EXTRAS, FEATURES, measure, outlines

GOLDEN = Path(__file__).parent
"""What TrackMate 8.1.7, ImageJ 1.53t and scikit-image 0.26.0 gave: see its README."""


@pytest.mark.parametrize("image", ["discs", "special", "corner_holes"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_agrees_with_the_real_programs(convention: str, image: str) -> None:
    golden = pd.read_csv(GOLDEN / f"{convention}.csv")
    golden = golden[golden["image"] == image].set_index("label")
    labels = tifffile.imread(GOLDEN / f"{image}.tif")
    found = measure(labels, convention=convention).set_index("label")
    assert list(found.index) == list(golden.index)
    for feature in FEATURES:
        difference = (found[feature] - golden[feature]).abs()
        assert (found[feature].isna() == golden[feature].isna()).all(), feature
        near = difference[~(difference <= 1e-6) & difference.notna()]
        # TrackMate itself is off by one pixel for objects on the left or top border
        assert convention == "trackmate" or near.empty, feature
        assert feature in "xy" or near.empty, feature
        border = {*np.unique(labels[0]), *np.unique(labels[:, 0])}
        assert set(near.index) <= border
        assert (near <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("convention", "radius", "perimeter", "circularity"),
    [
        ("trackmate_raw", 5, 39.9, 0.621),
        ("trackmate_raw", 10, 79.9, 0.618),
        ("trackmate_raw", 20, 160.0, 0.617),
        ("trackmate", 5, 32.4, 0.920),
        ("trackmate", 10, 64.3, 0.945),
        ("trackmate", 20, 128.8, 0.952),
        ("skimage", 5, 30.2, 1.086),
        ("skimage", 10, 63.3, 0.984),
        ("skimage", 20, 129.7, 0.939),
    ],
)
def test_mean_of_shifted_discs(
    convention: str, radius: int, perimeter: float, circularity: float
) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: 2 * radius + 8, : 2 * radius + 8]
    tables = []
    for dy, dx in radius + 3 + rng.random((200, 2)):
        disc = (rows - dy) ** 2 + (columns - dx) ** 2 <= radius**2
        tables.append(measure(disc, convention=convention))
    mean = pd.concat(tables)[["perimeter", "circularity"]].mean()
    assert mean["perimeter"] == pytest.approx(perimeter, rel=0.01)
    assert mean["circularity"] == pytest.approx(circularity, rel=0.01)


def test_hand_computed_rectangle() -> None:
    image = np.zeros((9, 9), np.uint16)
    image[2:5, 1:5] = 7
    row = measure(image, convention="trackmate_raw", pixel_size_um=0.5).iloc[0]
    expected = {
        "label": 7,
        "x": 2.5,
        "y": 3,
        "area": 12,
        "perimeter": 14,
        "solidity": 1,
        "parts": 1,
        "circularity": 4 * math.pi * 12 / 14**2,
        "radius": math.sqrt(12 / math.pi),
        "shape_index": 14 / math.sqrt(12),
        "area_um2": 3,
        "perimeter_um": 7,
        "radius_um": math.sqrt(12 / math.pi) / 2,
        "num_pixels": 12,
        "top": 2,
        "left": 1,
        "bottom": 5,
        "right": 5,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name


def test_the_largest_part_is_measured_and_parts_are_counted() -> None:
    image = np.zeros((12, 20), int)
    image[1:3, 1:3] = 5
    image[5:9, 5:9] = 5
    image[10, 18] = 5
    image[9, 9] = 3  # joins nothing of label 5 by its corner
    image[10, 10] = 3  # joined to the other by a corner: one part
    for convention in CONVENTIONS:
        table = measure(image, convention=convention).set_index("label")
        assert table["parts"].tolist() == [1, 3]
        assert table.loc[5, "num_pixels"] == 16
        assert table.loc[5, "x"] == pytest.approx(7.0 if convention == "imagej" else 6.5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_no_objects_no_rows(convention: str) -> None:
    for shape in ((0, 0), (1, 1), (5, 7)):
        table = measure(np.zeros(shape, np.uint8), convention=convention, pixel_size_um=2.0)
        assert len(table) == 0
        assert {"label", *FEATURES, "area_um2", "parts"} <= set(table)


def test_a_dropped_object_has_an_empty_row() -> None:
    image = np.zeros((5, 5), int)
    image[2, 2] = 1
    table = measure(image)
    assert table[list(FEATURES)].isna().all(axis=None)
    assert table[["label", "parts", "num_pixels"]].to_numpy().tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((2, 2)), {}, "must contain integers"),
        (np.zeros((2, 2, 2), int), {}, "two dimensions"),
        (np.full((2, 2), -1), {}, "negative"),
        (np.zeros((2, 2), int), {"convention": "fiji"}, "trackmate"),
        (np.zeros((2, 2), int), {"pixel_size_um": 0.0}, "positive"),
        (np.zeros((2, 2), int), {"pixel_size_um": math.nan}, "positive"),
    ],
)
def test_bad_input_is_refused(image: np.ndarray, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure(image, **options)  # type: ignore[arg-type]


blobs = hnp.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@settings(max_examples=150, deadline=None)
@given(blobs)
def test_skimage_convention_is_regionprops(mask: np.ndarray) -> None:
    labels = connected(mask, connectivity=2)
    check_regionprops(labels)


def test_skimage_convention_is_regionprops_on_large_blobs() -> None:
    rng = np.random.default_rng(0)
    for sigma in (1.0, 3.0, 6.0):
        field = ndimage.gaussian_filter(rng.standard_normal((150, 170)), sigma)
        check_regionprops(connected(field > 0.1 * field.std(), connectivity=2))


def check_regionprops(labels: np.ndarray) -> None:
    found = measure(labels, convention="skimage")
    if not labels.any():
        assert found.empty
        return
    names = {
        "area": "area",
        "perimeter": "perimeter",
        "solidity": "solidity",
        "x": "centroid-1",
        "y": "centroid-0",
        "eccentricity": "eccentricity",
        "num_pixels": "num_pixels",
        "axis_major_length": "axis_major_length",
        "axis_minor_length": "axis_minor_length",
        "top": "bbox-0",
        "left": "bbox-1",
        "bottom": "bbox-2",
        "right": "bbox-3",
    }
    properties = {name.split("-")[0] for name in names.values()} | {"label", "orientation"}
    expected = regionprops_table(labels, properties=tuple(properties))
    assert found["label"].tolist() == expected["label"].tolist()
    for ours, theirs in names.items():
        # an axis is the root of a difference that cancels: half the digits
        near = 1e-6 if "axis" in ours or ours == "eccentricity" else 1e-9
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-9, atol=near)
    long = found["eccentricity"] > 0.2  # a round object has no direction
    turned = np.abs(found["orientation"] - expected["orientation"])[long]
    assert (np.minimum(turned, math.pi - turned) < 1e-6).all()


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)
    ),
    # TrackMate rounds in single precision, so that ties depend on the place
    st.sampled_from([c for c in CONVENTIONS if c != "trackmate"]),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_shifting_an_image_shifts_centroids_only(
    image: np.ndarray, convention: str, down: int, right: int
) -> None:
    there = measure(image, convention=convention)
    moved = measure(np.pad(image, ((down, 2), (right, 1))), convention=convention)
    rest = [f for f in FEATURES if f not in "xy"]
    pd.testing.assert_frame_equal(there[["label", *rest]], moved[["label", *rest]])
    np.testing.assert_allclose(moved["x"] - there["x"], np.where(there["x"].isna(), np.nan, right))
    np.testing.assert_allclose(moved["y"] - there["y"], np.where(there["y"].isna(), np.nan, down))
    assert (there["solidity"].dropna() <= 1 + 1e-12).all()


def test_labels_of_any_integer_type_and_size() -> None:
    image = np.zeros((8, 8), np.int64)
    image[1:4, 1:4], image[5:8, 4:8] = 70_000, 2**40
    assert measure(image)["label"].tolist() == [70_000, 2**40]
    image[image > 0] = 200
    kinds: tuple[type[np.integer], ...] = (np.uint8, np.int16, np.uint32, np.uint64)
    for kind in kinds:
        assert measure(image.astype(kind))["label"].tolist() == [200]


def test_outlines_are_those_that_are_measured() -> None:
    labels = tifffile.imread(GOLDEN / "special.tif")
    for convention in ("trackmate", "trackmate_raw"):
        table = measure(labels, convention=convention).set_index("label")
        areas = dict(zip(table.index.tolist(), table["area"].tolist()))
        for label, polygon in outlines(labels, convention=convention).items():
            if not len(polygon):
                assert math.isnan(areas[label])
                continue
            x, y = polygon.T
            area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
            assert area == pytest.approx(areas[label])
    with pytest.raises(ValueError, match="trackmate"):
        outlines(labels, convention="skimage")


def test_columns_and_their_order() -> None:
    image = np.zeros((9, 9), int)
    image[2:5, 1:5] = 7
    plain = ["label", *FEATURES]
    assert list(measure(image)) == [*plain, *EXTRAS]
    units = ["area_um2", "perimeter_um", "radius_um"]
    assert list(measure(image, pixel_size_um=2)) == [*plain, *units, *EXTRAS]
    pd.testing.assert_frame_equal(measure(image), measure(image, convention="trackmate"))
    assert measure(image)["perimeter"][0] != measure(image, convention="skimage")["perimeter"][0]


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (
            np.zeros((2, 2), int),
            {"convention": "fiji"},
            "unknown convention 'fiji': use trackmate, trackmate_raw, imagej, skimage",
        ),
        (
            np.zeros((2, 2), int),
            {"pixel_size_um": math.inf},
            "pixel_size_um must be positive, not inf",
        ),
        (np.zeros((2, 2), int), {"pixel_size_um": -1}, "pixel_size_um must be positive, not -1"),
        (np.zeros(3, int), {}, "a label image must have two dimensions, not shape (3,)"),
        (np.zeros((2, 2), np.float32), {}, "a label image must contain integers, not float32"),
        (np.full((2, 2), -1), {}, "a label image must not contain negative numbers"),
        (np.full((2, 2), 2**63, np.uint64), {}, "labels must be smaller than 2**63"),
    ],
)
def test_what_is_said_of_bad_input(image: np.ndarray, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        measure(image, **options)
    assert str(caught.value) == words


def test_labels_and_sizes_at_the_edge_of_what_is_allowed() -> None:
    image = np.zeros((6, 6), np.uint64)
    image[1:4, 1:4] = 2**63 - 1
    assert measure(image)["label"].tolist() == [2**63 - 1]
    assert len(measure(np.zeros((0, 3), np.int32))) == 0
    assert len(measure(np.zeros((0, 3), np.uint64))) == 0
    assert measure(image > 0, pixel_size_um=0.5)["area_um2"][0] * 4 == measure(image > 0)["area"][0]
    assert measure(image.tolist())["label"].tolist() == [2**63 - 1]  # type: ignore[arg-type]


def test_outlines_by_hand() -> None:
    image = np.zeros((8, 9), np.uint8)
    image[2:4, 3:6] = 5
    image[6, 7] = 9
    found = outlines(image, convention="trackmate_raw")
    assert set(found) == {5, 9}
    corners = {tuple(point) for point in found[5].tolist()}
    assert {(2.5, 1.5), (5.5, 1.5), (5.5, 3.5), (2.5, 3.5)} <= corners
    assert found[5].min(0).tolist() == [2.5, 1.5]
    assert found[5].max(0).tolist() == [5.5, 3.5]
    simplified = outlines(image)
    assert len(simplified[9]) == 0, "one pixel cannot be simplified"
    assert 0 < len(simplified[5]) < len(found[5]) or len(found[5]) == 4
    with pytest.raises(ValueError) as caught:
        outlines(image, convention="imagej")
    assert str(caught.value) == "outlines need trackmate or trackmate_raw, not imagej"
