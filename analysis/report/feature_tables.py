"""Cell features on the page: effects with intervals and verdicts first, p-values after them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.evidence import Evidence
from analysis.report.words import PAPER
from analysis.statistics.equivalence import DIFFERENT, EQUIVALENT, UNDECIDED
from analysis.statistics.units import BETWEEN_GROUPS
from analysis.study.families import POPULATION_FAMILY, TRUTH_FAMILY

PAPER_LEVEL = 0.0001
"""Below it, the paper calls a difference significant."""
LENGTHS = {"um2": "µm²", "um": "µm", "px2": "px²", "px": "px"}
FEATURE_HEADINGS = {
    "published": "all cells (%)",
    "matched": "found by all (%)",
    "effect": "over units (95 % interval)",
    "p_text": "p",
    "paper_text": "p, paper's test",
    "cliffs_delta": "Cliff's delta",
    "as_truth": "as in the truth",
    "same_in_trainings": "trainings",
    "same_in_conventions": "conventions",
}
"""Column headings of these tables."""
WHY_DIFFERENT = (
    f"The paper ({PAPER}) uses the Mann-Whitney test, which takes every cell for independent. With "
    "thousands of cells it finds almost any difference, and with cells that resemble their "
    "neighbours also differences that do not exist. Here independent units count"
)


def against_truth(evidence: Evidence) -> pd.DataFrame:
    """Return one row per method and feature: method minus truth.

    The bias of the distribution that would be published is that of the means over all cells; it
    includes what a method missed, invented, merged and split. Beside it is the bias on the cells
    that all methods found.
    """
    table = family_rows(evidence, TRUTH_FAMILY)
    if table.empty:
        return table
    agreed = evidence.agreement
    matched = {}
    if len(agreed):
        pairs = zip(agreed["method"], agreed["feature"])
        matched = dict(zip(pairs, agreed["relative_bias"]))
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        bias = matched.get((row["a"], row["feature"]), math.nan)
        rows.append(
            {
                "method": row["a"],
                "feature": row["feature"],
                "published": 100 * published_bias(row),
                "matched": 100 * bias,
                **tested(row),
            }
        )
    order = {name: place for place, name in enumerate(dict.fromkeys(evidence.methods["method"]))}
    order |= {name: len(order) + place for place, name in enumerate(evidence.given)}
    # by method, best first; features keep their order
    rows.sort(key=lambda row: order.get(row["method"], len(order)))
    return pd.DataFrame(rows)


def published_bias(row: Mapping[Any, Any]) -> float:
    """Return the difference of the means over all cells, divided by the second one."""
    return float(row["difference"] / row["mean_b"]) if row["mean_b"] else math.nan


def between_populations(evidence: Evidence) -> pd.DataFrame:
    """Return the populations' differences within the recommended method, one row per feature."""
    table = family_rows(evidence, POPULATION_FAMILY)
    rows = [
        {
            "a": row["a"],
            "b": row["b"],
            "feature": row["feature"],
            **tested(row),
            "cliffs_delta": row["cliffs_delta"],
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def exploratory(evidence: Evidence) -> pd.DataFrame:
    """Return all other differences: estimates without tests or verdicts."""
    table = evidence.statistics
    if table.empty:
        return table
    table = table[table["family"] == ""]
    rows = [
        {
            "comparison": row["comparison"],
            "method": row["method"],
            "feature": row["feature"],
            "a": row["a"],
            "b": row["b"],
            "effect": effect_text(row),
            "cliffs_delta": row["cliffs_delta"],
            "n_a": row["n_a"],
            "n_b": row["n_b"],
            "note": "" if pd.isna(row["note"]) else row["note"],
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def family_rows(evidence: Evidence, family: str) -> pd.DataFrame:
    """Return the rows of one family."""
    table = evidence.statistics
    return table[table["family"] == family] if len(table) else table


def tested(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return effect and interval, then verdict, p-values and margin."""
    said = row["verdict"]
    if said == UNDECIDED and not math.isnan(row["further_units"]):
        said += f" ({_more_units(row)})"
    return {
        "effect": effect_text(row),
        "verdict": said,
        "p_text": p_text(row["p_family"]),
        "paper_text": p_text(row["p_mann_whitney"]),
        "margin": _size(row["margin"], row["feature_unit"]),
        "note": "" if pd.isna(row["note"]) else row["note"],
    }


def _more_units(row: Mapping[Any, Any], unit: str = "") -> str:
    """Say how many more units would decide: groups where these are the units, whatever the unit of
    the page, and so many on each side where the sides have different units.

    >>> _more_units({"further_units": 1200.0, "note": "", "design": "paired"}, "image")
    '1,200 more images'
    >>> _more_units({"further_units": 8.0, "note": BETWEEN_GROUPS, "design": "unpaired"})
    '8 more groups on each side'
    """
    more = int(row["further_units"])
    unit = "group" if BETWEEN_GROUPS in str(row["note"]) else unit
    named = f" {unit}{'s' * (more != 1)}" if unit else ""
    return f"{more:,} more{named}{' on each side' * (row['design'] == 'unpaired')}"


def effect_text(row: Mapping[Any, Any]) -> str:
    """Write a difference of units' means with its interval.

    >>> row = {"unit_difference": 1.5, "unit_difference_low": -0.25, "unit_difference_high": 3.25}
    >>> effect_text({**row, "feature_unit": "um2"})
    '+1.50 µm² (-0.25 to +3.25)'
    """
    interval = interval_text(row)
    said = signed_text(row["unit_difference"], row["feature_unit"])
    return f"{said} ({interval})" if interval else said


def p_text(p: float) -> str:
    """Write a p-value; the paper's least one is 0.0001.

    >>> [p_text(p) for p in (0.00004, 0.0314, 0.5, 1.0, math.nan)]
    ['< 0.0001', '0.031', '0.50', '1.00', '']
    """
    if math.isnan(p):
        return ""
    if p < PAPER_LEVEL:
        return f"< {PAPER_LEVEL}"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _digits(value: float) -> int:
    """Return with how many decimals a value of this size has three digits, at most four."""
    if not math.isfinite(value) or value == 0:
        return 3
    return min(4, max(0, 2 - math.floor(math.log10(abs(value)))))


def _size(value: float, length: str) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.{_digits(value)}f} {LENGTHS.get(length, '')}".strip()


def signed_text(value: float, length: str) -> str:
    """Write a difference with its sign and unit."""
    if math.isnan(value):
        return ""
    return f"{value:+.{_digits(value)}f} {LENGTHS.get(length, '')}".strip()


def interval_text(row: Mapping[Any, Any]) -> str:
    """Write the interval with as many decimals as its wider end has."""
    low, high = row["unit_difference_low"], row["unit_difference_high"]
    if math.isnan(low):
        return ""
    digits = _digits(max(abs(low), abs(high)))
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def margin_said(unit: str, annotator: str | None) -> str:
    """Say what differences are compared with."""
    if annotator:
        return f"how far the means of ground truth and {annotator} are apart in a typical {unit}"
    return "what moving the outline by half a pixel does to such cells"


def feature_captions(unit: str, annotator: str | None = None) -> dict[str, str]:
    """Return the captions of the tables of cell features."""
    tests = (
        f"Over units: the difference between the means of independent {unit}s, with its 95 % "
        f"confidence interval. Margin: {margin_said(unit, annotator)}. Equivalent: the difference "
        "is smaller than that, whether it is real or not (two one-sided tests, each at 5 %). "
        "Different: p is at most 0.05, corrected for all differences of this table that have a "
        f"verdict. Undecided: neither; in brackets, about how many more {unit}s are usually needed "
        "to decide. Radius and shape index follow from area and circularity "
        f"and are not tested. {WHY_DIFFERENT} ({unit}s)."
    )
    return {
        "features": (
            "Cell features against the ground truth (method minus truth). All cells: the bias of "
            "the mean that would be published, in per cent, with everything that was missed, "
            "invented, merged or split. Found by all: the same on the cells that all methods "
            f"found. Cells at the border of an image are left out. {tests}"
        ),
        "populations": (
            "Populations within the recommended method (a minus b). Columns, verdicts and tests "
            "are as in the table above. Cliff's delta is the share of pairs of cells in which the "
            "first is larger, minus the share in which it is smaller."
        ),
        "statistics": (
            "All other differences (a minus b): exploratory, so without tests and verdicts. Over "
            f"units: the difference between the means of {unit}s, with its 95 % interval."
        ),
    }


def cells_said(evidence: Evidence, method: str) -> list[str]:
    """Say by how much a method's cells differ from the true ones, and what became of them."""
    said = [_bias_said(evidence, method), _became(evidence, method)]
    said += _verdicts_said(evidence, method, family_rows(evidence, TRUTH_FAMILY))
    return [sentence for sentence in said if sentence]


def _bias_said(evidence: Evidence, method: str) -> str:
    table = family_rows(evidence, TRUTH_FAMILY)
    rows = table[table["a"] == method] if len(table) else table
    biases = {row["feature"]: published_bias(row) for row in rows.to_dict("records")}
    parts = _per_cent(biases)
    if not parts:
        return ""
    said = f"Means over all cells of {method}, compared with the ground truth: {parts}."
    agreed = evidence.agreement
    own = agreed[agreed["method"] == method] if len(agreed) else agreed
    if len(own) and evidence.methods["method"].nunique() > 1:
        parts = _per_cent(dict(zip(own["feature"], own["relative_bias"])))
        said += (
            f" Only on the {int(own['n'].max()):,} cells that all methods{_but(agreed)} found, "
            f"without those at borders of images: {parts}."
        )
    return said


def _but(agreed: pd.DataFrame) -> str:
    """Name the methods that found fewer than half of the cells, and labels that were given: cells
    found by all need not be found by these.
    """
    found = agreed.groupby("method", sort=False)["n"].max()
    others = [str(name) for name in found.index[found < found.max()]]
    if not others:
        return ""
    return f" but {others[0] if len(others) == 1 else f'{len(others)} of the rows'}"


def _per_cent(shares: Mapping[Any, float]) -> str:
    """Write the known shares by feature.

    >>> _per_cent({"area": 0.0123, "shape_index": -0.5, "solidity": math.nan})
    'area +1.2 %, shape index -50.0 %'
    """
    return ", ".join(
        f"{str(feature).replace('_', ' ')} {100 * share:+.1f} %"
        for feature, share in shares.items()
        if math.isfinite(share)
    )


def _became(evidence: Evidence, method: str) -> str:
    errors = evidence.errors
    rows = errors[errors["method"] == method] if len(errors) else errors
    if rows.empty:
        return ""
    counts = rows.groupby("cause")[["true_cells", "predicted_cells"]].sum()
    true, pred = counts["true_cells"], counts["predicted_cells"]
    return (
        f"Of {int(true.sum()):,} true cells it missed {true['missed']:,}, merged "
        f"{true['merged']:,} with others and split {true['split']:,}; of the "
        f"{int(pred.sum()):,} cells that it drew, {pred['invented']:,} "
        f"{'does' if pred['invented'] == 1 else 'do'} not exist."
    )


def _verdicts_said(evidence: Evidence, method: str, table: pd.DataFrame) -> list[str]:
    """Say what the tests against the truth found."""
    rows = table[table["a"] == method] if len(table) else table
    parts = _by_verdict(rows, _unit(evidence))
    return [f"{method} against the ground truth: {parts}."] if parts else []


def _unit(evidence: Evidence) -> str:
    return str(evidence.settings.get("unit", "image"))


def _by_verdict(rows: pd.DataFrame, unit: str) -> str:
    found: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        if row["verdict"]:
            name = row["feature"].replace("_", " ")
            if row["verdict"] == DIFFERENT and row["mean_b"]:
                name += f" ({100 * row['unit_difference'] / row['mean_b']:+.1f} %)"
            if row["verdict"] == UNDECIDED and not math.isnan(row["further_units"]):
                name += f" (about {_more_units(row, unit)} would decide)"
            found.setdefault(row["verdict"], []).append(name)
    words = (DIFFERENT, EQUIVALENT, UNDECIDED)
    return "; ".join(f"{word} in {_and(found[word])}" for word in words if word in found)


def _and(names: list[str]) -> str:
    """Join names.

    >>> _and(["a"]), _and(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def populations_said(evidence: Evidence) -> list[str]:
    """Say which populations differ within the recommended method."""
    table = family_rows(evidence, POPULATION_FAMILY)
    said = []
    for (a, b), rows in table.groupby(["a", "b"], sort=False) if len(table) else ():
        if parts := _by_verdict(rows, _unit(evidence)):
            said.append(f"{a} against {b}: {parts}")
    if said:
        method = table["method"].iloc[0]
        more = f"; and {len(said) - 3} more pairs below" if len(said) > 3 else ""
        return [f"Populations, in the cells of {method}: {'. '.join(said[:3])}{more}."]
    if len(table):
        return ["Populations cannot be tested: too few independent units hold them."]
    return []


def untested(evidence: Evidence) -> list[str]:
    """Say that there are too few units to test cell features, where that is so."""
    table = family_rows(evidence, TRUTH_FAMILY)
    if table.empty or (table["verdict"] != "").any():
        return []
    units = int(table[["units_a", "units_b"]].min(axis=1).max())
    unit = str(evidence.settings.get("unit", "image"))
    return [
        f"Whether cell features differ from the truth cannot be tested: {units} independent "
        f"{unit}{'s' * (units != 1)} {'are' if units != 1 else 'is'} too few, at least 6 are "
        "needed."
    ]
