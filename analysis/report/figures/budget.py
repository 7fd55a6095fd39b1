"""Error budget: how much average precision each cause costs every method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.evaluation.outcomes import CAUSES, FOUND, budget
from analysis.evidence import Evidence
from analysis.folds import network_shown
from analysis.report.figures.samples import first_methods, methods_left_out, scored_from
from analysis.report.figures.style import OUTCOME_COLOURS, TWO_COLUMNS, wrapped
from analysis.report.tables import measured_split, representatives, unit_of


class Bar(NamedTuple):
    """The error budget of one method: means over independent units."""

    method: str
    ap: float
    """Mean AP."""
    lost: NDArray[np.float64]
    """(5,) AP that each of `analysis.evaluation.outcomes.CAUSES` takes; with `ap` they add up to
    1."""
    gives_back: NDArray[np.float64]
    """(5,) by how much AP would rise if only the cells of this cause were right."""


class Budget(NamedTuple):
    """The error budgets of the methods."""

    bars: list[Bar]
    split: str
    unit: str
    sample: str
    """How much data the scores come from."""
    few: str
    """How many methods are left out, in words; '' for none."""
    network: str
    """Which of a method's networks it shows."""


def compute(evidence: Evidence) -> Budget | None:
    """Return the error budget of each method's representative seed, in the order of the ranking."""
    errors, unit = evidence.errors, unit_of(evidence)
    if errors.empty:
        return None
    bars = []
    drawn = errors[errors["method"].isin(representatives(evidence)["method"])]
    shown = set(drawn.loc[drawn["predicted_cells"] > 0, unit])
    for name in (*first_methods(evidence), *evidence.given):
        of_units = [
            _budget(own, bool(where in shown))
            for where, own in errors[errors["method"] == name].groupby(unit, sort=False)
        ]
        known = [one for one in of_units if np.isfinite(one["ap"]).all()]
        if known:
            means = [
                np.mean([one[column].to_numpy(float) for one in known], axis=0)
                for column in ("ap", "lost", "gives_back")
            ]
            bars.append(Bar(name, float(means[0][0]), means[1], means[2]))
    if not bars:
        return None
    sample, few = scored_from(evidence), methods_left_out(evidence)
    return Budget(bars, measured_split(evidence), unit, sample, few, network_shown(evidence.plan))


def _budget(errors: pd.DataFrame, others: bool) -> pd.DataFrame:
    """Return the error budget of a unit. One without cells is scored where `others` invent some:
    who shows none there has made no mistake, as in mean AP on validation.
    """
    found = budget(errors)
    if others and found["ap"].isna().all():
        return found.assign(ap=1.0, lost=0.0, gives_back=0.0)
    return found


def draw(shown: Budget) -> Figure:
    """Draw a stacked bar for each method, and beside it what each cause would give back."""
    count = len(shown.bars)
    figure = Figure(figsize=(TWO_COLUMNS, 0.95 + 0.34 * count), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1), sharey=True)
    for place, bar in enumerate(shown.bars):
        _draw_bar(left, place, bar)
    left.set_yticks(range(count), ["\n".join(wrapped(b.method, 26)) for b in shown.bars])
    left.set_ylim(count - 0.5, -0.5)
    left.set_xlim(0, 1)
    left.set_xlabel(f"Mean AP ({shown.split} images), and what takes the rest")
    left.tick_params(axis="y", length=0)
    _draw_gains(right, shown.bars)
    handles = [Patch(fc=OUTCOME_COLOURS[FOUND], label="mean AP")]
    handles += [Patch(fc=OUTCOME_COLOURS[cause], label=cause) for cause in CAUSES]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def _draw_bar(ax: Axes, place: int, bar: Bar) -> None:
    ax.barh(place, bar.ap, 0.7, color=OUTCOME_COLOURS[FOUND])
    ax.text(bar.ap / 2, place, f"{bar.ap:.3f}", ha="center", va="center")
    start = bar.ap
    for cause, lost in zip(CAUSES, bar.lost):
        ax.barh(place, lost, 0.7, left=start, color=OUTCOME_COLOURS[cause], ec="white", lw=0.4)
        start += lost


def _draw_gains(ax: Axes, bars: list[Bar]) -> None:
    """Write by how much AP would rise, on a colour as strong as the gain."""
    gains = np.array([bar.gives_back for bar in bars])
    largest = max(float(gains.max()), 1e-9)
    for (place, column), gain in np.ndenumerate(gains):
        strength = 0.75 * max(gain, 0) / largest
        ax.barh(
            place,
            0.94,
            0.7,
            left=column - 0.47,
            color=OUTCOME_COLOURS[CAUSES[column]],
            alpha=strength,
            lw=0,
        )
        ax.text(column, place, f"{gain:+.3f}", ha="center", va="center")
    ax.set_xlim(-0.5, len(CAUSES) - 0.5)
    ax.set_xticks(range(len(CAUSES)), CAUSES)
    ax.tick_params(length=0, labelleft=False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("Mean AP gained if these were right")


def caption(shown: Budget) -> str:
    """Say what the parts of a bar mean and what the numbers are means of."""
    return (
        f"Calibrated methods on {shown.sample}; each value is the mean over {shown.unit}s, of the "
        f"{shown.network}.{shown.few} Left: mean AP, and the AP that each kind of error takes; "
        "together they add up to 1. Merged: one cell covers several true ones. Split: one true "
        "cell is covered by several. Boundary: one cell for one true cell, but their IoU is below "
        "the one that is required (0.5 to 0.9: more cells than in the table of errors). Right: by "
        "how much mean AP would rise if only the cells with this kind of error were right. These "
        "gains do not add up, because AP is a ratio (as in TIDE, Bolya et al. 2020, "
        "doi:10.1007/978-3-030-58580-8_33)."
    )
