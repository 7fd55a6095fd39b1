"""Does a conclusion about populations depend on the method that found the cells?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.evidence import TRUTH, Evidence
from analysis.report.feature_tables import interval_text, signed_text
from analysis.study.families import FAMILY_FEATURES

LARGER, SMALLER, NOT_SHOWN = "a is larger", "a is smaller", "no difference shown"


def conclusions(evidence: Evidence) -> pd.DataFrame:
    """Return one row per pair of populations, feature and method, the truth first.

    Returns
    -------
    DataFrame
        a, b, feature, method, unit_mean (difference of units' means, a minus b), interval,
        conclusion (by the interval: a is larger, a is smaller, or no difference shown), as_truth
        ('yes' or 'no'; '' for the truth). Empty without populations or with too few units.
    """
    table = evidence.statistics
    if table.empty:
        return table
    table = table[
        (table["comparison"] == "populations")
        & table["feature"].isin(FAMILY_FEATURES)
        & table["unit_difference_low"].notna()
    ]
    if not (table["method"] == TRUTH).any():
        return pd.DataFrame()
    order = [TRUTH, *dict.fromkeys(evidence.methods["method"]), *evidence.given]
    place = {name: number for number, name in enumerate(order)}
    rows: list[dict[str, Any]] = []
    for (a, b, feature), part in table.groupby(["a", "b", "feature"], sort=False):
        found = part.sort_values("method", key=lambda names: names.map(place)).to_dict("records")
        true = _conclusion(found[0]) if found[0]["method"] == TRUTH else ""
        for row in found:
            said = _conclusion(row)
            same = "" if not true or row["method"] == TRUTH else "yes" if said == true else "no"
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "feature": feature,
                    "method": row["method"],
                    "unit_mean": signed_text(row["unit_difference"], row["feature_unit"]),
                    "interval": interval_text(row),
                    "conclusion": said,
                    "as_truth": same,
                }
            )
    return pd.DataFrame(rows)


def _conclusion(row: Mapping[Any, Any]) -> str:
    """Say what the 95 % interval of a difference shows."""
    if row["unit_difference_low"] > 0:
        return LARGER
    return SMALLER if row["unit_difference_high"] < 0 else NOT_SHOWN


def survives_said(evidence: Evidence) -> list[str]:
    """Say in which features all methods that may be the best lead to the truth's conclusion."""
    table = conclusions(evidence)
    if table.empty:
        return []
    methods = evidence.methods.drop_duplicates("method")
    tied = methods.loc[methods["tied"].astype(bool), "method"].tolist()
    table = table[table["method"].isin(tied) & (table["as_truth"] != "")]
    if table.empty:
        return []
    wrong = table[table["as_truth"] == "no"]
    asked = len(table.drop_duplicates(["a", "b", "feature"]))
    others = (
        "the method that may be the best leads"
        if len(tied) == 1
        else (f"all {len(tied)} methods that may be the best lead")
    )
    question = "Does the choice of method change what is concluded about populations?"
    if wrong.empty:
        return [
            f"{question} No: {others} to the same conclusion as the true cells in all {asked} "
            "comparisons."
        ]
    cases: dict[tuple[str, str, str], list[str]] = {}
    for row in wrong.to_dict("records"):
        cases.setdefault((row["feature"], row["a"], row["b"]), []).append(row["method"])
    shown = "; ".join(
        f"{feature.replace('_', ' ')} of {a} against {b} ({', '.join(names)})"
        for (feature, a, b), names in list(cases.items())[:3]
    )
    more = f"; and {len(cases) - 3} more" if len(cases) > 3 else ""
    return [
        f"{question} In {len(cases)} of {asked} comparisons a method that may be the best leads to "
        f"another conclusion than the true cells: {shown}{more}."
    ]


CAPTION = (
    "Does the conclusion depend on the method? Differences between populations (a minus b, means "
    "of independent units with 95 % confidence intervals) in the true cells and in the cells of "
    "each method. The conclusion is what the interval shows by itself."
)
