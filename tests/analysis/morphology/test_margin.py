"""What half a pixel of boundary does to cells."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.morphology.features import measure
from analysis.morphology.margin import SHAPE_FEATURES, half_pixel

CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")


def test_lengths_by_hand() -> None:
    area = math.pi * 16
    assert half_pixel([area], "area") == pytest.approx(math.pi * (4.5**2 - 4**2))
    assert half_pixel([area], "perimeter") == pytest.approx(math.pi)
    assert half_pixel([area], "radius") == 0.5
    both = half_pixel([area, math.pi * 100], "area")
    assert both == pytest.approx(math.pi * (4.5**2 - 4**2 + 10.5**2 - 10**2) / 2)
    assert half_pixel([area, math.nan, 0.0, -3.0], "area") == half_pixel([area], "area")


def test_unknown_feature_and_no_cells() -> None:
    with pytest.raises(ValueError, match="no margin is known for the feature 'colour'"):
        half_pixel([3.0], "colour")
    assert math.isnan(half_pixel([], "area"))
    assert math.isnan(half_pixel([math.nan], "solidity"))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_shapes_change_less_the_larger_the_cell(convention: str) -> None:
    for feature in SHAPE_FEATURES:
        found = [half_pixel([math.pi * r**2], feature, convention=convention) for r in (3, 8, 25)]
        assert found[0] > 2 * found[1] > 4 * found[2] > 0
        assert found[0] < 0.2


def disc(radius: float, rng: np.random.Generator, ripple: float = 0.0) -> pd.DataFrame:
    half = math.ceil(radius) + 3
    y, x = np.mgrid[-half : half + 1, -half : half + 1] - rng.random(2)[:, None, None]
    wave = ripple * np.cos(4 * np.arctan2(y, x) + rng.uniform(0, 6))
    return measure((np.hypot(y, x) <= radius + wave).astype(int))


def test_a_wave_of_half_a_pixel_is_about_the_margin_of_circularity() -> None:
    rng = np.random.default_rng(0)
    for radius in (5.0, 9.0):
        still = pd.concat([disc(radius, rng) for _ in range(60)])["circularity"].mean()
        waved = pd.concat([disc(radius, rng, 0.5) for _ in range(60)])["circularity"].mean()
        margin = half_pixel([math.pi * radius**2], "circularity")
        assert 0.3 * margin < abs(waved - still) < 4 * margin
