"""The noise floor: discs of pixels against discs."""

from __future__ import annotations

import math

import pytest

from analysis.morphology.noise import ideal_features, noise_floor


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


def test_without_cells_nothing_is_known() -> None:
    assert noise_floor([]).empty
    with pytest.raises(ValueError, match="positive"):
        noise_floor([0.0])
