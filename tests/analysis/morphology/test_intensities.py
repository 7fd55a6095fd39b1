"""Intensities, contrast and the fitted ellipse of single cells, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.morphology.features import measure
from analysis.morphology.intensities import (
    ELLIPSE,
    INTENSITIES,
    fit_ellipse,
    measure_intensities,
)


def measured(image: NDArray[Any], labels: NDArray[Any], **options: Any) -> pd.DataFrame:
    return measure_intensities(image, labels, measure(labels, **options))


def two_squares() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 10:20], labels[10:20, 26:30] = 4, 9
    image = np.full(labels.shape, 100, np.float32)
    image[labels == 4] = np.arange(1, 101)
    image[labels == 9] = 500
    return image, labels


def test_all_columns_of_two_cells() -> None:
    image, labels = two_squares()
    table = measured(image, labels)
    assert tuple(table) == (*INTENSITIES, *ELLIPSE)
    first, second = table.to_dict("records")
    assert first["intensity_mean"] == first["intensity_median"] == 50.5
    assert (first["intensity_min"], first["intensity_max"]) == (1, 100)
    assert first["intensity_sum"] == 5050
    assert first["intensity_std"] == pytest.approx(np.arange(100).std(ddof=1))
    assert second["intensity_std"] == 0
    assert math.isnan(second["snr"]), "no spread, no ratio"
    # around the second lie pixels of the first's neighbourhood, all of 100
    assert second["contrast"] == pytest.approx((500 - 100) / (500 + 100))


def test_the_median_of_an_even_number_is_between_the_middle_two() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:4, 2:5] = 1
    labels[5:8, 5:8] = 2
    image = np.zeros((8, 8), np.uint8)
    image[labels == 1] = [9, 1, 4, 250, 2, 6]
    image[labels == 2] = [9, 1, 4, 250, 2, 6, 7, 8, 3]
    table = measured(image, labels)
    assert table["intensity_median"].tolist() == [5, 6]
    assert table["intensity_sum"].tolist() == [272, 290]
    assert table["intensity_min"].tolist() == [1, 1]
    assert table["intensity_max"].tolist() == [250, 250]


def test_a_neighbour_counts_to_the_surroundings_as_in_trackmate() -> None:
    """The outline made twice as large about its centre: 15 pixels more on either side."""
    labels = np.zeros((60, 60), np.int32)
    labels[20:40, 20:40] = 1
    image = np.full(labels.shape, 10.0)
    image[labels == 1] = 30
    plain = measured(image, labels, convention="trackmate_raw")["contrast"][0]
    assert plain == pytest.approx(0.5)
    image[:8], image[52:] = 1000, 1000  # beyond it
    assert measured(image, labels, convention="trackmate_raw")["contrast"][0] == plain
    image[14:16, 25:35] = 1000  # within it
    labels[14:16, 25:35] = 2
    both = measured(image, labels, convention="trackmate_raw")
    assert both["contrast"][0] < 0.3


def test_the_ring_ends_at_the_image() -> None:
    labels = np.ones((6, 6), np.int32)
    image = np.full(labels.shape, 7)
    table = measured(image, labels)
    assert table["intensity_mean"][0] == 7
    assert math.isnan(table["contrast"][0]), "there is nothing around it"
    labels[:, 4:] = 0
    image[:, 4:] = 1
    assert measured(image, labels)["contrast"][0] == pytest.approx((7 - 1) / (7 + 1))


def test_dark_surroundings_and_dark_cells() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:10, 5:10] = 1
    image = np.zeros((20, 20))
    assert math.isnan(measured(image, labels)["contrast"][0]), "0 / 0"
    image[labels == 1] = 4
    image[5, 5:7] = 3, 5
    table = measured(image, labels)
    assert table["contrast"][0] == 1
    assert table["snr"][0] == pytest.approx(table["intensity_mean"][0] / table["intensity_std"][0])
    image = -image
    image[labels == 0] = 4  # cell and surroundings cancel: no finite contrast
    assert math.isnan(measured(image, labels)["contrast"][0])


def test_a_cell_of_one_pixel_has_intensities_only() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[4, 4] = 3
    image = np.full((9, 9), 5)
    table = measured(image, labels)
    assert table["intensity_mean"][0] == table["intensity_sum"][0] == 5
    nothing = ["intensity_std", "contrast", "snr", *ELLIPSE]
    assert table[nothing].isna().all(axis=None)


def test_rows_keep_the_index_of_the_features() -> None:
    image, labels = two_squares()
    features = measure(labels).set_axis([7, 3])
    assert measure_intensities(image, labels, features).index.tolist() == [7, 3]
    none = measure_intensities(image, np.zeros_like(labels), features.iloc[:0])
    assert set(map(str, none.dtypes)) == {"float64"}
    assert none.empty
    assert tuple(none) == (*INTENSITIES, *ELLIPSE)


def test_cells_whose_features_are_not_known_have_no_surroundings() -> None:
    image, labels = two_squares()
    for name in ("x", "y"):
        features = measure(labels)
        features.loc[0, name] = np.nan
        table = measure_intensities(image, labels, features)
        assert table.loc[0, "intensity_mean"] == 50.5
        assert table.loc[0, ["contrast", *ELLIPSE]].isna().all()
        assert table.loc[1, ["contrast", *ELLIPSE]].notna().all()


def test_the_ellipse_is_about_the_outlines_own_centre() -> None:
    """Whatever the convention of the features, which shifts x and y by half a pixel in ImageJ."""
    yy, xx = np.mgrid[:40, :60]
    labels = (((xx - 30) / 20) ** 2 + ((yy - 18) / 10) ** 2 <= 1).astype(np.int32)
    for convention in ("trackmate", "imagej"):
        one = measured(labels * 9, labels, convention=convention).iloc[0]
        assert [one["ellipse_x0"], one["ellipse_y0"]] == pytest.approx([0, 0], abs=0.2)
        assert one["ellipse_major"] == pytest.approx(20, rel=0.05)
        assert one["ellipse_minor"] == pytest.approx(10, rel=0.05)
        assert one["ellipse_theta"] == pytest.approx(0, abs=0.02)


def points(
    x0: float, y0: float, major: float, minor: float, theta: float, count: int = 24
) -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    u, v = major * np.cos(t), minor * np.sin(t)
    x, y = u * np.cos(theta) - v * np.sin(theta), u * np.sin(theta) + v * np.cos(theta)
    return np.stack([x0 + x, y0 + y], axis=1)


@pytest.mark.parametrize("theta", [-1.5, -0.7, 0.0, 0.4, 1.2, 1.57])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_an_ellipse_of_any_size_place_and_direction(theta: float, size: float) -> None:
    for x0, y0 in ((0.0, 0.0), (3.0, -2.0), (-5.0, 4.0)):
        found = fit_ellipse(points(x0 * size, y0 * size, 7 * size, 3 * size, theta))
        assert np.divide(found[:4], size) == pytest.approx([x0, y0, 7, 3], abs=1e-5)
        assert found[4] == pytest.approx(theta, abs=1e-5)


def test_six_points_are_enough_and_five_are_not() -> None:
    found = fit_ellipse(points(1, 2, 5, 3, 0.3, count=6))
    assert found == pytest.approx((1, 2, 5, 3, 0.3))
    assert np.isnan(fit_ellipse(points(1, 2, 5, 3, 0.3, count=5))).all()


def test_points_that_determine_no_ellipse() -> None:
    line = np.c_[np.arange(8.0), 2 * np.arange(8.0)]
    same = np.ones((8, 2))
    nothing = np.zeros((8, 2))
    for wrong in (line, same, nothing):
        found = fit_ellipse(wrong)
        assert len(found) == 5
        assert np.isnan(found).all()


def test_noisy_points_are_fitted_in_the_least_squares() -> None:
    rng = np.random.default_rng(0)
    noisy = points(10, -4, 30, 20, 0.5, count=400) + rng.normal(0, 0.5, (400, 2))
    assert fit_ellipse(noisy) == pytest.approx((10, -4, 30, 20, 0.5), rel=0.01, abs=0.1)
