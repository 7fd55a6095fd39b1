"""Figure 8: one window as every network of a task sees it, architectures by encoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from skimage.measure import find_contours

from analysis.evidence import Evidence
from analysis.report.figures.pixels import outlines, show_pixels, simplified
from analysis.report.figures.style import TWO_COLUMNS, share
from analysis.report.table1 import chosen_trials
from analysis.report.tables import in_order
from trainables.config import ARCHITECTURES, PAPER_ENCODERS
from trainables.names import architecture_name, encoder_name

TRUTH_LINE, HALF_LINE = "white", "black"
"""Colours of outlines on a probability map that contains neither white nor black."""
PROBABILITY = ListedColormap(colormaps["viridis"](np.linspace(0, 0.7, 256)), "probability")


class Network(NamedTuple):
    """The output of one network for the window."""

    probability: NDArray[np.float32]
    """(h, w) foreground probability."""
    half: list[NDArray[np.float64]]
    """Lines (n, 2), x first, along which the probability is 0.5."""


class Networks(NamedTuple):
    """One window of an image, and the output of every network for it."""

    image: str
    corner: tuple[int, int]
    """Row and column of the window's first pixel."""
    pixels: NDArray[np.float32]
    """(h, w), 0 to 1."""
    truth: list[NDArray[np.float64]]
    """Outlines (n, 2), x first."""
    architectures: list[str]
    encoders: list[str]
    networks: dict[tuple[str, str], Network]
    """Networks by architecture and encoder; those without a finished trial are missing."""


def compute(evidence: Evidence, task: str) -> Networks | None:
    """Return the crop and what every network of a task makes of it.

    Where several trials share architecture and encoder, the one best on validation is taken.
    """
    crop = evidence.crop
    if crop is None or evidence.leaderboard.empty:
        return None
    board = evidence.leaderboard.fillna({"encoder": ""})
    board = board[(board["task"] == task) & board["trial_id"].isin(crop.probabilities)]
    if board.empty:
        return None
    best = chosen_trials(board)
    networks = {}
    for trial in best.to_dict("records"):
        names = architecture_name(trial["architecture"]), encoder_name(trial["encoder"])
        networks[names] = _network(crop.probabilities[trial["trial_id"]])
    rows = in_order(best["architecture"], ARCHITECTURES)
    columns = in_order(best["encoder"], PAPER_ENCODERS)
    rows, columns = [*map(architecture_name, rows)], [*map(encoder_name, columns)]
    truth = outlines(crop.truth)
    return Networks(crop.image, crop.corner, crop.pixels, truth, rows, columns, networks)


def _network(probability: NDArray[np.float32]) -> Network:
    half = [simplified(c) - 1 for c in find_contours(np.pad(probability, 1), 0.5)]
    return Network(probability, half)


class _Grid:
    """Places of square panels on a figure, in inches.

    The first row shows image and truth; below it, rows are architectures and columns encoders.
    With a single encoder, the architectures follow image and truth in reading order.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.alone = columns == 1
        self.wide = min(4, rows + 2) if self.alone else columns
        self.high = -(-(rows + 2) // self.wide) if self.alone else rows + 1
        self.gap, self.left, self.foot = 0.05, 0.03 if self.alone else 0.22, 0.42
        self.title = 0.2 if self.alone else 0.0  # of every row; else only above the first two
        across = (TWO_COLUMNS - self.left) / self.wide - self.gap
        self.side = min(across, 8.2 / self.high - self.gap, 1.7)
        width = self.left + self.wide * (self.side + self.gap)
        height = self.foot + self.high * (self.side + self.gap + self.title) + 0.4 - self.title
        self.size = width, height
        self.figure = Figure(figsize=self.size)

    def place(self, i: int, j: int) -> Axes:
        """Add the panel of a row and column of the page."""
        above = 0.2 if i == 0 and not self.alone else 0
        bottom = self.foot + (self.high - 1 - i) * (self.side + self.gap + self.title) + above
        left = self.left + j * (self.side + self.gap)
        ax = self.figure.add_axes(share((left, bottom, self.side, self.side), self.size))
        ax.set_axis_off()
        return ax

    def network(self, i: int, j: int) -> Axes:
        """Add the panel of an architecture and encoder, by their places."""
        return self.place(*divmod(i + 2, self.wide)) if self.alone else self.place(i + 1, j)


def draw(shown: Networks) -> Figure:
    """Draw image and truth, then every network's probability with both sets of outlines."""
    grid = _Grid(len(shown.architectures), len(shown.encoders))
    show_pixels(grid.place(0, 0), shown.pixels, "Image")
    show_pixels(grid.place(0, 1), shown.pixels, "Ground truth", shown.truth)
    for i, row in enumerate(shown.architectures):
        for j, column in enumerate(shown.encoders):
            ax = grid.network(i, j)
            if grid.alone:
                ax.set_title(row, pad=3)
            elif i == 0:
                ax.set_title(column, pad=3)
            if j == 0 and not grid.alone:
                ax.text(
                    -0.06, 0.5, row, rotation=90, ha="right", va="center", transform=ax.transAxes
                )
            network = shown.networks.get((row, column))
            if network is None:
                ax.text(0.5, 0.5, "–", ha="center", va="center", transform=ax.transAxes)
                continue
            colours, title = PROBABILITY, ax.get_title()
            show_pixels(ax, network.probability, title, shown.truth, colours, TRUTH_LINE)
            ax.add_collection(LineCollection(network.half, colors=HALF_LINE, linewidths=0.6))
    _add_key(grid.figure, columns=4 if grid.size[0] > 4.5 else 2)
    return grid.figure


def _add_key(figure: Figure, columns: int) -> None:
    handles = [
        Line2D([], [], color=TRUTH_LINE, label="ground truth"),
        Line2D([], [], color=HALF_LINE, label="probability 0.5"),
        Patch(fc=PROBABILITY(0.0), label="probability 0"),
        Patch(fc=PROBABILITY(1.0), label="probability 1"),
    ]
    # white lines need a background in the legend too
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        frameon=True,
        facecolor="0.72",
        edgecolor="none",
        borderpad=0.35,
    )


def caption(shown: Networks) -> str:
    """Say what the colours and lines mean, and where the window is."""
    (high, wide), (row, column) = shown.pixels.shape[:2], shown.corner
    return (
        "The foreground probability of every network in the same window: dark is 0, bright is 1. "
        "White: the hand-drawn (or generated) outlines. Black: where the probability is 0.5. "
        f"Image {shown.image}, window of {wide} × {high} pixels from row {row}, column {column}. "
        "Where there are several seeds or settings, the one best on validation is shown. Dash: no "
        "finished trial."
    )
