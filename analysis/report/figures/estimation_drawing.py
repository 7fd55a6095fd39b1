"""How estimation plots are drawn; what they show is in `analysis.report.figures.estimation`."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from analysis.report.figures.estimation import Estimation, Panel, Row
from analysis.report.figures.style import TWO_COLUMNS, share, wrapped
from analysis.statistics.equivalence import DIFFERENT

# places in inches
NAMES, VALUES, DIFFERENCES, VERDICTS = 1.4, 1.14, 0.94, 0.58
GAP = 0.13
ROW = 0.36
"""Height of a row; three lines of text fit."""
ABOVE, BELOW, KEYS = 0.2, 0.42, 0.17
ZONE = "0.87"
"""Colour of the equivalence zone."""
NEITHER = "0.55"
APART = 0.2
"""Distance of the two sides' means from the middle of a row, in rows."""


def draw(shown: Estimation) -> Figure:
    """Draw two features side by side, each with an axis of values and one of differences."""
    count = len(shown.names)
    keys = 1 + -(-len(shown.keys) // 4)
    tall = ROW * count
    block = ABOVE + tall + BELOW
    size = TWO_COLUMNS, 2 * block + 0.06 + KEYS * keys
    figure = Figure(figsize=size)
    wide = VALUES + GAP + DIFFERENCES + VERDICTS
    for number, panel in enumerate(shown.panels):
        row, column = divmod(number, 2)
        left = NAMES + column * wide
        bottom = size[1] - (row + 1) * block + BELOW
        if panel is None:
            continue
        values = figure.add_axes(share((left, bottom, VALUES, tall), size), gid="values")
        place = (left + VALUES + GAP, bottom, DIFFERENCES, tall)
        differences = figure.add_axes(share(place, size), gid="differences")
        _draw_values(values, panel, shown)
        _draw_differences(differences, panel, shown)
        labels = [_label(*texts) for texts in zip(shown.names, shown.counts)]
        first = column == 0 or shown.panels[number - 1] is None
        values.set_yticks(range(count), labels if first else [""] * count, linespacing=1.0)
    _add_keys(figure, shown)
    return figure


def _label(name: str, cells: str) -> str:
    """Return a row's name in at most two lines, or its own lines, and its number of cells."""
    first, *more = name.split("\n")
    lines = wrapped(first, 25, max_lines=1 if more else 2, placeholder=" …")
    return "\n".join([*lines, *more, cells])


def _draw_values(ax: Axes, panel: Panel, shown: Estimation) -> None:
    rng = np.random.default_rng(0)
    for place, row in enumerate(panel.rows):
        heights = _heights(row, place, below=bool(shown.keys))
        for side, height in zip(row.sides, heights):
            _draw_cells(ax, side.cells, height, side.colour, rng)
            if shown.dots:
                _draw_means(ax, side.means, height, side.colour)
            if len(side.means):
                mean = side.means.mean()
                ax.plot([mean] * 2, [height - 0.15, height + 0.15], color="black", lw=1.3, zorder=4)
        if shown.dots and row.paired:
            pairs = np.column_stack([side.means for side in row.sides])
            for pair in pairs:
                ax.plot(pair, heights, color="0.3", lw=0.45, gid="joined", zorder=2)
    ax.set_xlim(panel.ends)
    ax.set_xlabel(panel.label, labelpad=2)
    edge = 0.08 * (panel.ends[1] - panel.ends[0])  # a label there would reach beyond the axis
    ticks = MaxNLocator(3, steps=[1, 2, 4, 5, 10]).tick_values(*panel.ends)
    ax.set_xticks([t for t in ticks if panel.ends[0] + edge / 2 <= t <= panel.ends[1] - edge])
    _tidy(ax, len(panel.rows))
    if panel.beyond:
        text = f"{panel.beyond:,} of {panel.cells:,} cells beyond the axis"
        ax.set_title(text, fontsize=7, color="0.35", loc="left", pad=2)


def _heights(row: Row, place: int, *, below: bool) -> list[float]:
    """Return the height of each side's means: the reference `below` or above the other side."""
    if len(row.sides) < 2:
        return [float(place)] * len(row.sides)
    return [place + APART, place - APART] if below else [place - APART, place + APART]


def _draw_cells(
    ax: Axes, cells: NDArray[np.float64], height: float, colour: str, rng: np.random.Generator
) -> None:
    """Draw cells about a height, further from it where there are more of them (a sina plot)."""
    if not len(cells):
        return
    number, edges = np.histogram(cells, bins=12)
    place = np.clip(np.searchsorted(edges, cells, side="right") - 1, 0, len(number) - 1)
    off = 0.24 * np.sqrt(number[place] / number.max()) * rng.uniform(-1, 1, len(cells))
    ax.plot(
        cells,
        height + off,
        ".",
        ms=2.6,
        color=colour,
        alpha=0.4,
        mew=0,
        rasterized=True,
        gid="cells",
        zorder=1.5,
    )


def _draw_means(ax: Axes, means: NDArray[np.float64], height: float, colour: str) -> None:
    y = np.full(len(means), height)
    ax.plot(means, y, "o", ms=3.2, mfc=colour, mec="white", mew=0.4, gid="units", zorder=3)


def _draw_differences(ax: Axes, panel: Panel, shown: Estimation) -> None:
    reach = [0.0]
    for place, row in enumerate(panel.rows):
        if not math.isfinite(row.difference):
            continue
        # a difference between populations has the colour of neither
        colour = NEITHER if shown.keys else row.sides[-1].colour
        reach += [row.difference]
        if math.isfinite(row.margin):
            zone = Rectangle((-row.margin, place - 0.5), 2 * row.margin, 1, fc=ZONE, ec="none")
            zone.set(gid="zone", zorder=0.5)
            ax.add_patch(zone)
            reach += [-row.margin, row.margin]
        if shown.dots and row.paired:
            reference, other = row.sides
            each = other.means - reference.means
            y = np.full(len(each), place + 0.24)
            ax.plot(each, y, ".", ms=3.6, color=colour, alpha=0.55, mew=0, gid="unit differences")
            reach += each.tolist()
        if math.isfinite(row.low):
            ends = [row.low, row.high]
            ax.plot(ends, [place] * 2, color="black", lw=0.9, gid="interval", zorder=3)
            thick: Any = {"color": "black", "lw": 2.4, "solid_capstyle": "butt", "zorder": 3}
            ax.plot(row.inner, [place] * 2, gid="inner", **thick)
            reach += ends
        ax.plot(
            row.difference, place, "o", ms=4.2, mfc=colour, mec="black", mew=0.6,
            gid="difference", zorder=4,
        )  # fmt: skip
        ax.text(
            1.04,
            place,
            row.verdict,
            fontsize=7,
            weight="bold" if row.verdict == DIFFERENT else "normal",
            va="center",
            transform=ax.get_yaxis_transform(),
        )
    low, high = min(reach), max(reach)
    edge = 0.06 * (high - low) or 0.5
    ax.set_xlim(low - edge, high + edge)
    ax.axvline(0, color="black", lw=0.6, zorder=1)
    ax.set_xlabel(shown.sign, labelpad=2)
    ax.set_xticks(_ticks(low, high))
    ax.xaxis.set_major_formatter(FuncFormatter(_signed))
    _tidy(ax, len(panel.rows))
    ax.set_yticks([])


def _ticks(low: float, high: float) -> list[float]:
    """Return zero and, on each side where there is room, one round number.

    >>> _ticks(-1.3, 0.4), _ticks(-0.03, 0.03), _ticks(0.0, 0.0)
    ([-0.8, 0.0], [-0.02, 0.0, 0.02], [0.0])
    """
    most = 0.75 * max(-low, high)  # labels nearer to the end would reach beyond it
    if not most > 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = max(times * power for times in (1, 1.5, 2, 3, 4, 5, 6, 8) if times * power <= most)
    return [value for value in (-step, 0.0, step) if low <= value <= high]


def _signed(value: float, _: Any) -> str:
    """Write a tick's number with its sign.

    >>> [_signed(value, None) for value in (0.5, 0.0, -2.0)]
    ['+0.5', '0', '−2']
    """
    return f"{value:+.4g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _tidy(ax: Axes, count: int) -> None:
    ax.set_ylim(count - 0.5, -0.5)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0, pad=3)
    for place in range(1, count):
        ax.axhline(place - 0.5, color="0.9", lw=0.4, zorder=0.4)


def _add_keys(figure: Figure, shown: Estimation) -> None:
    """Explain the signs in one line, and colours in the lines below."""
    grey: Any = {"color": "0.35", "ls": ""}
    handles: list[Patch | Line2D] = [
        Line2D([], [], marker=".", ms=4, alpha=0.5, mew=0, label="one cell", **grey)
    ]
    if shown.dots:
        handles.append(
            Line2D([], [], marker="o", ms=3.4, label=f"mean of one {shown.unit}", **grey)
        )
    rows = [row for panel in shown.panels if panel for row in panel.rows]
    known = any(math.isfinite(row.low) for row in rows)
    line: Any = {"color": "black", "lw": 1.2 if known else 0}
    label = "difference, 90 and 95 % interval" if known else "difference"
    handles.append(Line2D([], [], marker="o", ms=4.2, mfc="0.6", label=label, **line))
    handles.append(Patch(fc=ZONE, label="equivalence zone"))
    handles += [Patch(fc=colour, label=textwrap.shorten(name, 30)) for colour, name in shown.keys]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=4 if shown.keys else len(handles),
        borderaxespad=0.1,
        borderpad=0.1,
        handletextpad=0.5,
        columnspacing=1.6,
    )
