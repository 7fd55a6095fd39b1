"""Figure 7: data-set IoU on the test images by architecture and encoder, one map per task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.evidence import Evidence
from analysis.folds import folds_of
from analysis.report.figures.style import COLOURS, TWO_COLUMNS, share
from analysis.report.table1 import chosen_trials
from analysis.report.tables import in_order
from trainables.config import ARCHITECTURES, PAPER_ENCODERS
from trainables.names import architecture_name, encoder_name, task_name
from trainables.tasks import TASKS

MISSING = "–"
"""Shown for a combination that the sweep did not include."""


class Map(NamedTuple):
    """One task's trials, architectures (the same for all tasks) by encoders."""

    title: str
    rows: list[str]
    columns: list[str]
    percent: NDArray[np.float64]
    """(rows, columns); NaN where there is no finished trial."""
    best: NDArray[np.bool_]
    """Marks the highest number of a map that has several."""
    status: list[list[str]]
    """Status for each cell: 'failed', 'waiting', ..., or `MISSING`."""


class Maps(NamedTuple):
    """The maps of all tasks, which share one colour scale."""

    maps: list[Map]
    low: float
    high: float
    """Per cent at the ends of the colour scale."""
    done: int
    """Number of finished trials."""
    folds: bool
    """Whether a number is a mean over folds."""


def compute(evidence: Evidence) -> Maps | None:
    """Return the IoU that every candidate reaches on the test images."""
    board = evidence.leaderboard
    if board.empty or board["test_dataset_iou"].isna().all():
        return None
    best = chosen_trials(board).fillna({"encoder": ""})
    board = board.fillna({"encoder": ""})
    values = 100 * best["test_dataset_iou"].dropna()
    low, high = values.min(), max(values.max(), values.min() + 1)
    rows = in_order(board["architecture"], ARCHITECTURES)
    maps = [_map(board, best, task, rows) for task in in_order(board["task"], list(TASKS))]
    return Maps(
        maps,
        float(low),
        float(high),
        int((board["status"] == "done").sum()),
        bool(folds_of(evidence.plan)),
    )


def _map(board: pd.DataFrame, best: pd.DataFrame, task: str, rows: list[str]) -> Map:
    asked = board[board["task"] == task]
    columns = in_order(asked["encoder"], PAPER_ENCODERS)
    table = best[best["task"] == task].set_index(["architecture", "encoder"])
    cells = pd.MultiIndex.from_product([rows, columns])
    found = 100 * table["test_dataset_iou"].reindex(cells).to_numpy(float)
    percent = found.reshape(len(rows), len(columns))
    highest = np.nanmax(percent, initial=-1.0)
    known = {(r["architecture"], r["encoder"]): r["status"] for r in asked.to_dict("records")}
    status = [[str(known.get((row, column), MISSING)) for column in columns] for row in rows]
    best_cells = (percent == highest) & (np.isfinite(percent).sum() > 1)
    rows, columns = [*map(architecture_name, rows)], [*map(encoder_name, columns)]
    return Map(task_name(task), rows, columns, percent, best_cells, status)


def draw(shown: Maps) -> Figure:
    """Draw one map per task, side by side, with the same rows and cells of the same size."""
    # places in inches
    left = 0.12 + 0.065 * max(len(name) for name in shown.maps[0].rows)
    below = 0.15 + 0.04 * max(len(name) for one in shown.maps for name in one.columns)
    count = sum(len(one.columns) for one in shown.maps)
    side = min(0.66, (TWO_COLUMNS - 0.75 - left - 0.3 * len(shown.maps)) / count)
    height = 0.27 * len(shown.maps[0].rows)
    between = max(0.12, 0.66 - side)  # titles are wider than a narrow cell
    width = left + side * count + between * (len(shown.maps) - 1) + 0.75
    size = width, height + below + 0.3
    figure = Figure(figsize=size)
    drawn = None
    for number, one in enumerate(shown.maps):
        ax = figure.add_axes(share((left, below, side * len(one.columns), height), size))
        left += side * len(one.columns) + between
        drawn = _draw_map(ax, one, shown.low, shown.high)
        ax.tick_params(labelleft=number == 0)
    if drawn is not None:
        place = figure.add_axes(share((left - between + 0.12, below, 0.09, height), size))
        bar = figure.colorbar(drawn, cax=place)
        bar.set_label("Data-set IoU, test (%)")
        bar.outline.set_visible(False)
    return figure


def _draw_map(ax: Axes, one: Map, low: float, high: float) -> AxesImage:
    drawn = ax.imshow(one.percent, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(one.percent):
        if np.isnan(value):
            _draw_missing(ax, i, j, one.status[i][j])
            continue
        colour = "white" if (value - low) / (high - low) < 0.6 else "black"
        weight = "bold" if one.best[i, j] else "normal"
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, weight=weight)
        if one.best[i, j]:
            ax.add_patch(
                Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, ec=COLOURS[1], lw=1.6)
            )
    ax.set_xticks(range(len(one.columns)), one.columns)
    ax.tick_params(axis="x", rotation=35)
    for tick in ax.get_xticklabels():
        tick.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(one.rows)), one.rows)
    ax.set_title(one.title)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return drawn


def _draw_missing(ax: Axes, i: int, j: int, word: str) -> None:
    """Write into a cell why it has no number, and hatch it if it was meant to have one."""
    if word == MISSING:
        ax.text(j, i, word, ha="center", va="center", fontsize=7, color="0.6")
        return
    ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc="0.96", ec="0.75", hatch="////", lw=0))
    box = {"fc": "white", "ec": "none", "pad": 0.8}
    ax.text(j, i, word, ha="center", va="center", fontsize=7, color="0.25", bbox=box)


def caption(shown: Maps) -> str:
    """Say what a number means and which trial it belongs to."""
    folds = "A number is the mean over the networks of all folds. " if shown.folds else ""
    return (
        f"Per cent; {shown.done} finished trials. {folds}Intersection and union are summed over "
        "all test images, then divided. Where several trials share a cell, the one best on "
        "validation is shown. Framed: the highest value of a task that has several. Hatched: no "
        "finished trial; the word is its status. Dash: not in this sweep."
    )
