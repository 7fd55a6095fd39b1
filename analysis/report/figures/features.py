"""Figure 9: the six features by method, the ground truth first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evidence import FEATURES, TRUTH, Evidence
from analysis.report.figures.samples import first_methods, measured_from, methods_left_out
from analysis.report.figures.style import TWO_COLUMNS, look, wrapped
from analysis.report.tables import (
    MOST_DOTS,
    feature_column,
    in_order,
    representatives,
)
from analysis.report.unlabelled import frames_said, unit_name


class Panel(NamedTuple):
    """One feature of all methods."""

    label: str
    """The feature and its unit."""
    boxes: list[dict[str, Any]]
    """Box for each method: quartiles, whiskers, outliers (`matplotlib.cbook.boxplot_stats`)."""
    means: list[NDArray[np.float64]]
    """Means of the independent units for each method; empty where they are not drawn."""
    median: float | None
    """Median of the true cells."""
    ends: tuple[float, float]
    """Ends of the axis."""
    beyond: int
    """Number of cells beyond these ends."""
    cells: int
    """Number of all cells."""


class Features(NamedTuple):
    """All features of all methods."""

    methods: list[str]
    """Names of the methods; the truth comes first."""
    counts: list[int]
    """Number of cells of each method."""
    panels: list[Panel | None]
    """One per feature; None where no method has a value."""
    means: str
    """What a white diamond is; '' where none is drawn."""
    sample: str
    """How much data the features come from."""
    few: str
    """How many methods are left out, in words; '' for none."""
    size_known: bool
    """Whether sizes are in µm."""
    colours: list[int]
    """Place of each method's colour (`look`), so that it has one colour on the whole page."""


def compute(evidence: Evidence) -> Features | None:
    """Return a box for every feature and method."""
    ranked = [TRUTH, *first_methods(evidence), *evidence.given]
    cells = evidence.cells
    if cells.empty:
        return None
    cells = cells[cells["method"].isin(ranked)]
    # means of units are in the estimation plots
    found = _features(evidence, cells, ranked, "", measured_from(evidence))
    return found._replace(few=methods_left_out(evidence))


def compute_unlabelled(evidence: Evidence) -> Features | None:
    """Return a box for every feature and method on images without masks; there is no truth."""
    found = evidence.unlabelled
    if found is None or found.cells.empty:
        return None
    known = replace(
        evidence,
        objects=found.objects,
        settings={**evidence.settings, "pixel_size_um": found.pixel_size_um},
    )
    ranked = [TRUTH, *representatives(evidence)["method"]]
    shown = _features(known, found.cells, ranked, found.unit, frames_said(found))
    return shown._replace(means=shown.means.replace("group", unit_name(found)))


def _features(
    evidence: Evidence, objects: pd.DataFrame, ranked: list[str], unit: str, sample: str
) -> Features:
    """Return the boxes of cells; methods are in the order of `ranked`, the truth first.

    `unit` is '' where means of units are not drawn.
    """
    methods = in_order(objects["method"], ranked)
    everyone = in_order([*ranked, *methods])
    tables = [objects[objects["method"] == name] for name in methods]
    drawn = unit in {"group", "image"} & set(objects) and objects[unit].nunique() <= MOST_DOTS
    return Features(
        methods,
        [len(table) for table in tables],
        [
            _panel(feature, *feature_column(evidence, feature), tables, unit if drawn else None)
            for feature in FEATURES
        ],
        f"mean of each {unit}" if drawn else "",
        sample,
        "",
        feature_column(evidence, "area")[1] == "µm²",
        [everyone.index(name) - 1 for name in methods],
    )


def _panel(
    feature: str, column: str, unit: str, tables: list[pd.DataFrame], by: str | None
) -> Panel | None:
    values = [table[column].dropna().to_numpy() for table in tables]
    if not any(map(len, values)):
        return None
    means = [
        table.groupby(by)[column].mean().to_numpy(float) if by else np.array([]) for table in tables
    ]
    label = f"{feature.replace('_', ' ').capitalize()}{f' ({unit})' if unit else ''}"
    true = [v for v, table in zip(values, tables) if len(v) and (table["method"] == TRUTH).all()]
    median = float(np.median(true[0])) if true else None
    low, high = axis_ends(values, means)
    every = np.concatenate(values)
    beyond = int(((every < low) | (every > high)).sum())
    return Panel(label, boxplot_stats(values), means, median, (low, high), beyond, len(every))


def axis_ends(values: list[NDArray[Any]], means: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Return axis ends that include the values of most cells and the means of all units."""
    lows, highs = [], []
    for part in filter(len, values):
        low, quarter, half, high = np.percentile(part, [0.5, 25, 75, 99.5])
        reach = 3 * (half - quarter)  # beyond it, Tukey calls a value far out
        lows.append(max(low, quarter - reach))
        highs.append(min(high, half + reach))
    for part in filter(len, means):  # means of units are never cut off
        lows.append(np.nanmin(part))
        highs.append(np.nanmax(part))
    low, high = min(lows), max(highs)
    margin = 0.04 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def draw(shown: Features) -> Figure:
    """Draw one panel per feature, one box per method."""
    count = len(shown.methods)
    colours = [
        "0.55" if name == TRUTH else look(place).colour
        for name, place in zip(shown.methods, shown.colours)
    ]
    labels = [
        "\n".join([*wrapped(name, 24), f"n = {cells:,}"])
        for name, cells in zip(shown.methods, shown.counts)
    ]
    height = 0.9 + 2 * (0.35 + 0.36 * count)
    figure = Figure(figsize=(TWO_COLUMNS, height), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for ax, panel in zip(axes.flat, shown.panels):
        if panel is None:
            ax.set_visible(False)
            continue
        _draw_boxes(ax, panel, colours)
        ax.set_yticks(range(count), labels)
    axes[0, 0].invert_yaxis()
    return figure


def _draw_boxes(ax: Axes, panel: Panel, colours: list[str]) -> None:
    thin: Any = {f"{part}props": {"lw": 0.6} for part in ("whisker", "cap")}
    boxes = ax.bxp(
        panel.boxes,
        positions=range(len(panel.boxes)),
        orientation="horizontal",
        widths=0.62,
        patch_artist=True,
        boxprops={"lw": 0.6, "linestyle": "solid"},
        medianprops={"color": "black", "lw": 1.2},
        **thin,
        flierprops={"marker": ".", "ms": 1.5, "mec": "none", "mfc": "0.6", "rasterized": True},
    )
    for colour, box in zip(colours, boxes["boxes"]):
        box.set_facecolor(matplotlib.colors.to_rgba(colour, 0.55))
    for position, means in enumerate(panel.means):
        if len(means):
            y = np.full(len(means), position)
            ax.plot(means, y, "D", ms=2.4, mfc="white", mec="black", mew=0.5)
    ax.set_xlim(panel.ends)
    if panel.beyond:
        text = f"{panel.beyond:,} of {panel.cells:,} beyond the axis"
        ax.set_title(text, fontsize=7, color="0.35", loc="right", pad=2)
    ax.set_xlabel(panel.label)
    ax.grid(axis="x", color="0.9", lw=0.4)
    ax.set_axisbelow(True)
    if panel.median is not None:
        ax.axvline(panel.median, color="0.4", lw=0.7, ls=(0, (3, 2)), zorder=0.9)


def caption(shown: Features) -> str:
    """Say what boxes, diamonds and lines mean, and where the axes end."""
    size = "" if shown.size_known else " The pixel size is not known, so sizes are in pixels."
    means = f"White diamonds: {shown.means}. " if shown.means else ""
    known = any(panel is not None and panel.median is not None for panel in shown.panels)
    truth = "Dashed: median of the truth. " if known else ""
    return (
        f"All cells in {shown.sample}, without those at the border of an image; n is the number "
        "of cells. Boxes: quartiles and median; whiskers: the last value within 1.5 box lengths; "
        f"dots: values beyond. {means}{truth}Axes end at the 0.5 and 99.5 % "
        "points, or at three box lengths from the box if that is nearer; each panel gives the "
        f"number of cells beyond.{size}{shown.few}"
    )
