"""What a reader should know beside the numbers: the second method, test against validation,
calibration that lowers a score, and small cells.
"""

from __future__ import annotations

import json
import math

import pandas as pd

from analysis.evidence import TRUTH, Evidence
from analysis.report.tables import (
    measured_scores,
    measured_split,
    own_units,
    representatives,
    unit_of,
)
from analysis.statistics.resampling import signs_interval

SMALL = 0.5
"""A minimum size above this share of the smallest true cell's area is near it."""
MOST_NAMED = 3
SAME = 0.0005
"""Scores that differ by less are equal in three decimals."""


def second_said(evidence: Evidence) -> list[str]:
    """Say how far the second method is behind the first one, with the interval of the difference.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    list of str
        One sentence; none with fewer than two methods or without scores.
    """
    methods = representatives(evidence)
    names = methods["method"].tolist()
    if len(names) < 2 or not math.isfinite(methods["val_score"].iloc[0]):
        return []
    table = evidence.standing
    wide = table.groupby(["unit", "method"])["score"].mean().unstack("method")
    # the units whose scores decide: those where every training of every method has one
    lacking = table.loc[table["score"].isna(), "unit"].unique()
    wide = wide[~wide.index.isin(lacking)]
    behind = (wide[names[0]] - wide[names[1]]).to_numpy(float)
    if not len(behind):
        return []
    mean, unit = float(behind.mean()), unit_of(evidence)
    # of the test that decides which methods are tied, so that the two cannot disagree
    low, high = signs_interval(behind)
    said = f"Second is {names[1]}, with a mean AP lower by {mean:.3f}"
    if not math.isfinite(low):
        return [f"{said}."]
    several = table.groupby("method")["seed"].nunique()[names[:2]].max() > 1
    which = "for these trainings, and " if several else ""
    return [
        f"{said} (95 % confidence interval of the difference, over {len(behind)} {unit}s: "
        f"{low:.3f} to {high:.3f}; {which}not corrected for the choice of these two by "
        "their scores)."
    ]


def against_validation(evidence: Evidence) -> str:
    """Say how the first method's test score differs from its validation score; '' if not known."""
    first = representatives(evidence).iloc[0]
    each = own_units(evidence, ["ap_mean"], every_seed=True)
    test = float(each.loc[each["method"] == first["method"], "value"].mean())
    change, split = test - float(first["val_score"]), measured_split(evidence)
    if not math.isfinite(change):
        return ""
    if abs(change) < SAME:
        return f"The {split} score is the same as that on validation."
    ends = [first[name] for name in ("val_low", "val_high", "measured_low", "measured_high")]
    said = (
        f"The {split} score is {'lower' if change < 0 else 'higher'} than that on validation by "
        f"{abs(change):.3f}"
    )
    if all(map(math.isfinite, ends)):
        if ends[1] < ends[2] or ends[3] < ends[0]:
            return f"{said}; their confidence intervals do not overlap."
        said += "; their confidence intervals overlap, so this may be chance"
    return f"{said}. On new images of the same kind expect about the {split} score."


def calibration_said(evidence: Evidence) -> str:
    """Name the methods whose score calibration lowered on the reported images; '' for none.

    The scores are those of the figure: pooled over images, of representative seeds.
    """
    split, names = measured_split(evidence), representatives(evidence)["method"]
    table = measured_scores(evidence, ("ap_mean",), ("default", "calibrated"))
    if table.empty:
        return ""
    own = table[table["own"]]
    wide = own.pivot(index="method", columns="parameters", values="value")
    if not {"default", "calibrated"} <= set(wide):
        return ""
    change = (wide["calibrated"] - wide["default"]).reindex(names).dropna()
    lowered = change[change <= -SAME]
    if lowered.empty:
        return ""
    named = "; ".join(f"{name} (by {-value:.3f})" for name, value in lowered.items())
    others = "" if len(lowered) == len(change) else " For the other methods it did not."
    return (
        f"Calibration lowered the mean AP on the {split} images for {named}: the parameters that "
        f"suited the validation images suit these images less.{others}"
    )


def small_cells_said(evidence: Evidence) -> str:
    """Warn of minimum sizes near the area of the smallest true cells; '' where none is near."""
    smallest = _smallest_cell(evidence)
    if not math.isfinite(smallest):
        return ""
    near: dict[str, float] = {}
    for row in representatives(evidence).to_dict("records"):
        text = row.get("calibrated")
        size = json.loads(text).get("min_size", 0) if isinstance(text, str) else 0
        if size > SMALL * smallest:
            near[str(row["method"])] = float(size)
    if not near:
        return ""
    shown = [f"{name} ({size:,.0f} px²)" for name, size in near.items()][:MOST_NAMED]
    more = f"; and {len(near) - MOST_NAMED} more" if len(near) > MOST_NAMED else ""
    named = "; ".join(shown) + more
    return (
        f"Small cells: the smallest true cell of the {measured_split(evidence)} images has "
        f"{smallest:,.0f} px², and calibration chose a minimum size near that or above it for "
        f"{named}. A method leaves out every object below its minimum size. If your images contain "
        "smaller cells, add some to the validation images, train and analyse again."
    )


def _smallest_cell(evidence: Evidence) -> float:
    """Return the least area of a true cell that is not at a border, in square pixels."""
    cells: pd.DataFrame = evidence.cells
    if cells.empty:
        return math.nan
    return float(cells.loc[cells["method"] == TRUTH, "area"].min())
