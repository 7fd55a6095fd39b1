"""Helpers to show label images in figures and viewer: outlines, borders, windows, outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, to_rgb
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from analysis.evaluation.outcomes import FOUND, Outcomes
from analysis.morphology.border import border_labels
from analysis.report.figures.style import OUTCOME_COLOURS, TRUE_LINE

OUTCOMES = tuple(OUTCOME_COLOURS)
"""Names of outcomes; pixels hold their places, counted from 1, and 0 where there is no cell."""


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


class Window(NamedTuple):
    """A part of an image, and what is in it."""

    place: tuple[slice, slice]
    errors: int
    """Number of cells that are not right, over all methods together."""
    foreground: int
    """Number of pixels of true cells."""


def worst_window(
    truth: NDArray[np.integer],
    methods: Sequence[tuple[NDArray[np.integer], Outcomes]],
    side: int,
) -> Window:
    """Return the window of at most `side` pixels with the most errors.

    Parameters
    ----------
    truth : (H, W) integer array
        Label image.
    methods : sequence of (H, W) integer array, Outcomes
        Label image of each method, and what became of its cells.
    side : int

    Returns
    -------
    Window
        The one with the most cells that are missed, merged, split or have a wrong boundary (true
        cells) or are invented (predicted cells), a cell being where its centre is. Of several, the
        one with the most true foreground.
    """
    wrong = np.zeros(truth.shape, np.int64)
    for labels, became in methods:
        _count_at_centres(wrong, truth, became.true[became.true_outcome != FOUND])
        _count_at_centres(wrong, labels, became.pred[became.pred_outcome == "invented"])
    foreground = (truth > 0).astype(np.int64)
    shape = min(side, truth.shape[0]), min(side, truth.shape[1])
    most = shape[0] * shape[1] + 1  # one error counts more than all foreground
    inside = _sums(most * wrong + foreground, shape)
    top, left = (int(place) for place in np.unravel_index(int(inside.argmax()), inside.shape))
    errors, pixels = divmod(int(inside[top, left]), most)
    return Window((slice(top, top + shape[0]), slice(left, left + shape[1])), errors, pixels)


def _count_at_centres(
    counts: NDArray[np.int64], labels: NDArray[np.integer], named: NDArray[np.int64]
) -> None:
    """Add one at the centre of each named cell."""
    if len(named):
        centres = np.rint(ndimage.center_of_mass(labels > 0, labels, named)).astype(int)
        np.add.at(counts, tuple(centres.T), 1)


def _sums(values: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the sum of every window of this shape, by its first row and column."""
    rows, columns = shape
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[rows:, columns:] - total[:-rows, columns:]
    found: NDArray[np.int64] = inside - total[rows:, :-columns] + total[:-rows, :-columns]
    return found


def outcome_pixels(
    truth: NDArray[np.integer], pred: NDArray[np.integer], became: Outcomes
) -> NDArray[np.uint8]:
    """Return the outcome of the cell in every pixel.

    Parameters
    ----------
    truth, pred : (H, W) integer arrays
        Label images.
    became : Outcomes
        What `analysis.evaluation.outcomes.outcomes` says of them.

    Returns
    -------
    (H, W) uint8 array
        Places in `OUTCOMES`, counted from 1; 0 is background. A missed cell is shown where no
        predicted cell is.
    """
    places = {name: place for place, name in enumerate(OUTCOMES, 1)}

    def painted(
        labels: NDArray[np.integer], named: NDArray[np.int64], outcome: NDArray[np.str_]
    ) -> NDArray[np.uint8]:
        table = np.zeros(int(labels.max(initial=0)) + 1, np.uint8)
        table[named] = [places[str(name)] for name in outcome]
        return np.asarray(table[labels])

    missed = became.true_outcome == "missed"
    missing = painted(truth, became.true[missed], became.true_outcome[missed])
    found = painted(pred, became.pred, became.pred_outcome)
    return np.where(pred > 0, found, missing)


def left_out_pixels(
    truth: NDArray[np.integer], pred: NDArray[np.integer], became: Outcomes
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of true and of predicted cells that comparisons of features leave out.

    These are the cells that `analysis.evidence.Evidence.objects` calls ``left_out``.
    """
    cut, invented = border_labels(truth), became.overlapped == 0
    out = np.isin(became.overlapped, cut)
    out |= invented & np.isin(became.pred, border_labels(pred))
    return np.isin(truth, cut), np.isin(pred, became.pred[out])


def dashes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels in which a dashed outline is drawn."""
    rows, columns = np.indices(shape)
    drawn: NDArray[np.bool_] = (rows + columns) % 6 < 3
    return drawn


def outcome_image(
    pixels: NDArray[np.floating], pred: NDArray[np.integer], painted: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return the darkened image with every cell in the colour of its outcome.

    Parameters
    ----------
    pixels : (H, W) array
        The image, 0 to 1.
    pred : (H, W) integer array
        Label image; the edges of its cells are darker.
    painted : (H, W) uint8 array
        The result of `outcome_pixels`.

    Returns
    -------
    (H, W, 3) array
    """
    image = np.repeat(0.55 * np.clip(pixels, 0, 1)[..., None], 3, axis=2).astype(np.float64)
    colours = np.array([(0.0, 0.0, 0.0), *map(to_rgb, OUTCOME_COLOURS.values())])
    cells = painted > 0
    image[cells] = 0.2 * image[cells] + 0.8 * colours[painted[cells]]
    image[border(pred) & cells] *= 0.7
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
    line: str = TRUE_LINE,
    width: float = 0.8,
) -> None:
    """Show pixels with values from 0 to 1, and outlines of this colour and width on top."""
    high, wide = pixels.shape[:2]
    ax.imshow(pixels, cmap=colours, vmin=0, vmax=1, interpolation="none")
    if lines:
        ax.add_collection(LineCollection(lines, colors=line, linewidths=width))
    ax.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    ax.set_title(title, pad=3)
