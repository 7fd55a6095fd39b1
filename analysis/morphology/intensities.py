"""TrackMate's measures of a cell besides its shape: intensities, contrast, a fitted ellipse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.draw import polygon

from analysis.kernels.pixelprops import polygon_centroid
from analysis.morphology.features import outlines

INTENSITIES = (
    "intensity_mean",
    "intensity_median",
    "intensity_min",
    "intensity_max",
    "intensity_sum",
    "intensity_std",
    "contrast",
    "snr",
)
ELLIPSE = ("ellipse_x0", "ellipse_y0", "ellipse_major", "ellipse_minor", "ellipse_theta")


def measure_intensities(
    image: NDArray[Any], labels: NDArray[np.integer[Any]], features: pd.DataFrame
) -> pd.DataFrame:
    """Measure the raw intensities of every cell, and fit an ellipse to its outline.

    Parameters
    ----------
    image : (H, W) array
        Raw intensities.
    labels : (H, W) integer array
        Label image.
    features : DataFrame
        The result of `analysis.morphology.measure` for `labels`; label, x and y are used.

    Returns
    -------
    DataFrame
        One row for each row of `features`, with the same index:

        - intensity_mean, intensity_median, intensity_min, intensity_max, intensity_sum,
          intensity_std (n - 1) : over all pixels of the label, in the image's units
        - contrast : ``(in - out) / (in + out)``, snr : ``(in - out) / intensity_std``, where in
          is the mean of the cell, and out the mean of the pixels between its outline and the same
          outline enlarged twofold about the centroid (including neighbouring cells, as in
          TrackMate)
        - ellipse_x0, ellipse_y0 : centre, relative to the centroid; ellipse_major, ellipse_minor
          : half axes, in pixels; ellipse_theta : angle of the long axis to the x axis in radians,
          y pointing down. Fitted to TrackMate's simplified outline by least squares; NaN if the
          outline has fewer than six vertices.
    """
    table = pd.DataFrame(np.nan, index=features.index, columns=[*INTENSITIES, *ELLIPSE])
    found = features["label"].to_numpy(np.int64)
    if not len(found):
        return table
    for name, column in _of_pixels(image, labels, found).items():
        table[name] = column
    outline_of = outlines(labels)
    centres = features[["x", "y"]].to_numpy(float)
    out = np.full(len(found), np.nan)
    ellipses = np.full((len(found), 5), np.nan)
    for i, label in enumerate(found):
        outline = outline_of[int(label)]
        if not len(outline) or np.isnan(centres[i]).any():
            continue
        # relative to the outline's own centroid whatever the convention of `features`
        centre = np.asarray(polygon_centroid(outline))
        out[i] = _around(image, labels, int(label), outline, centre)
        ellipses[i] = fit_ellipse(outline - centre)
    mean = table["intensity_mean"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["contrast"] = (mean - out) / (mean + out)
        table["snr"] = (mean - out) / table["intensity_std"].to_numpy(float)
    table[list(ELLIPSE)] = ellipses
    return table.replace([np.inf, -np.inf], np.nan)


def _of_pixels(
    image: NDArray[Any], labels: NDArray[np.integer[Any]], found: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return what the pixels of each of the labels `found`, ascending, give by column."""
    position = np.searchsorted(found, labels[labels > 0])
    values = image[labels > 0].astype(np.float64)
    order = np.lexsort((values, position))
    ordered = values[order]
    counts = np.bincount(position, minlength=len(found))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    total = np.add.reduceat(ordered, starts)
    mean = total / counts
    squares = np.add.reduceat((ordered - np.repeat(mean, counts)) ** 2, starts)
    with np.errstate(divide="ignore", invalid="ignore"):
        std = np.sqrt(squares / (counts - 1))
    return {
        "intensity_mean": mean,
        "intensity_sum": total,
        "intensity_std": std,
        "intensity_min": ordered[starts],
        "intensity_max": ordered[starts + counts - 1],
        "intensity_median": (ordered[starts + counts // 2] + ordered[starts + (counts - 1) // 2])
        / 2,
    }


def _around(
    image: NDArray[Any],
    labels: NDArray[np.integer[Any]],
    label: int,
    outline: NDArray[np.float64],
    centre: NDArray[np.float64],
) -> float:
    larger = centre + 2 * (outline - centre)
    rows, columns = polygon(larger[:, 1], larger[:, 0], image.shape)
    ring = labels[rows, columns] != label
    return float(image[rows, columns][ring].mean()) if ring.any() else math.nan


def fit_ellipse(points: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """Fit an ellipse to points by least squares (Fitzgibbon's direct method, stabilised).

    Parameters
    ----------
    points : (N, 2) float64 array
        x and y.

    Returns
    -------
    x0, y0, major, minor, theta : float
        Centre, half axes, and angle of the long axis in radians, from -pi/2 to pi/2; NaN if the
        points do not determine an ellipse.

    Examples
    --------
    >>> t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    >>> x0, y0, major, minor, theta = fit_ellipse(np.c_[1 + 5 * np.cos(t), 2 + 3 * np.sin(t)])
    >>> [round(v, 6) + 0.0 for v in (x0, y0, major, minor, theta)]
    [1.0, 2.0, 5.0, 3.0, 0.0]
    """
    none = (math.nan,) * 5
    if len(points) < 6:
        return none
    size = float(np.abs(points).max()) or 1.0
    x, y = (points / size).T
    squares = np.c_[x * x, x * y, y * y]
    linear = np.c_[x, y, np.ones_like(x)]
    try:
        reduced = -np.linalg.solve(linear.T @ linear, linear.T @ squares)
        scatter = squares.T @ squares + squares.T @ linear @ reduced
        constrained = np.stack([scatter[2] / 2, -scatter[1], scatter[0] / 2])
        vectors = np.real(np.linalg.eig(constrained)[1])
    except np.linalg.LinAlgError:
        return none
    condition = 4 * vectors[0] * vectors[2] - vectors[1] ** 2
    if not (condition > 0).any():
        return none
    a, b, c = vectors[:, int(np.argmax(condition > 0))]
    d, e, f = reduced @ np.array([a, b, c])
    if a + c < 0:
        a, b, c, d, e, f = -a, -b, -c, -d, -e, -f
    form = np.array([[a, b / 2], [b / 2, c]])
    centre = np.linalg.solve(2 * form, [-d, -e])
    level = centre @ form @ centre - f
    roots, axes = np.linalg.eigh(form)
    if level <= 0 or roots[0] <= 0:
        return none
    major, minor = np.sqrt(level / roots) * size
    along = axes[:, 0] if axes[0, 0] >= 0 else -axes[:, 0]
    theta = math.atan2(along[1], along[0])
    return float(centre[0] * size), float(centre[1] * size), float(major), float(minor), theta
