"""What calibration changes: mean AP on the test images with default and calibrated parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.evidence import Evidence
from analysis.report.figures.samples import (
    dots_are,
    first_methods,
    methods_left_out,
    scored_from,
)
from analysis.report.figures.style import COLOURS, ONE_COLUMN, dot_key, draw_dots, wrapped
from analysis.report.tables import (
    measured_scores,
    measured_split,
    unit_of,
    unit_values,
)

LOOKS = {"default": ("white", -0.14), "calibrated": (COLOURS[0], 0.14)}
"""Colour of each kind of parameters, and its distance from the middle of the method's row."""


class Scores(NamedTuple):
    """Mean AP of one method with one kind of parameters."""

    method: int
    """Place in `Calibration.methods`."""
    parameters: str
    own: NDArray[np.float64]
    """Score of the representative seed."""
    others: NDArray[np.float64]
    """Scores of the other seeds."""
    units: NDArray[np.float64]
    """Score in each independent unit alone."""


class Calibration(NamedTuple):
    """Mean AP of every method with default and calibrated parameters."""

    methods: list[str]
    scores: list[Scores]
    split: str
    dots: str
    """Meaning of a small dot; '' without dots."""
    unit: str
    sample: str
    """How much data the scores come from."""
    few: str
    """How many methods are left out, in words; '' for none."""
    other_seeds: bool


def compute(evidence: Evidence) -> Calibration | None:
    """Return the scores with both kinds of parameters, if both were computed."""
    kinds = tuple(LOOKS)
    table = measured_scores(evidence, ("ap_mean",), kinds)
    if table.empty or table["parameters"].nunique() < 2:
        return None
    units, dots = unit_values(evidence, ("ap_mean",), kinds)
    methods = first_methods(evidence)
    table = table[table["method"].isin(methods)]  # nothing was calibrated for given labels
    scores = []
    for number, name in enumerate(methods):
        for kind in kinds:
            rows = table[(table["method"] == name) & (table["parameters"] == kind)]
            each = units[(units["method"] == name) & (units["parameters"] == kind)]
            own = rows["own"].to_numpy(bool)
            values = rows["value"].to_numpy(float)
            of_units = each["value"].to_numpy(float)
            scores.append(Scores(number, kind, values[own], values[~own], of_units))
    return Calibration(
        methods,
        scores,
        measured_split(evidence),
        dots,
        unit_of(evidence),
        scored_from(evidence),
        methods_left_out(evidence),
        not table["own"].all(),
    )


def draw(shown: Calibration) -> Figure:
    """Draw one row per method: default above, calibrated below."""
    count = len(shown.methods)
    figure = Figure(figsize=(ONE_COLUMN + 1.2, 1.0 + 0.42 * count), layout="constrained")
    ax = figure.subplots()
    for one in shown.scores:
        colour, shift = LOOKS[one.parameters]
        y = one.method + shift
        draw_dots(ax, one.units, y, COLOURS[0])
        ax.plot(one.others, [y] * len(one.others), "|", color="0.5", ms=5)
        ax.plot(one.own, [y] * len(one.own), "o", mfc=colour, mec=COLOURS[0])
    ax.set_yticks(range(count), ["\n".join(wrapped(n, 26)) for n in shown.methods])
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_xlabel(f"Mean AP over IoU 0.5 to 0.9, {shown.split} images")
    ax.grid(axis="x", color="0.9", lw=0.4)
    handles = [
        Line2D([], [], marker="o", mfc=colour, mec=COLOURS[0], ls="", label=name)
        for name, (colour, _) in LOOKS.items()
    ]
    handles += dot_key(shown.dots, COLOURS[0])
    if shown.other_seeds:
        handles.append(Line2D([], [], marker="|", color="0.5", ls="", label="other trainings"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def caption(shown: Calibration) -> str:
    """Say what is compared, and how much data it comes from."""
    return (
        f"Mean AP over IoU 0.5 to 0.9 on {shown.sample}, with default parameters and with "
        "parameters calibrated on validation images. The default thresholds of StarDist and "
        "star-convex heads were already chosen on these at the end of training. "
        f"{dots_are(shown.unit)} Ticks: other trainings (seeds, folds) of the method.{shown.few}"
    )
