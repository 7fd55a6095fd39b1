"""AP by the overlap (IoU) required for a match, one line per method."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evidence import IOUS, Evidence
from analysis.report.figures.samples import (
    dots_are,
    first_methods,
    methods_left_out,
    scored_from,
)
from analysis.report.figures.style import MARKERS, ONE_COLUMN, dot_key, draw_dots, look
from analysis.report.tables import (
    measured_scores,
    measured_split,
    unit_of,
    unit_values,
)


class Line(NamedTuple):
    """AP of one method."""

    method: str
    points: NDArray[np.float64]
    """(n, 2) overlap and AP, sorted by overlap."""
    units: NDArray[np.float64]
    """(m, 2) overlap and AP of each independent unit alone."""
    given: bool = False
    """Whether these are labels from elsewhere, such as a second person's."""


class Overlaps(NamedTuple):
    """AP of every method by overlap."""

    lines: list[Line]
    split: str
    dots: str
    """Meaning of a small dot; '' without dots."""
    unit: str
    sample: str
    """How much data the scores come from."""
    few: str
    """How many methods are left out, in words; '' for none."""


OVERLAPS = {f"ap_{round(100 * t)}": t for t in IOUS}
"""Required IoU by metric."""


def compute(evidence: Evidence) -> Overlaps | None:
    """Return calibrated AP by overlap for each method's representative seed."""
    table = measured_scores(evidence, list(OVERLAPS))
    if table.empty:
        return None
    units, dots = unit_values(evidence, list(OVERLAPS))
    lines = []
    for name in first_methods(evidence):
        points = _points(table[table["own"] & (table["method"] == name)])
        points = points[points[:, 0].argsort(kind="stable")]
        lines.append(Line(name, points, _points(units[units["method"] == name])))
    for name in evidence.given:
        points = _points(table[table["method"] == name])
        points = points[points[:, 0].argsort(kind="stable")]
        lines.append(Line(name, points, np.zeros((0, 2)), given=True))
    split, unit = measured_split(evidence), unit_of(evidence)
    few = methods_left_out(evidence)
    return Overlaps(lines, split, dots, unit, scored_from(evidence), few)


def _points(table: pd.DataFrame) -> NDArray[np.float64]:
    overlaps = table["metric"].map(OVERLAPS).astype(float)  # also of a method without any score
    return np.column_stack([overlaps, table["value"].astype(float)])


def draw(shown: Overlaps) -> Figure:
    """Draw a line per method, shifted sideways so that the units' dots can be seen."""
    count = len(shown.lines)
    figure = Figure(figsize=(ONE_COLUMN, 2.6 + 0.17 * count), layout="constrained")
    ax = figure.subplots()
    for number, line in enumerate(shown.lines):
        shift = 0.01 * (number - (count - 1) / 2)
        if line.given:
            dash, marker = (0, (4, 2)), MARKERS[number % len(MARKERS)]
            ax.plot(
                *line.points.T,
                color="black",
                ls=dash,
                marker=marker,
                mfc="white",
                ms=4,
                label=_given_label(line),
            )
            continue
        colour, dash, marker, _ = look(number)
        draw_dots(ax, line.units[:, 0] + shift, line.units[:, 1], colour)
        ax.plot(
            line.points[:, 0] + shift,
            line.points[:, 1],
            color=colour,
            ls=dash,
            marker=marker,
            ms=4,
            label=textwrap.shorten(line.method, 60),
        )
    ax.set_xlabel("IoU required for a match")
    ax.set_ylabel(f"AP = TP / (TP + FP + FN), {shown.split} images")
    ax.set_xticks(IOUS)
    ax.set_ylim(0, 1.02)
    ax.grid(axis="y", color="0.9", lw=0.4)
    handles = [*ax.get_legend_handles_labels()[0], *dot_key(shown.dots, "0.3")]
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    return figure


def _given_label(line: Line) -> str:
    return f"{textwrap.shorten(line.method, 45)} (labels given)"


def caption(shown: Overlaps) -> str:
    """Say what AP means, and how much data it comes from."""
    given = ""
    if any(line.given for line in shown.lines):
        given = (
            " Dashed, with open markers: given labels; those of a second person show how well "
            "people agree, which no method can be expected to exceed."
        )
    return (
        f"Calibrated methods on {shown.sample}.{shown.few} AP = TP / (TP + FP + FN) at each IoU. "
        f"{dots_are(shown.unit)} Points are shifted sideways so that the dots can be seen.{given}"
    )
