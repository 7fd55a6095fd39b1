"""Which method gave the best numbers for counting cells, for their size and for their shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evidence import TRUTH, Evidence
from analysis.folds import network_shown
from analysis.report.tables import (
    counted,
    independent,
    measured_scores,
    measured_split,
    representatives,
    unit_of,
)
from analysis.statistics.intervals import jackknife_interval, without_each
from analysis.statistics.nearest import as_near
from analysis.statistics.resampling import FEWEST_UNITS

FEATURES = {
    "area": "measuring size (mean area)",
    "circularity": "measuring shape (mean circularity)",
    "solidity": "measuring shape (mean solidity)",
}
"""Features with a row of their own, and what a row is for."""
COUNTING = "counting cells"
WRONG = ("missed", "merged", "split", "invented")
"""What changes the number of cells: these true cells, and invented ones."""
MOST_NAMED = 3
MANY_WRONG = 0.1
"""Share of wrong cells from which a mean over all cells may be right by luck."""
Array = NDArray[np.float64]


class Purpose(NamedTuple):
    """One row: the method with the best number for a purpose."""

    purpose: str
    method: str
    gives: str
    """The number that this rests on, in words."""
    equals: str
    """The methods that may be as good, in words."""


def purposes(evidence: Evidence) -> list[Purpose]:
    """Return for each purpose the method with the best number on the reported images.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    list of Purpose
        Empty with fewer than two methods.

    Notes
    -----
    Numbers are those of the tables of errors and features: sums over all cells. Methods are
    compared by their jackknife pseudo-values (Miller 1974, doi:10.1093/biomet/61.1.1), one for each
    independent unit, with `analysis.statistics.nearest.as_near`.
    """
    names = representatives(evidence)["method"].tolist()
    if len(names) < 2:
        return []
    found = [_counting(evidence, names)] if len(evidence.errors) else []
    if len(evidence.cells):
        found += [_measuring(evidence, names, feature) for feature in FEATURES]
    return [row for row in found if row is not None]


def purposes_said(evidence: Evidence) -> str:
    """Say what the rows rest on, and that they chose nothing."""
    split, unit = measured_split(evidence), unit_of(evidence)
    count = counted(evidence, split)
    return (
        f"The numbers come from the {split} images ({network_shown(evidence.plan)}; "
        f"{independent(count['units'], unit)}, {count['true_objects']:,} true cells). They were "
        "not used for the recommendation, which rests on validation images only. Each row names "
        "the method with the best number, so on new images that number will often be a little "
        "less good. May be as good: methods whose difference from the named one may be chance "
        f"(over {unit}s, all methods compared at once)."
    )


def _counting(evidence: Evidence, names: list[str]) -> Purpose | None:
    """Compare how many cells are missed, merged, split or invented for each true cell."""
    errors = evidence.errors
    cells = errors["predicted_cells"].where(errors["cause"] == "invented", errors["true_cells"])
    errors = errors.assign(wrong=cells.where(errors["cause"].isin(WRONG), 0))
    wrong, true = (_by_unit(evidence, errors, name) for name in ("wrong", "true_cells"))
    estimates = {
        name: _ratio(wrong[name].to_numpy(float), true[name].to_numpy(float))
        for name in names
        if name in wrong
    }
    best = _least(estimates)
    if best is None:
        return None
    counts = errors[errors["method"] == best].groupby("cause")["wrong"].sum()
    said = ", ".join(f"{int(counts.get(cause, 0))} {cause}" for cause in WRONG)
    gives = (
        f"{100 * estimates[best][0]:.1f} wrong cells for 100 true ones ({said}; "
        f"{int(true[best].sum()):,} true cells){_f1(evidence, best)}"
    )
    return Purpose(COUNTING, best, gives, _equals(evidence, estimates, best))


def _by_unit(evidence: Evidence, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the sums of a column: one row per independent unit, one column per method."""
    unit = "image" if unit_of(evidence) == "image" else "group"
    return table.pivot_table(
        index=unit, columns="method", values=column, aggfunc="sum", fill_value=0, observed=True
    )


def _f1(evidence: Evidence, method: str) -> str:
    """Return the F1 at IoU 0.5 of the method's representative seed, in words."""
    scores = measured_scores(evidence, ("f1_50",))
    own = scores[scores["own"] & (scores["method"] == method)] if len(scores) else scores
    return f"; F1 at 0.5 is {own['value'].iloc[0]:.3f}" if len(own) else ""


def _measuring(evidence: Evidence, names: list[str], feature: str) -> Purpose | None:
    """Compare the biases of the mean over all cells, which would be published."""
    cells = evidence.cells.assign(known=lambda table: table[feature].notna().astype(float))
    sums, counts = (_by_unit(evidence, cells, name) for name in (feature, "known"))
    if TRUTH not in sums:
        return None
    means = {
        name: _ratio(sums[name].to_numpy(float), counts[name].to_numpy(float))
        for name in (TRUTH, *names)
        if name in sums
    }
    true = means.pop(TRUTH)
    biases = {name: mean / true - 1 for name, mean in means.items()}
    best = _least(biases)
    if best is None:
        return None
    gives = f"{100 * biases[best][0]:+.1f} % against the true cells"
    low, high = (
        jackknife_interval(biases[best])
        if len(biases[best]) > FEWEST_UNITS
        else (math.nan, math.nan)
    )
    if math.isfinite(low):
        gives += f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f} %)"
    gives += _many_wrong(evidence, best)
    return Purpose(FEATURES[feature], best, gives, _equals(evidence, biases, best))


def _many_wrong(evidence: Evidence, method: str) -> str:
    """Say that a mean may be right by chance where many cells are wrong; '' where few are."""
    own = evidence.errors[evidence.errors["method"] == method] if len(evidence.errors) else None
    if own is None or own.empty:
        return ""
    sums = own.groupby("cause")[["true_cells", "predicted_cells"]].sum()
    wrong = sum(int(sums["true_cells"].get(cause, 0)) for cause in WRONG[:-1])
    wrong += int(sums["predicted_cells"].get(WRONG[-1], 0))
    true = int(own["true_cells"].sum())
    if not true or wrong / true < MANY_WRONG:
        return ""
    return f"; but {wrong} of {true:,} cells are wrong, so this may be luck"


def _ratio(above: Array, below: Array) -> Array:
    """Return the ratio of sums over units, and the ratios without each unit in turn."""
    kept = without_each(len(above), len(above), True)[0]
    total, count = kept @ above, kept @ below
    ratio: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return ratio


def _least(estimates: Mapping[str, Array]) -> str | None:
    """Return the method whose estimate is nearest to 0; the first of equals."""
    known = {name: abs(one[0]) for name, one in estimates.items() if math.isfinite(one[0])}
    return min(known, key=lambda name: known[name]) if known else None


def _equals(evidence: Evidence, estimates: Mapping[str, Array], best: str) -> str:
    """Name the methods that may be as good as the one with the best number.

    Parameters
    ----------
    estimates : mapping of str to (units + 1,) arrays
        Of each method the estimate, and those without each unit.
    """
    units = len(estimates[best]) - 1
    if units < FEWEST_UNITS:
        return f"not known: {independent(units, unit_of(evidence))}, at least {FEWEST_UNITS} needed"
    values = {
        name: units * one[0] - (units - 1) * one[1:]
        for name, one in estimates.items()
        if np.isfinite(one).all()
    }
    others = [name for name in as_near(values) if name != best]
    if not others:
        return "none of the others"
    if len(others) == len(values) - 1:
        return "the other one" if len(others) == 1 else f"all {len(others)} others"
    more = f"; and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return "; ".join(others[:MOST_NAMED]) + more
