"""Figure 10: each method against the ground truth, and the methods against each other."""

from __future__ import annotations

import textwrap
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.evidence import Evidence
from analysis.report.figures.pixels import (
    EXTRA,
    LOST,
    RIGHT,
    agreement_image,
    densest_window,
    outlines,
    pixel_iou,
    show_pixels,
)
from analysis.report.figures.style import TWO_COLUMNS
from analysis.report.tables import letters, representatives

SIDE = 360
"""Side in pixels of the largest window; in a larger one, a border of one pixel is not visible."""
LARGEST = 4
"""Largest number of methods in one figure of overlays."""


class Pair(NamedTuple):
    """Two label images laid over each other."""

    title: str
    """Letters of the two methods, or 'truth'."""
    pixels: NDArray[np.float64]
    """(h, w, 3)."""
    iou: float


class Overlays(NamedTuple):
    """One window of an image with the methods laid over it."""

    image: str
    split: str
    pixels: NDArray[np.float32]
    """(h, w), 0 to 1."""
    truth: list[NDArray[np.float64]]
    """Outlines (n, 2), x first."""
    pairs: list[Pair]
    marks: dict[str, str]
    """Letter by method."""
    methods: int
    """Number of all methods; larger than that of `marks` where some are not shown."""
    cropped: bool
    """Whether the image is larger than the window."""


def compute(evidence: Evidence) -> Overlays | None:
    """Return the first picture's densest window with each method over the truth and the others."""
    if not evidence.pictures:
        return None
    picture = evidence.pictures[0]
    marks = letters(representatives(evidence))
    marks = {name: mark for name, mark in marks.items() if name in picture.labels}
    marks = dict(list(marks.items())[:LARGEST])
    if not marks:
        return None
    window = densest_window(picture.truth, SIDE)
    pixels, truth = picture.pixels[window], picture.truth[window]
    labels = {name: picture.labels[name][window] for name in marks}
    compared = [(f"{mark} vs truth", labels[name], truth) for name, mark in marks.items()]
    compared += [
        (f"{marks[a]} vs {marks[b]}", labels[a], labels[b]) for a, b in combinations(marks, 2)
    ]
    return Overlays(
        picture.image,
        picture.split,
        pixels,
        outlines(truth),
        [Pair(t, agreement_image(pixels, a, b), pixel_iou(a, b)) for t, a, b in compared],
        marks,
        len(picture.labels),
        max(picture.truth.shape) > SIDE,
    )


def draw(shown: Overlays) -> Figure:
    """Draw the image and all pairs, and below them the colours and the methods' letters."""
    count = len(shown.pairs) + 1
    wide = min(4, count)
    high = -(-count // wide)
    side = TWO_COLUMNS / max(wide, 3)
    tall = side * shown.pixels.shape[0] / shown.pixels.shape[1]
    keys = 3 if wide > 2 else 1
    extra = 0.2 + 0.16 * (3 // keys) + 0.14 * len(shown.marks)
    figure = Figure(figsize=(side * wide, (tall + 0.22) * high + extra))
    grid = figure.subplots(high, wide, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    show_pixels(grid.flat[0], shown.pixels, "Image, ground truth", shown.truth)
    for ax, pair in zip(grid.flat[1:], shown.pairs):
        ax.imshow(pair.pixels, interpolation="none")
        ax.set_title(f"{pair.title}, IoU {pair.iou:.3f}", pad=3)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(0.005, extra / height, 0.995, 1 - 0.2 / height, 0.03, 0.22 / tall)
    handles = [
        Patch(fc=RIGHT, label="both (true positive)"),
        Patch(fc=EXTRA, label="only the first (false positive)"),
        Patch(fc=LOST, label="only the second (false negative)"),
    ]
    legend = figure.legend(handles=handles, loc="lower center", ncols=keys, columnspacing=1.2)
    below = (0.08 + 0.14 * len(shown.marks)) / height
    legend.set_bbox_to_anchor((0.5, below), figure.transFigure)
    names = "\n".join(f"{mark}: {textwrap.shorten(n, 90)}" for n, mark in shown.marks.items())
    figure.text(0.01, below, names, va="top", fontsize=7, linespacing=1.25)
    return figure


def caption(shown: Overlays) -> str:
    """Say which part of which image is shown, and what the colours mean."""
    where = f"Image {shown.image} ({shown.split})"
    if shown.cropped:
        where += f", cropped to the {SIDE}-pixel window with the most true foreground"
    few = f"; the first {LARGEST} of {shown.methods} methods" if shown.methods > LARGEST else ""
    return (
        f"{where}{few}. Pixels are compared, not cells: pale where both have a cell, orange where "
        "only the first has one (a false positive against the truth), blue where only the second "
        "has one (a false negative). IoU is that of the pixels shown."
    )
