"""The noise floor: discs of pixels against discs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.morphology.noise import (
    FEATURES,
    discretisation_difference,
    ideal_features,
    noise_floor,
)


def test_ideal_features_of_discs_and_ellipses() -> None:
    disc = ideal_features(10.0)
    assert disc["perimeter"] == pytest.approx(20 * math.pi)
    assert disc["circularity"] == pytest.approx(1)
    assert disc["shape_index"] == pytest.approx(2 * math.sqrt(math.pi))
    ellipse = ideal_features(math.sqrt(2), 2.0)  # half axes 2 and 1
    assert ellipse["perimeter"] == pytest.approx(9.688448220547675)  # by Gauss-Kummer series


def test_bias_of_a_disc_is_the_known_one() -> None:
    table = noise_floor([math.pi * 100], convention="trackmate")
    disc = table[table["shape"] == "disc"].set_index("feature")
    assert disc.loc["circularity", "bias"] == pytest.approx(0.945 - 1, abs=0.01)
    assert disc.loc["perimeter", "bias"] == pytest.approx(64.3 - 20 * math.pi, abs=0.5)
    assert (table["sd"] > 0).all()
    raw = noise_floor([math.pi * 100], convention="trackmate_raw").set_index(["shape", "feature"])
    assert raw.loc[("disc", "circularity"), "relative_bias"] == pytest.approx(-0.38, abs=0.01)


def test_difference_that_pixels_make_covers_that_of_real_discs() -> None:
    rng = np.random.default_rng(0)
    small, large = math.pi * rng.uniform(3, 4, 60) ** 2, math.pi * rng.uniform(15, 20, 60) ** 2
    apart = discretisation_difference(small, large, "circularity")
    assert 0.03 < apart < 0.08  # small discs look less round by about this
    same = discretisation_difference(large, large, "circularity")
    assert 0 < same < apart / 5
    more = np.tile(large, 100)
    assert discretisation_difference(more, more, "circularity") == pytest.approx(same / 10)
    for feature in FEATURES:
        assert discretisation_difference(small, large, feature) > 0


def test_without_cells_nothing_is_known() -> None:
    assert math.isnan(discretisation_difference([], [3.0], "area"))
    assert noise_floor([]).empty
    with pytest.raises(ValueError, match="positive"):
        noise_floor([0.0])
