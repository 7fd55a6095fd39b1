"""Helpers to show label images in figures and viewer: outlines, borders, windows, agreement."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

RIGHT, EXTRA, LOST = (0.72, 0.80, 0.86), (0.835, 0.369, 0.0), (0.0, 0.447, 0.698)
"""Colours of pixels in both label images (pale, like a background), only in the first (Okabe and
Ito's vermilion) and only in the second (their blue)."""


def outlines(labels: NDArray[np.integer]) -> list[NDArray[np.float64]]:
    """Return the outline of every label as (n, 2) points, x first."""
    lines = []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        top, left = rows.min() - 1, columns.min() - 1
        part = labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == label
        for contour in find_contours(np.pad(part, 1).astype(float), 0.5):
            lines.append(simplified(contour) + np.array([left, top]))
    return lines


def simplified(contour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove points of a contour (row, column) that a print cannot show; return x first."""
    points: NDArray[np.float64] = approximate_polygon(contour, 0.25)[:, ::-1]
    return points


def border(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the pixels of each label that touch another label or the background."""
    inner = np.pad(labels, 1, mode="edge")
    differs = np.zeros(labels.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        shifted = inner[rows : rows + labels.shape[0], columns : columns + labels.shape[1]]
        differs |= shifted != labels
    return differs & (labels > 0)


def densest_window(truth: NDArray[np.integer], side: int) -> tuple[slice, slice]:
    """Return the window of at most `side` pixels with the most true foreground."""
    high, wide = truth.shape
    rows, columns = min(side, high), min(side, wide)
    total = np.pad((truth > 0).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[rows:, columns:] - total[:-rows, columns:]
    inside = inside - total[rows:, :-columns] + total[:-rows, :-columns]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)


def agreement_image(
    pixels: NDArray[np.floating], first: NDArray[Any], second: NDArray[Any]
) -> NDArray[np.float64]:
    """Colour pixels by whether both label images have a cell there, or only one of them."""
    image = np.repeat(0.55 * np.clip(pixels, 0, 1)[..., None], 3, axis=2).astype(np.float64)
    has, other = first > 0, second > 0
    for where, colour in ((has & other, RIGHT), (has & ~other, EXTRA), (~has & other, LOST)):
        image[where] = 0.2 * image[where] + 0.8 * np.asarray(colour)
    return image


def pixel_iou(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the IoU of two foregrounds; NaN when both are empty."""
    union = ((first > 0) | (second > 0)).sum()
    return float(((first > 0) & (second > 0)).sum() / union) if union else float("nan")


def show_pixels(
    ax: Axes,
    pixels: NDArray[Any],
    title: str,
    lines: list[NDArray[np.float64]] | None = None,
    colours: str | ListedColormap = "gray",
    line: str = "#E69F00",
) -> None:
    """Show pixels with values from 0 to 1, and outlines on top."""
    high, wide = pixels.shape[:2]
    ax.imshow(pixels, cmap=colours, vmin=0, vmax=1, interpolation="none")
    if lines:
        ax.add_collection(LineCollection(lines, colors=line, linewidths=0.8))
    ax.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    ax.set_title(title, pad=3)
