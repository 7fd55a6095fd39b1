"""Relative bias of every feature against the ground truth, beside its margin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from analysis.evidence import FEATURES, Evidence
from analysis.report.feature_tables import margin_said
from analysis.report.figures.samples import (
    dots_are,
    first_methods,
    measured_from,
    methods_left_out,
)
from analysis.report.figures.style import TWO_COLUMNS, dot_key, draw_dots, look
from analysis.report.tables import (
    relative_bias,
    unit_of,
    unit_values,
)
from analysis.study.families import TRUTH_FAMILY


class Point(NamedTuple):
    """The bias of one method in one feature."""

    feature: int
    """Place in `analysis.evidence.FEATURES`."""
    method: int
    """Place in `Bias.methods`."""
    percent: NDArray[np.float64]
    """Bias over all cells: one value, or none where it is not known."""
    units: NDArray[np.float64]
    """Bias in each independent unit alone."""


class Bias(NamedTuple):
    """Bias in per cent of the truth's mean."""

    methods: list[str]
    margins: list[float | None]
    """Margin in per cent for each feature, where it is known."""
    points: list[Point]
    dots: str
    """Meaning of a small dot; '' without dots."""
    unit: str
    sample: str
    """How much data the features come from."""
    few: str
    """How many methods are left out, in words; '' for none."""
    margin: str
    """What the margin is, in words."""


def compute(evidence: Evidence) -> Bias | None:
    """Return the bias of every feature and method, and each feature's margin."""
    table = relative_bias(evidence)
    if table.empty:
        return None
    units, dots = unit_values(evidence, [f"bias_{feature}" for feature in FEATURES])
    names = [*first_methods(evidence), *evidence.given]
    methods = [name for name in names if (table["method"] == name).any()]
    margins = [_margin(evidence, feature) for feature in FEATURES]
    points = []
    for i, feature in enumerate(FEATURES):
        for j, name in enumerate(methods):
            own = table[(table["feature"] == feature) & (table["method"] == name)]
            each = units[(units["method"] == name) & (units["metric"] == f"bias_{feature}")]
            values = (100 * t["value"].to_numpy(float) for t in (own, each))
            points.append(Point(i, j, *values))
    unit, sample = unit_of(evidence, cells=True), measured_from(evidence)
    few = methods_left_out(evidence)
    said = margin_said(unit, evidence.settings.get("annotator"))
    return Bias(methods, margins, points, dots, unit, sample, few, said)


def _margin(evidence: Evidence, feature: str) -> float | None:
    """Return the margin in per cent of the true cells' mean."""
    table = evidence.statistics
    if table.empty:
        return None
    rows = table[(table["family"] == TRUTH_FAMILY) & (table["feature"] == feature)]
    share = (100 * rows["margin"] / rows["mean_b"].abs()).dropna()
    return float(share.iloc[0]) if len(share) else None


def draw(shown: Bias) -> Figure:
    """Draw one row per feature, methods below each other, on a grey bar as wide as the margin."""
    count = len(shown.methods)
    height = 0.9 + 6 * (0.2 + 0.11 * count)
    figure = Figure(figsize=(TWO_COLUMNS * 0.75, height), layout="constrained")
    ax = figure.subplots()
    for position, margin in enumerate(shown.margins):
        if margin is not None:
            ax.add_patch(
                Rectangle((-margin, position - 0.45), 2 * margin, 0.9, fc="0.85", ec="none")
            )
    for point in shown.points:
        _draw_point(ax, point, shown.methods)
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(range(len(FEATURES)), [f.replace("_", " ").capitalize() for f in FEATURES])
    ax.set_ylim(len(FEATURES) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("Bias (% of the ground truth's mean)")
    ax.grid(axis="x", color="0.92", lw=0.4)
    handles = [*ax.get_legend_handles_labels()[0], *dot_key(shown.dots, "0.3")]
    if any(margin is not None for margin in shown.margins):
        handles.append(Patch(fc="0.85", label="within the margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=1 if count > 3 else 2)
    return figure


def _draw_point(ax: Axes, point: Point, methods: list[str]) -> None:
    """Draw a method's bias at its own height in the feature's row."""
    y = point.feature + (point.method - (len(methods) - 1) / 2) * 0.7 / len(methods)
    colour, _, marker, _ = look(point.method)
    label = methods[point.method] if point.feature == 0 else None
    draw_dots(ax, point.units, y, colour)
    for percent in point.percent:
        ax.plot(percent, y, ls="", label=label, color=colour, marker=marker, ms=4)


def caption(shown: Bias) -> str:
    """Say what bias means, how much data it comes from, and what grey means."""
    return (
        "Mean over units of (method − truth) in per cent of the truth's mean, for the cells that "
        f"all methods found: {shown.sample}.{shown.few} {dots_are(shown.unit)} Grey: "
        f"the margin, {shown.margin}."
    )
