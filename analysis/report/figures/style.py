"""The look of all figures and of the viewer: widths, colours, lines, fonts, small dots."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.evaluation.outcomes import FOUND

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths in inches."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
"""Okabe and Ito's colours, which colour-blind people can distinguish, and a dark red of Tol's in
the place of yellow, which is too pale for lines."""
OUTCOME_COLOURS = {
    FOUND: "#A9BCC9",
    "missed": "#0072B2",
    "invented": "#D55E00",
    "merged": "#CC79A7",
    "split": "#E69F00",
    "boundary": "#009E73",
}
"""Colour for each outcome of a cell (`analysis.evaluation.outcomes`), the same everywhere: Okabe
and Ito's colours for what went wrong, and a pale one for what is right."""
CELL_LINE, TRUE_LINE = "#F0E442", "#56B4E9"
"""Outlines of a method's cells and of the true ones on images; no outcome has these colours."""
MARKERS = "osD^vPX<"
DASHES = ((4, 1.5), (1, 1), (5, 1, 1, 1), (8, 2), (2, 2))
LINES: tuple[Any, ...] = ("-", *((0, dash) for dash in DASHES))
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names of files and methods may contain dollar signs
    "path.simplify_threshold": 0.5,
    "savefig.dpi": 300,
}
"""Matplotlib's settings; no text in a figure is smaller than 7 points."""


class Look(NamedTuple):
    """How one network or method looks among others."""

    colour: str
    dash: Any
    """Matplotlib's line style."""
    marker: str
    every: bool
    """Whether its lines need the marker: another one has the same colour."""


def look(place: int) -> Look:
    """Return the look of the network or method in this place, counted from 0.

    No two of the first 16 look alike: those that share a colour differ in dash and marker.
    """
    again = place // len(COLOURS)
    # five further, so that the next one of this colour has the next dash
    dash = LINES[(place + (len(LINES) - 1) * again) % len(LINES)]
    marker = MARKERS[(place + again) % len(MARKERS)]
    return Look(COLOURS[place % len(COLOURS)], dash, marker, again > 0)


def wrapped(name: str, width: int, **options: Any) -> list[str]:
    """Split a name into lines between its words, never within 'star-convex' or '3-class'."""
    return textwrap.wrap(name, width, break_on_hyphens=False, **options)


def draw_dots(ax: Axes, x: Any, y: Any, colour: str) -> None:
    """Draw a small pale dot for each unit, so that many dots do not hide the overall value."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    ax.plot(x, y, ".", ms=5, color=colour, alpha=0.5, mew=0, gid="units", zorder=1.5)


def dot_key(text: str, colour: str) -> list[Line2D]:
    """Return the legend entry for the small dots; none where there are no dots."""
    if not text:
        return []
    return [Line2D([], [], marker=".", ms=5, ls="", color=colour, alpha=0.5, mew=0, label=text)]


def share(
    box: tuple[float, float, float, float], size: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Convert left, bottom, width and height from inches to fractions of the figure."""
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]
