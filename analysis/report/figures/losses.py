"""Figures 5 and 6: training and validation loss by epoch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from analysis.evidence import Evidence
from analysis.report.figures.style import ONE_COLUMN, TWO_COLUMNS, look
from analysis.report.tables import in_order
from trainables.config import ARCHITECTURES, PAPER_ENCODERS, STARDIST
from trainables.names import architecture_name, encoder_name, task_name
from trainables.tasks import TASKS

MOST_POINTS = 100
"""Most points of a line; with more, five noisy lines in a small panel hide each other."""


class Line(NamedTuple):
    """One trial's losses."""

    network: int
    """Place in `Losses.networks`."""
    again: bool
    """Whether the panel already has a line for this network (from another seed or setting)."""
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]


class Panel(NamedTuple):
    """All trials of one task and encoder."""

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
    networks: list[str]
    """Names of the architectures."""
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
    networks = in_order(table["architecture"], ARCHITECTURES)
    rows = []
    for task in in_order(table["task"], list(TASKS)):
        of_task = table[table["task"] == task]
        panels = []
        for encoder in in_order(of_task["encoder"], PAPER_ENCODERS):
            part = of_task[of_task["encoder"] == encoder]
            alone = set(part["architecture"]) == {STARDIST}
            title = STARDIST if alone else f"{task_name(task)}, {encoder_name(encoder)}"
            panels.append(Panel(title, _lines(part, column, networks)))
        low, high = of_task[column].min(), of_task[column].max()
        rows.append(Row(panels, bool(low > 0 and high > 8 * low)))
    names = [architecture_name(name) for name in networks]
    return Losses(label, names, rows, table["trial_id"].nunique())


def _lines(part: pd.DataFrame, column: str, networks: list[str]) -> list[Line]:
    seen: set[str] = set()
    lines = []
    for (network, _), trial in part.groupby(["architecture", "trial_id"], sort=False):
        name = str(network)
        trial = _thinned(trial.sort_values("epoch"), column)
        epochs, values = trial["epoch"].to_numpy(float), trial[column].to_numpy(float)
        lines.append(Line(networks.index(name), name in seen, epochs, values))
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
    """Draw one panel per task and encoder, one line per trial, networks by colour and dash."""
    count = sum(len(row.panels) for row in shown.rows)
    columns = min(count, 2 if count in (2, 4) else 3)
    high = -(-count // columns)
    keys = 4 if columns > 1 else 2
    width = TWO_COLUMNS if columns > 1 else ONE_COLUMN
    height = 0.4 + 1.75 * high + 0.16 * -(-len(shown.networks) // keys)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(high, columns)
    place = 0
    for row in shown.rows:
        first: Axes | None = None
        for number, panel in enumerate(row.panels):
            ax = figure.add_subplot(
                grid[place // columns, place % columns], sharex=first, sharey=first
            )
            first = first or ax
            _draw_lines(ax, panel.lines)
            ax.set_title(panel.title)
            ax.tick_params(labelleft=number == 0 or place % columns == 0, which="both")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            if place + columns >= count:
                ax.set_xlabel("Epoch")
            place += 1
        if first is not None and row.logarithmic:
            _make_logarithmic(first)
    figure.supylabel(shown.label, fontsize=8)
    handles = [
        Line2D([], [], label=name, ms=3.5, **_line(place))
        for place, name in enumerate(shown.networks)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=keys)
    return figure


def _draw_lines(ax: Axes, lines: list[Line]) -> None:
    """Draw every trial of one panel; further trials of the same network are thin."""
    for line in lines:
        style = _line(line.network)
        if len(line.epochs) < 4:
            style["marker"] = style["marker"] or "o"
        ax.plot(
            line.epochs,
            line.values,
            lw=0.5 if line.again else 1.0,
            alpha=0.6 if line.again else 1.0,
            ms=3,
            markevery=max(1, len(line.epochs) // 8),
            **style,
        )
    ax.grid(axis="y", color="0.9", lw=0.4)


def _line(place: int) -> dict[str, Any]:
    """Return colour, dash and, where others have that colour, marker of a network."""
    shown = look(place)
    marker = shown.marker if shown.every else None
    return {"color": shown.colour, "ls": shown.dash, "marker": marker}


def _make_logarithmic(ax: Axes) -> None:
    """Make an axis logarithmic, with plain numbers instead of powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def caption(shown: Losses) -> str:
    """Say what a line means, and what not to compare."""
    return (
        f"One line per trial ({shown.trials} trials), one panel per task and encoder; colour, dash "
        "and marker show the network. Further seeds and folds of a candidate are thin lines. "
        f"Panels of one task share their axes. With more than {MOST_POINTS} epochs, a point is the "
        "median of neighbouring epochs. Do not compare losses of different tasks: they are "
        "different functions."
    )


def caption_validation(shown: Losses) -> str:
    """Say what a line means, and which epochs have no point."""
    return f"{caption(shown)} Epochs that were not validated have no point."
