"""The figures of the paper and ours, as SVG for the page and PDF for print.

Every ``draw_*`` takes the evidence and returns a figure, or None when what it shows is missing.
Figures are 3.4 inches wide (one column) or 7 (two), with nothing smaller than 7 points.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.evidence import FEATURES, IOUS, TRUTH, Evidence
from analysis.report.figure_images import (
    COLOURS,
    ONE_COLUMN,
    TASKS,
    TWO_COLUMNS,
    draw_heat_map,
    draw_networks,
    draw_overlays,
    task_name,
)
from analysis.report.tables import (
    MOST_DOTS,
    feature_column,
    in_order,
    measured_scores,
    measured_split,
    pixel_noise,
    relative_bias,
    representatives,
    table1,
    unit_values,
)
from trainables.config import ARCHITECTURES, PAPER_ENCODERS, STARDIST
from trainables.records.files import write_with

MARKERS = "osD^vPX"
DASHES = ((4, 1.5), (1, 1), (5, 1, 1, 1), (8, 2), (2, 2))
LINES: tuple[Any, ...] = ("-", *((0, dash) for dash in DASHES))
MOST_POINTS = 100
"""Points of one line of a small panel: with more, five noisy lines cover each other."""
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
    "path.simplify_threshold": 0.5,
    "savefig.dpi": 300,
}


def draw_train_loss(evidence: Evidence) -> Figure | None:
    """Figure 5: training loss by epoch."""
    return _losses(evidence, "train_loss", "Training loss")


def draw_val_loss(evidence: Evidence) -> Figure | None:
    """Figure 6: validation loss by epoch."""
    return _losses(evidence, "val_loss", "Validation loss")


def _losses(evidence: Evidence, column: str, label: str) -> Figure | None:
    """Draw one panel per task and architecture, one line per trial, encoders by colour and dash."""
    if column not in evidence.history or evidence.leaderboard.empty:
        return None
    trials = evidence.leaderboard[["trial_id", "task", "architecture", "encoder"]].fillna("")
    lines = evidence.history.merge(trials, on="trial_id").dropna(subset=[column])
    if lines.empty:
        return None
    encoders = in_order(lines["encoder"], PAPER_ENCODERS)
    panels = {
        task: in_order(lines.loc[lines["task"] == task, "architecture"], ARCHITECTURES)
        for task in in_order(lines["task"], TASKS)
    }
    columns = min(4, max(map(len, panels.values())))
    rows = sum(-(-len(names) // columns) for names in panels.values())
    width = TWO_COLUMNS if columns > 2 else ONE_COLUMN
    height = 0.5 + 1.45 * rows + 0.6 * (rows == 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    row = 0
    for task, names in panels.items():
        first: Axes | None = None
        for number, name in enumerate(names):
            ax = figure.add_subplot(grid[row + number // columns, number % columns])
            if first is not None:
                ax.sharey(first)
                ax.sharex(first)
            first = first or ax
            part = lines[(lines["task"] == task) & (lines["architecture"] == name)]
            _loss_lines(ax, part, column, encoders)
            ax.set_title(name if name == STARDIST else f"{name}, {task_name(task)}")
            ax.tick_params(labelleft=number % columns == 0, which="both")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            if number + columns >= len(names):
                ax.set_xlabel("Epoch")
            else:
                ax.tick_params(labelbottom=False)
        if first is not None:
            values = lines.loc[lines["task"] == task, column]
            if values.min() > 0 and values.max() > 8 * values.min():
                first.set_yscale("log")
                # plain numbers: powers of ten are not what a reader of Dice losses thinks in
                first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                first.yaxis.set_minor_formatter(NullFormatter())
        row += -(-len(names) // columns)
    figure.supylabel(label, fontsize=8)
    handles = [
        Line2D([], [], color=COLOURS[i % 7], ls=LINES[i % 6], label=name or "own encoder")
        for i, name in enumerate(encoders)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, 3 * columns // 2))
    return figure


def _loss_lines(ax: Axes, part: pd.DataFrame, column: str, encoders: list[str]) -> None:
    """Draw every trial of one panel; seeds beyond the first are thin."""
    drawn: set[str] = set()
    for (encoder, _), trial in part.groupby(["encoder", "trial_id"], sort=False):
        number = encoders.index(str(encoder))
        again = encoder in drawn
        drawn.add(str(encoder))
        trial = _thinned(trial.sort_values("epoch"), column)
        ax.plot(
            trial["epoch"],
            trial[column],
            color=COLOURS[number % 7],
            ls=LINES[number % 6],
            lw=0.5 if again else 1.0,
            alpha=0.6 if again else 1.0,
            marker="o" if len(trial) < 4 else None,
            ms=2.5,
        )
    ax.grid(axis="y", color="0.9", lw=0.4)


def _thinned(trial: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return medians of neighbouring epochs where there are more epochs than a print shows."""
    if len(trial) <= MOST_POINTS:
        return trial
    return trial.groupby(np.arange(len(trial)) * MOST_POINTS // len(trial))[
        ["epoch", column]
    ].median()


def draw_boxes(evidence: Evidence) -> Figure | None:
    """Figure 9: the six features by method, the ground truth first."""
    objects = evidence.objects
    if objects.empty:
        return None
    names = in_order(objects["method"], (TRUTH, *representatives(evidence)["method"]))
    colours = dict(zip([n for n in names if n != TRUTH], COLOURS * 3)) | {TRUTH: "0.55"}
    labels = [
        "\n".join([*textwrap.wrap(n, 24), f"n = {(objects['method'] == n).sum():,}"]) for n in names
    ]
    thin: Any = {f"{part}props": {"lw": 0.6} for part in ("box", "whisker", "cap")}
    height = 0.9 + 2 * (0.35 + 0.36 * len(names))
    figure = Figure(figsize=(TWO_COLUMNS, height), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for ax, feature in zip(axes.flat, FEATURES):
        column, unit = feature_column(evidence, feature)
        values = {n: objects.loc[objects["method"] == n, column].dropna() for n in names}
        if not any(map(len, values.values())):
            ax.set_visible(False)
            continue
        boxes = ax.boxplot(
            [values[n].to_numpy() for n in names],
            positions=range(len(names)),
            orientation="horizontal",
            widths=0.62,
            patch_artist=True,
            medianprops={"color": "black", "lw": 1.2},
            **thin,
            flierprops={"marker": ".", "ms": 1.5, "mec": "none", "mfc": "0.6", "rasterized": True},
        )
        for name, box in zip(names, boxes["boxes"]):
            box.set_facecolor(matplotlib.colors.to_rgba(colours[name], 0.55))
        _unit_means(ax, objects, evidence.settings.get("unit", "image"), column, names)
        _clip(ax, list(values.values()))
        ax.set_xlabel(f"{feature.replace('_', ' ').capitalize()}{f' ({unit})' if unit else ''}")
        ax.grid(axis="x", color="0.9", lw=0.4)
        ax.set_axisbelow(True)
        truth = values.get(TRUTH)
        if truth is not None and len(truth):
            ax.axvline(truth.median(), color="0.4", lw=0.7, ls=(0, (3, 2)), zorder=0.9)
        ax.set_yticks(range(len(names)), labels)
    axes[0, 0].invert_yaxis()
    return figure


def _unit_means(ax: Axes, objects: pd.DataFrame, unit: str, column: str, names: list[str]) -> None:
    """Draw the mean of every independent unit."""
    if unit not in {"group", "image"} & set(objects) or objects[unit].nunique() > MOST_DOTS:
        return
    for position, name in enumerate(names):
        means = objects[objects["method"] == name].groupby(unit)[column].mean()
        ax.plot(
            means, np.full(len(means), position), "D", ms=2.4, mfc="white", mec="black", mew=0.5
        )


def _clip(ax: Axes, values: list[Any]) -> None:
    """Limit the axis to what most objects have, and say how many lie beyond."""
    ends = []
    for part in filter(len, values):
        low, quarter, half, high = np.percentile(part, [0.5, 25, 75, 99.5])
        reach = 3 * (half - quarter)  # beyond it, Tukey calls a value far out
        ends.append((max(low, quarter - reach), min(high, half + reach)))
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    for line in ax.lines:
        if line.get_marker() == "D":  # means of units are never cut off
            means = np.asarray(line.get_xdata(), float)
            low, high = min(low, np.nanmin(means)), max(high, np.nanmax(means))
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin
    everything = np.concatenate(values)
    beyond = int(((everything < low) | (everything > high)).sum())
    ax.set_xlim(low, high)
    if beyond:
        text = f"{beyond:,} of {len(everything):,} beyond the axis"
        ax.set_title(text, fontsize=7, color="0.35", loc="right", pad=2)


def draw_calibration(evidence: Evidence) -> Figure | None:
    """What calibration gains: mean AP on the test images, by default and calibrated."""
    methods = representatives(evidence)
    part = measured_scores(evidence, ("ap_mean",), ("default", "calibrated"))
    if part.empty or part["parameters"].nunique() < 2:
        return None
    units, one = unit_values(evidence, ("ap_mean",), ("default", "calibrated"))
    figure = Figure(figsize=(ONE_COLUMN + 1.2, 1.0 + 0.42 * len(methods)), layout="constrained")
    ax = figure.subplots()
    looks = {"default": ("white", -0.14), "calibrated": (COLOURS[0], 0.14)}
    for position, name in enumerate(methods["method"]):
        for parameters, (colour, shift) in looks.items():
            rows = part[(part["method"] == name) & (part["parameters"] == parameters)]
            own = rows["own"]
            y = position + shift
            each = units[(units["method"] == name) & (units["parameters"] == parameters)]
            _dots(ax, each["value"], y, COLOURS[0])
            ax.plot(rows.loc[~own, "value"], [y] * int((~own).sum()), "|", color="0.5", ms=5)
            ax.plot(rows.loc[own, "value"], [y] * int(own.sum()), "o", mfc=colour, mec=COLOURS[0])
    ax.set_yticks(range(len(methods)), ["\n".join(textwrap.wrap(n, 26)) for n in methods["method"]])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.set_xlabel(f"Mean AP over IoU 0.5 to 0.9, {measured_split(evidence)} images")
    ax.grid(axis="x", color="0.9", lw=0.4)
    handles = [
        Line2D([], [], marker="o", mfc=colour, mec=COLOURS[0], ls="", label=name)
        for name, (colour, _) in looks.items()
    ]
    handles += _dot_key(one, COLOURS[0])
    if not part["own"].all():
        handles.append(Line2D([], [], marker="|", color="0.5", ls="", label="other seeds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _dots(ax: Axes, x: Any, y: Any, colour: str) -> None:
    """Draw each unit's own value; small and pale, so that many do not hide the whole."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    ax.plot(x, y, ".", ms=5, color=colour, alpha=0.5, mew=0, gid="units", zorder=1.5)


def _dot_key(text: str, colour: str) -> list[Line2D]:
    """Return what the legend says of the small dots: nothing where there are none."""
    if not text:
        return []
    return [Line2D([], [], marker=".", ms=5, ls="", color=colour, alpha=0.5, mew=0, label=text)]


def draw_overlaps(evidence: Evidence) -> Figure | None:
    """AP by the overlap (IoU) that a match needs, one line per method."""
    methods = representatives(evidence)
    names = {f"ap_{round(100 * t)}": t for t in IOUS}
    part = measured_scores(evidence, list(names))
    if part.empty:
        return None
    part = part[part["own"]]
    units, one = unit_values(evidence, list(names))
    figure = Figure(figsize=(ONE_COLUMN, 2.6 + 0.17 * len(methods)), layout="constrained")
    ax = figure.subplots()
    for number, name in enumerate(methods["method"]):
        rows = part[part["method"] == name]
        overlap = rows["metric"].map(names).astype(float)  # also of a method without any score
        rows = rows.assign(overlap=overlap).sort_values("overlap")
        shift = 0.01 * (number - (len(methods) - 1) / 2)  # units beside each other
        each = units[units["method"] == name]
        _dots(
            ax, each["metric"].map(names).astype(float) + shift, each["value"], COLOURS[number % 7]
        )
        ax.plot(
            rows["overlap"] + shift,
            rows["value"],
            color=COLOURS[number % 7],
            ls=LINES[number % 6],
            marker=MARKERS[number % 7],
            ms=4,
            label=textwrap.shorten(name, 60),
        )
    ax.set_xlabel("IoU that a match needs")
    ax.set_ylabel(f"AP = TP / (TP + FP + FN), {measured_split(evidence)} images")
    ax.set_xticks(IOUS)
    ax.set_ylim(0, 1.02)
    ax.grid(axis="y", color="0.9", lw=0.4)
    handles = [*ax.get_legend_handles_labels()[0], *_dot_key(one, "0.3")]
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    return figure


def draw_bias(evidence: Evidence) -> Figure | None:
    """Relative bias of every feature against the ground truth, over the noise of pixels."""
    table = relative_bias(evidence)
    if table.empty:
        return None
    units, one = unit_values(evidence, [f"bias_{feature}" for feature in FEATURES])
    names = in_order(table["method"], tuple(representatives(evidence)["method"]))
    height = 0.9 + 6 * (0.2 + 0.11 * len(names))
    figure = Figure(figsize=(TWO_COLUMNS * 0.75, height), layout="constrained")
    ax = figure.subplots()
    step = 0.7 / max(len(names), 1)
    for position, feature in enumerate(FEATURES):
        noise = pixel_noise(evidence, feature)
        if noise is not None:
            ax.add_patch(
                Rectangle((-100 * noise, position - 0.45), 200 * noise, 0.9, fc="0.85", ec="none")
            )
        for number, name in enumerate(names):
            rows = table[(table["feature"] == feature) & (table["method"] == name)]
            y = position + (number - (len(names) - 1) / 2) * step
            look: Any = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7], "ms": 4}
            each = units[(units["method"] == name) & (units["metric"] == f"bias_{feature}")]
            _dots(ax, 100 * each["value"], y, look["color"])
            for value in rows["value"]:
                ax.plot(100 * value, y, ls="", label=name if not position else None, **look)
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(range(len(FEATURES)), [f.replace("_", " ").capitalize() for f in FEATURES])
    ax.set_ylim(len(FEATURES) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("Bias against the ground truth (% of its mean)")
    ax.grid(axis="x", color="0.92", lw=0.4)
    handles = [*ax.get_legend_handles_labels()[0], *_dot_key(one, "0.3")]
    if any(pixel_noise(evidence, f) is not None for f in FEATURES):
        handles.append(Patch(fc="0.85", label="no larger than what pixels alone produce"))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if len(names) > 3 else 2)
    return figure


DRAWINGS: dict[str, Callable[[Evidence], Figure | None]] = {
    "figure5_training_loss": draw_train_loss,
    "figure6_validation_loss": draw_val_loss,
    "figure7_dataset_iou": draw_heat_map,
    **{f"figure8_networks_{task}": partial(draw_networks, task=task) for task in TASKS},
    "figure9_features": draw_boxes,
    "figure10_overlays": draw_overlays,
    "calibration": draw_calibration,
    "overlaps": draw_overlaps,
    "bias": draw_bias,
}
"""What draws each figure, in the order of the page."""


def make_figures(evidence: Evidence, folder: Path) -> dict[str, Path]:
    """Write Table 1 and every figure that the evidence allows.

    Parameters
    ----------
    evidence : Evidence
        What the analysis found.
    folder : Path
        The report's folder: ``table1.csv`` goes there, figures to ``figures/`` in it.

    Returns
    -------
    dict
        Name to path: ``table1`` and, of each figure that could be drawn, its SVG (a PDF of the
        same name lies beside it).
    """
    written = {}
    table = table1(evidence)
    if not table.empty:
        written["table1"] = folder / "table1.csv"
        write_with(written["table1"], lambda path: table.to_csv(path, index=False))
    for name, draw in DRAWINGS.items():
        style: Any = STYLE | {"svg.hashsalt": name}
        with matplotlib.rc_context(style):
            figure = draw(evidence)
            if figure is None:
                continue
            for kind in ("svg", "pdf"):
                _save(figure, folder / "figures" / f"{name}.{kind}", kind)
        written[name] = folder / "figures" / f"{name}.svg"
    return written


def _save(figure: Figure, path: Path, kind: str) -> None:
    """Write the figure without a date, so that the same evidence gives the same file."""
    date = {"Date": None} if kind == "svg" else {"CreationDate": None}
    write_with(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=date))
