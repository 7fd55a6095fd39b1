"""Figure 8: one window as every network of a task sees it, architectures by encoders."""

from __future__ import annotations

from typing import Any, NamedTuple

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
from trainables.names import OWN_ENCODER, architecture_name, encoder_name

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
    Networks that are `listed` follow image and truth in reading order instead, each with its name.
    """

    def __init__(self, shown: Networks) -> None:
        rows, columns = len(shown.architectures), len(shown.encoders)
        self.listed = _listed(shown)
        count = 2 + len(shown.networks)
        self.wide = min(4, count) if self.listed else columns
        self.high = -(-count // self.wide) if self.listed else rows + 1
        # with four columns there is room for the key beside image and truth
        self.key_above = self.wide > 3 and not self.listed
        self.gap, self.left = 0.05, 0.03 if self.listed else 0.22
        self.foot = 0.03 if self.key_above else 0.24 if self.wide > 2 else 0.42
        self.title = 0.2 if self.listed else 0.0  # of every row; else only above the first two
        across = (TWO_COLUMNS - self.left) / self.wide
        self.side = min(across - self.gap, 8.5 / self.high - self.gap, 1.7)
        longest = 0 if self.listed else max(map(len, shown.encoders))
        self.pitch = min(across, max(self.side + self.gap, 0.068 * longest))
        width = self.left + self.wide * self.pitch
        tall = self.high * (self.side + self.gap + self.title)
        self.size = width, self.foot + tall + (0 if self.listed else 0.4)
        self.figure = Figure(figsize=self.size)

    def place(self, i: int, j: int) -> Axes:
        """Add the panel of a row and column of the page."""
        above = 0.2 if i == 0 and not self.listed else 0
        bottom = self.foot + (self.high - 1 - i) * (self.side + self.gap + self.title) + above
        left = self.left + j * self.pitch + (self.pitch - self.side) / 2
        ax = self.figure.add_axes(share((left, bottom, self.side, self.side), self.size))
        ax.set_axis_off()
        return ax


def _listed(shown: Networks) -> bool:
    """Whether most places of a table of architectures by encoders would be empty."""
    places = len(shown.architectures) * len(shown.encoders)
    return len(shown.encoders) == 1 or 2 * len(shown.networks) <= places


def draw(shown: Networks) -> Figure:
    """Draw image and truth, then every network's probability with both sets of outlines."""
    grid = _Grid(shown)
    show_pixels(grid.place(0, 0), shown.pixels, "Image")
    show_pixels(grid.place(0, 1), shown.pixels, "Ground truth", shown.truth)
    every = [(row, column) for row in shown.architectures for column in shown.encoders]
    if grid.listed:
        there = [names for names in every if names in shown.networks]
        alone = len(shown.encoders) == 1
        for place, names in enumerate(there, 2):
            ax = grid.place(*divmod(place, grid.wide))
            chosen = [name for name in names if name != OWN_ENCODER]
            title = names[0] if alone else ", ".join(chosen)
            _draw_network(grid, ax, shown.networks[names], shown.truth, title)
    else:
        for place, names in enumerate(every):
            _draw_place(grid, shown, names, *divmod(place, len(shown.encoders)))
    _add_key(grid)
    return grid.figure


def _draw_place(grid: _Grid, shown: Networks, names: tuple[str, str], i: int, j: int) -> None:
    """Draw one place of the table, with its encoder above the first row."""
    ax = grid.place(i + 1, j)
    if j == 0:
        style: Any = {"rotation": 90, "ha": "right", "va": "center", "transform": ax.transAxes}
        ax.text(-0.06, 0.5, names[0], **style)
    title = names[1] if i == 0 else ""
    if names in shown.networks:
        _draw_network(grid, ax, shown.networks[names], shown.truth, title)
        return
    ax.set_title(title, pad=3)
    ax.text(0.5, 0.5, "–", ha="center", va="center", transform=ax.transAxes)


def _draw_network(
    grid: _Grid, ax: Axes, network: Network, truth: list[NDArray[np.float64]], title: str
) -> None:
    """Draw a probability and outlines, which are thinner in small panels."""
    width = 0.45 if grid.side < 1.2 else 0.8
    show_pixels(ax, network.probability, title, truth, PROBABILITY, TRUTH_LINE, width)
    ax.add_collection(LineCollection(network.half, colors=HALF_LINE, linewidths=0.75 * width))


def _add_key(grid: _Grid) -> None:
    """Explain lines and colours, in the empty part of the first row or below all panels."""
    handles = [
        Line2D([], [], color=TRUTH_LINE, label="ground truth"),
        Line2D([], [], color=HALF_LINE, label="probability 0.5"),
        Patch(fc=PROBABILITY(0.0), label="probability 0"),
        Patch(fc=PROBABILITY(1.0), label="probability 1"),
    ]
    where: Any = {"loc": "lower center", "ncols": 4 if grid.wide > 2 else 2}
    if grid.key_above:
        width, height = grid.size
        right = (grid.left + (grid.wide + 2) / 2 * grid.pitch) / width
        top = 1 - (0.2 + grid.side / 2) / height
        where = {"loc": "center", "ncols": 1 if grid.wide < 5 else 2}
        where["bbox_to_anchor"] = (right, top)
    # white lines need a background in the legend too
    grid.figure.legend(
        handles=handles,
        **where,
        frameon=True,
        facecolor="0.72",
        edgecolor="none",
        borderpad=0.35,
        borderaxespad=0.2,
    )


def caption(shown: Networks) -> str:
    """Say what the colours and lines mean, and where the window is."""
    (high, wide), (row, column) = shown.pixels.shape[:2], shown.corner
    places = len(shown.architectures) * len(shown.encoders)
    dash = "" if _listed(shown) or len(shown.networks) == places else " Dash: no finished trial."
    return (
        "The foreground probability of every network in the same window: dark is 0, bright is 1. "
        "White: the hand-drawn (or generated) outlines. Black: where the probability is 0.5. "
        f"Image {shown.image}, window of {wide} × {high} pixels from row {row}, column {column}. "
        "Where there are several seeds or settings, the one best on validation is shown."
        f"{dash}"
    )
