"""Figure 10: each method against the ground truth, and the methods against each other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.evaluation.outcomes import FOUND, outcomes
from analysis.evidence import Evidence, Picture
from analysis.report.figures.pixels import (
    Window,
    left_out_pixels,
    outcome_image,
    outcome_pixels,
    outlines,
    pixel_iou,
    show_pixels,
    worst_window,
)
from analysis.report.figures.style import OUTCOME_COLOURS, TRUE_LINE, TWO_COLUMNS
from analysis.report.tables import letters, representatives

SIDE = 360
"""Side in pixels of the largest window; in a larger one, a border of one pixel is not visible."""
LARGEST = 6
"""Largest number of methods in one figure of overlays."""
MOST_PANELS = 12
"""Largest number of panels, three rows; with more, only the first method is laid over others."""
LINE = "white"
"""Colour of the outlines of the truth (or the second method) on coloured cells."""
Outlines = list[NDArray[np.float64]]
"""Outlines (n, 2) of cells, x first."""


class Pair(NamedTuple):
    """Two label images laid over each other."""

    title: str
    """Letters of the two methods, or 'truth'."""
    pixels: NDArray[np.float64]
    """(h, w, 3); cells of the first in the colours of their outcomes."""
    second: Outlines
    """Cells of the second."""
    second_cut: Outlines
    """Those of its cells that touch the border of the image."""
    iou: float
    """Of the foregrounds in the window."""
    found: int
    """Cells of the second in the window that the first has found."""
    cells: int
    """All cells of the second in the window."""


class Overlays(NamedTuple):
    """One window of an image with the methods laid over it."""

    image: str
    split: str
    pixels: NDArray[np.float32]
    """(h, w), 0 to 1."""
    truth: Outlines
    truth_cut: Outlines
    """True cells that touch the border of the image."""
    pairs: list[Pair]
    marks: dict[str, str]
    """Letter by method."""
    methods: int
    """Number of all methods; larger than that of `marks` where some are not shown."""
    cropped: bool
    """Whether the image is larger than the window."""
    errors: int
    """Cells of the window that are not right, over the methods shown."""
    pictures: int
    """Number of pictures from which the window was chosen."""


def compute(evidence: Evidence) -> Overlays | None:
    """Return the window with most errors, each method over the truth, and methods over others."""
    every = letters(representatives(evidence))
    marks = {
        name: mark
        for name, mark in every.items()
        if evidence.pictures and all(name in one.labels for one in evidence.pictures)
    }
    marks = dict(list(marks.items())[:LARGEST])
    if not marks:
        return None
    windows = [_window(picture, [*marks]) for picture in evidence.pictures]
    place = max(range(len(windows)), key=lambda n: (windows[n][1:], -n))
    picture, (window, errors, _) = evidence.pictures[place], windows[place]
    labels = picture.labels
    compared = [(f"{mark} vs truth", labels[name], picture.truth) for name, mark in marks.items()]
    both = [*combinations(marks, 2)]
    if 1 + len(compared) + len(both) > MOST_PANELS:
        both = both[: len(marks) - 1]  # the first method and each other one
    compared += [(f"{marks[a]} vs {marks[b]}", labels[a], labels[b]) for a, b in both]
    pairs = [_pair(title, picture.pixels, a, b, window) for title, a, b in compared]
    return Overlays(
        picture.image,
        picture.split,
        picture.pixels[window],
        pairs[0].second,
        pairs[0].second_cut,
        pairs,
        marks,
        len(every),
        max(picture.truth.shape) > SIDE,
        errors,
        len(windows),
    )


def _window(picture: Picture, names: list[str]) -> Window:
    """Return the window of a picture in which these methods make most errors."""
    labels = [picture.labels[name] for name in names]
    return worst_window(
        picture.truth, [(one, outcomes(picture.truth, one)) for one in labels], SIDE
    )


def _pair(
    title: str,
    pixels: NDArray[np.float32],
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    window: tuple[slice, slice],
) -> Pair:
    """Compare whole images, and return their window."""
    became = outcomes(second, first)
    cut, _ = left_out_pixels(second, first, became)
    painted = outcome_pixels(second, first, became)[window]
    a, b, cut = first[window], second[window], cut[window]
    inside = np.isin(became.true, np.unique(b))
    return Pair(
        title,
        outcome_image(pixels[window], a, painted),
        outlines(np.where(cut, 0, b)),
        outlines(np.where(cut, b, 0)),
        pixel_iou(a, b),
        int(np.count_nonzero(became.true_outcome[inside] == FOUND)),
        int(np.count_nonzero(inside)),
    )


def draw(shown: Overlays) -> Figure:
    """Draw the image and all pairs, and below them the colours and the methods' letters."""
    count = len(shown.pairs) + 1
    wide = min(4, count)
    high = -(-count // wide)
    side = TWO_COLUMNS / max(wide, 3)
    tall = side * shown.pixels.shape[0] / shown.pixels.shape[1]
    keys = 4 if wide > 2 else 2
    above = 0.34  # two lines of text above each panel
    extra = 0.12 + 0.16 * (8 // keys) + 0.14 * len(shown.marks)
    figure = Figure(figsize=(side * wide, (tall + above) * high + extra))
    grid = figure.subplots(high, wide, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    first = grid.flat[0]
    show_pixels(first, shown.pixels, "Image, ground truth", shown.truth, line=TRUE_LINE)
    _draw_lines(first, shown.truth_cut, TRUE_LINE, dashed=True)
    for ax, pair in zip(grid.flat[1:], shown.pairs):
        title = f"{pair.title}, IoU {pair.iou:.3f}\n{pair.found} of {pair.cells} cells found"
        show_pixels(ax, pair.pixels, title)
        _draw_lines(ax, pair.second, LINE)
        _draw_lines(ax, pair.second_cut, LINE, dashed=True)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(0.005, extra / height, 0.995, 1 - above / height, 0.03, above / tall)
    handles: list[Patch | Line2D] = [
        Patch(fc=colour, label=name) for name, colour in OUTCOME_COLOURS.items()
    ]
    for label, dash in (("truth, or the second", "-"), ("at the border", (0, (2, 1.5)))):
        handles.append(Line2D([], [], color=LINE, ls=dash, lw=0.8, label=label))
    below = (0.04 + 0.14 * len(shown.marks)) / height
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, below),
        ncols=keys,
        columnspacing=1.2,
        frameon=True,
        facecolor="0.3",  # white lines need a background in the legend too
        labelcolor="white",
        edgecolor="none",
        borderpad=0.35,
    )
    names = "\n".join(f"{mark}: {textwrap.shorten(n, 90)}" for n, mark in shown.marks.items())
    figure.text(0.01, below, names, va="top", fontsize=7, linespacing=1.25)
    return figure


def _draw_lines(
    ax: Axes, lines: Sequence[NDArray[np.float64]], colour: str, *, dashed: bool = False
) -> None:
    dash = (0, (2, 1.5)) if dashed else "-"
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.5, linestyles=dash))


def caption(shown: Overlays) -> str:
    """Say which part of which image is shown, and what the colours mean."""
    where = f"Image {shown.image} ({shown.split})"
    if shown.cropped:
        high, wide = shown.pixels.shape
        where += f", {wide} × {high} pixels of it"
    count = len(shown.marks)
    few = f"; the first {count} of {shown.methods} methods" if shown.methods > count else ""
    among = f"of the {shown.pictures} pictures of the viewer " if shown.pictures > 1 else ""
    if shown.errors:
        chosen = (
            f"This is the part {among}in which these methods make most errors ({shown.errors} "
            "cells missed, invented, merged, split or with a wrong boundary), so it is not typical."
        )
    else:
        chosen = f"This is the part {among}with the most true foreground; all cells are found."
    return (
        f"{where}{few}. {chosen} Cells of the first method, coloured by what became of them; "
        "missed: cells of the truth that it lacks. Where two methods are compared, the second is "
        "taken as the truth. Merged: one cell covers several true ones. Split: one true cell is "
        "covered by several. Boundary: one cell for one true cell, with an IoU below 0.5. White "
        "outlines: the truth (or the second method), dashed for cells at the border of the image, "
        "which comparisons of features leave out. IoU is that of the foreground pixels shown."
    )
