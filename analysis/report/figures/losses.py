"""Figures 5 and 6: training and validation loss by epoch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from analysis.evidence import Evidence
from analysis.report.figures.style import COLOURS, LINES, ONE_COLUMN, TWO_COLUMNS
from analysis.report.tables import in_order
from trainables.config import ARCHITECTURES, PAPER_ENCODERS, STARDIST
from trainables.names import architecture_name, encoder_name, task_name
from trainables.tasks import TASKS

MOST_POINTS = 100
"""Most points of a line; with more, five noisy lines in a small panel hide each other."""


class Line(NamedTuple):
    """One trial's losses."""

    encoder: int
    """Place in `Losses.encoders`."""
    again: bool
    """Whether the panel already has a line for this encoder (from another seed or setting)."""
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


class Panel(NamedTuple):
    """All trials of one task and architecture."""

    title: str
    lines: list[Line]


class Row(NamedTuple):
    """The panels of one task, which share their axes."""

    panels: list[Panel]
    logarithmic: bool
    """Whether the losses differ so much that a linear axis would hide the small ones."""


class Losses(NamedTuple):
    """Losses of all trials, as Figures 5 and 6 show them."""

    label: str
    """Label of the vertical axis."""
    encoders: list[str]
    rows: list[Row]
    trials: int
    """Number of lines in all panels together."""


def compute_training(evidence: Evidence) -> Losses | None:
    """Return the training losses of all trials."""
    return _compute(evidence, "train_loss", "Training loss")


def compute_validation(evidence: Evidence) -> Losses | None:
    """Return the validation losses of all trials at the epochs that were validated."""
    return _compute(evidence, "val_loss", "Validation loss")


def _compute(evidence: Evidence, column: str, label: str) -> Losses | None:
    if column not in evidence.history or evidence.leaderboard.empty:
        return None
    trials = evidence.leaderboard[["trial_id", "task", "architecture", "encoder"]].fillna("")
    table = evidence.history.merge(trials, on="trial_id").dropna(subset=[column])
    if table.empty:
        return None
    encoders = in_order(table["encoder"], PAPER_ENCODERS)
    rows = []
    for task in in_order(table["task"], list(TASKS)):
        of_task = table[table["task"] == task]
        panels = []
        for name in in_order(of_task["architecture"], ARCHITECTURES):
            of = "" if name == STARDIST else f", {task_name(task)}"
            part = of_task[of_task["architecture"] == name]
            panels.append(Panel(architecture_name(name) + of, _lines(part, column, encoders)))
        low, high = of_task[column].min(), of_task[column].max()
        rows.append(Row(panels, bool(low > 0 and high > 8 * low)))
    names = [encoder_name(encoder) for encoder in encoders]
    return Losses(label, names, rows, table["trial_id"].nunique())


def _lines(part: pd.DataFrame, column: str, encoders: list[str]) -> list[Line]:
    seen: set[str] = set()
    lines = []
    for (encoder, _), trial in part.groupby(["encoder", "trial_id"], sort=False):
        name = str(encoder)
        trial = _thinned(trial.sort_values("epoch"), column)
        epochs, values = trial["epoch"].to_numpy(float), trial[column].to_numpy(float)
        lines.append(Line(encoders.index(name), name in seen, epochs, values))
        seen.add(name)
    return lines


def _thinned(trial: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return medians of neighbouring epochs if there are more epochs than a print can show."""
    if len(trial) <= MOST_POINTS:
        return trial
    return trial.groupby(np.arange(len(trial)) * MOST_POINTS // len(trial))[
        ["epoch", column]
    ].median()


def draw(shown: Losses) -> Figure:
    """Draw one panel per task and architecture, one line per trial, encoders by colour and dash."""
    columns = min(4, max(len(row.panels) for row in shown.rows))
    rows = sum(-(-len(row.panels) // columns) for row in shown.rows)
    width = TWO_COLUMNS if columns > 2 else ONE_COLUMN
    height = 0.5 + 1.45 * rows + 0.6 * (rows == 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    above = 0
    for row in shown.rows:
        first: Axes | None = None
        for number, panel in enumerate(row.panels):
            place = grid[above + number // columns, number % columns]
            ax = figure.add_subplot(place, sharex=first, sharey=first)
            first = first or ax
            _draw_lines(ax, panel.lines)
            ax.set_title(panel.title)
            ax.tick_params(labelleft=number % columns == 0, which="both")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            if number + columns >= len(row.panels):
                ax.set_xlabel("Epoch")
            else:
                ax.tick_params(labelbottom=False)
        if first is not None and row.logarithmic:
            _make_logarithmic(first)
        above += -(-len(row.panels) // columns)
    figure.supylabel(shown.label, fontsize=8)
    handles = [
        Line2D([], [], color=COLOURS[i % 7], ls=LINES[i % 6], label=name)
        for i, name in enumerate(shown.encoders)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, 3 * columns // 2))
    return figure


def _draw_lines(ax: Axes, lines: list[Line]) -> None:
    """Draw every trial of one panel; further trials of the same encoder are thin."""
    for line in lines:
        ax.plot(
            line.epochs,
            line.values,
            color=COLOURS[line.encoder % 7],
            ls=LINES[line.encoder % 6],
            lw=0.5 if line.again else 1.0,
            alpha=0.6 if line.again else 1.0,
            marker="o" if len(line.epochs) < 4 else None,
            ms=2.5,
        )
    ax.grid(axis="y", color="0.9", lw=0.4)


def _make_logarithmic(ax: Axes) -> None:
    """Make an axis logarithmic, with plain numbers instead of powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def caption(shown: Losses) -> str:
    """Say what a line means, and what not to compare."""
    return (
        f"One line per trial ({shown.trials} trials), one panel per architecture and task; colour "
        "and dash show the encoder. Further seeds of a candidate are thin lines. Panels of one "
        f"task share their axes. With more than {MOST_POINTS} epochs, a point is the median of "
        "neighbouring epochs. Do not compare losses of different tasks: they are different "
        "functions."
    )


def caption_validation(shown: Losses) -> str:
    """Say what a line means, and which epochs have no point."""
    return f"{caption(shown)} Epochs that were not validated have no point."
