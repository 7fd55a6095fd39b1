"""How pixels alone change each feature: ideal shapes, rendered at random sub-pixel shifts.

A circle has circularity 1, but a circle made of pixels does not, and the error depends on its size
and on the convention. So two populations of different size differ in circularity even if all their
cells are perfect circles. Such a difference is not a finding.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ellipe

from analysis.morphology.features import measure

FEATURES = ("area", "perimeter", "circularity", "solidity", "radius", "shape_index")
SHAPES = {"disc": 1.0, "ellipse 3:2": 1.5}
"""Ideal shapes and their aspect ratios."""
SHIFTS = 200


def noise_floor(
    areas: ArrayLike, *, convention: str = "trackmate", shifts: int = SHIFTS, seed: int = 0
) -> pd.DataFrame:
    """Measure ideal shapes of given sizes.

    Parameters
    ----------
    areas : (N,) array_like
        Areas in pixels: those of the cells, or their quartiles.
    convention : str
        See `analysis.morphology.measure`.
    shifts : int
        How often to render each shape, each time with a random shift and, for an ellipse, a random
        rotation.
    seed : int

    Returns
    -------
    DataFrame
        One row per area, shape ('disc', 'ellipse 3:2') and feature: area, radius (of a disc with
        that area, in pixels), shape, feature, ideal (the value of the ideal shape), bias (mean of
        measured minus ideal), sd, and relative_bias and relative_sd (both divided by the ideal
        value).

    Raises
    ------
    ValueError
        When an area is not positive.
    """
    values = np.asarray(areas, float).ravel()
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("areas must be positive numbers")
    rows = []
    for area in values:
        radius = math.sqrt(area / math.pi)
        for shape, aspect in SHAPES.items():
            ideal = ideal_features(radius, aspect)
            found = _render(radius, aspect, convention, shifts, seed)
            for i, feature in enumerate(FEATURES):
                column = found[:, i][~np.isnan(found[:, i])]
                mean = column.mean() if column.size else np.nan
                sd = column.std(ddof=1) if column.size > 1 else np.nan
                rows.append(
                    {
                        "area": area,
                        "radius": radius,
                        "shape": shape,
                        "feature": feature,
                        "ideal": ideal[feature],
                        "bias": mean - ideal[feature],
                        "sd": sd,
                        "relative_bias": mean / ideal[feature] - 1,
                        "relative_sd": sd / ideal[feature],
                    }
                )
    return pd.DataFrame(rows)


def ideal_features(radius: float, aspect: float = 1.0) -> dict[str, float]:
    """Return the features of an ellipse whose area is that of a disc of `radius` (pixels)."""
    major = radius * math.sqrt(aspect)
    perimeter = 4 * major * float(ellipe(1 - 1 / aspect**2))
    area = math.pi * radius**2
    return {
        "area": area,
        "perimeter": perimeter,
        "circularity": 4 * math.pi * area / perimeter**2,
        "solidity": 1.0,
        "radius": radius,
        "shape_index": perimeter / math.sqrt(area),
    }


def _render(
    radius: float, aspect: float, convention: str, shifts: int, seed: int
) -> NDArray[np.float64]:
    """Render a shape at random shifts and measure it: (shifts, features)."""
    rng = np.random.default_rng(seed)
    major, minor = radius * math.sqrt(aspect), radius / math.sqrt(aspect)
    half = math.ceil(major) + 2
    side = 2 * half + 1
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    tables = []
    # many side by side in one image; not all of them, for single precision has few digits far out
    for batch in np.array_split(rng.random((shifts, 3)), math.ceil(shifts / 25)):
        labels = np.zeros((side, side * len(batch)), np.int64)
        for i, (dy, dx, angle) in enumerate(batch):
            y, x, turn = rows - dy, columns - dx, angle * math.pi
            u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
            inside = (u / major) ** 2 + (v / minor) ** 2 <= 1
            labels[:, i * side : (i + 1) * side][inside] = i + 1
        tables.append(measure(labels, convention=convention)[list(FEATURES)])
    return pd.concat(tables).to_numpy(float)
