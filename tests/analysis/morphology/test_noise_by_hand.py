"""What pixels alone do, against pixels counted by hand and the relations between the columns."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.morphology.noise import (
    FEATURES,
    SHAPES,
    SHIFTS,
    ideal_features,
    noise_floor,
)


def value(table: pd.DataFrame, shape: str, feature: str, column: str) -> float:
    """Return one value of the table of a single area."""
    (found,) = table.loc[(table["shape"] == shape) & (table["feature"] == feature), column]
    return float(found)


def test_one_row_for_every_area_shape_and_feature() -> None:
    table = noise_floor([50.0, 200], shifts=3)
    assert list(table) == [
        "area",
        "radius",
        "shape",
        "feature",
        "ideal",
        "bias",
        "sd",
        "relative_bias",
        "relative_sd",
    ]
    keys = [(a, s, f) for a in (50, 200) for s in SHAPES for f in FEATURES]
    assert list(table[["area", "shape", "feature"]].itertuples(index=False, name=None)) == keys
    assert FEATURES == (
        "area",
        "perimeter",
        "circularity",
        "solidity",
        "radius",
        "shape_index",
    )
    assert SHAPES == {"disc": 1.0, "ellipse 3:2": 1.5}
    np.testing.assert_allclose(table["radius"], np.sqrt(table["area"] / math.pi))
    for row in table.to_dict("records"):
        expected = ideal_features(math.sqrt(row["area"] / math.pi), SHAPES[row["shape"]])
        assert row["ideal"] == expected[row["feature"]]
    np.testing.assert_allclose(table["relative_bias"], table["bias"] / table["ideal"])
    np.testing.assert_allclose(table["relative_sd"], table["sd"] / table["ideal"])


def test_shapes_have_the_area_that_was_asked_for() -> None:
    """Pixels whose centres lie in a shape that is anywhere number its area, on average."""
    for area in (60.0, 300.0):
        table = noise_floor([area], convention="trackmate_raw")
        rows = table[table["feature"] == "area"]
        standard_error = rows["sd"] / math.sqrt(SHIFTS)
        assert (rows["bias"].abs() < 3.5 * standard_error).all()
        assert (rows["sd"] > 0).all()
        # a solid of pixels fills less of its hull, and an ellipse is longer around than a disc
        assert (table[table["feature"] == "solidity"]["bias"] < 0).all()
        around = table[table["feature"] == "perimeter"]["ideal"].tolist()
        assert 1.03 < around[1] / around[0] < 1.04


def test_an_ellipse_is_seen_as_long_as_it_is() -> None:
    """At a size where pixels hardly count, its circularity in skimage's convention is its own."""
    table = noise_floor([20_000.0], convention="skimage", shifts=5)
    for shape in SHAPES:
        assert abs(value(table, shape, "circularity", "relative_bias")) < 0.1
        assert abs(value(table, shape, "area", "relative_bias")) < 0.001
    disc, ellipse = (
        sum(value(table, shape, "circularity", column) for column in ("ideal", "bias"))
        for shape in SHAPES
    )
    assert 0.9 < ellipse / disc < 0.95


def test_draws_follow_seed_and_number() -> None:
    first, again = (noise_floor([80.0], shifts=30, seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert (noise_floor([80.0], shifts=30, seed=5)["sd"] != first["sd"]).any()
    assert (noise_floor([80.0], shifts=31, seed=4)["bias"] != first["bias"]).any()
    assert noise_floor([80.0], shifts=1)["sd"].isna().all(), "one has no spread"
    two = noise_floor([80.0], shifts=2)
    assert two["sd"].notna().all()
    assert (two.loc[two["feature"] == "circularity", "sd"] > 0).all()


def test_the_smallest_cells_may_have_no_features() -> None:
    """TrackMate drops one or two pixels: what is left counts, or nothing is known."""
    table = noise_floor([0.5], convention="trackmate", shifts=20)
    assert table["bias"].isna().all()
    assert table["sd"].isna().all()
    pair, raw = (
        noise_floor([3.0], convention=convention, shifts=60)
        for convention in ("trackmate", "trackmate_raw")
    )
    assert pair["bias"].notna().all()
    assert value(pair, "disc", "area", "bias") != value(raw, "disc", "area", "bias")


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_areas_that_cannot_be(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"^areas must be positive numbers$"):
        noise_floor([10.0, wrong])


def test_features_of_an_ellipse_by_hand() -> None:
    found = ideal_features(3.0)
    assert list(found) == list(FEATURES)
    assert found["area"] == pytest.approx(9 * math.pi)
    assert found["perimeter"] == pytest.approx(6 * math.pi)
    assert (found["solidity"], found["radius"]) == (1, 3)
    # half axes 2 and 1: 9.6884..., by the Gauss-Kummer series
    long = ideal_features(math.sqrt(2), 2.0)
    assert long["area"] == pytest.approx(2 * math.pi)
    assert long["circularity"] == pytest.approx(8 * math.pi**2 / 9.688448220547675**2)
    assert long["shape_index"] == pytest.approx(9.688448220547675 / math.sqrt(2 * math.pi))
