"""Does a conclusion about populations depend on the method that found the cells?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.evidence import TRUTH, Evidence
from analysis.report.feature_tables import effect_text
from analysis.study.families import FAMILY_FEATURES

LARGER, SMALLER, NOT_SHOWN = "a is larger", "a is smaller", "no difference shown"


def conclusions(evidence: Evidence) -> pd.DataFrame:
    """Return one row per pair of populations, feature and method, the truth first.

    Returns
    -------
    DataFrame
        a, b, feature, method, effect (difference of units' means, a minus b, with its interval),
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
                    "effect": effect_text(row),
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
    who = tied[0] if len(tied) == 1 else f"all {len(tied)} methods that may be the best"
    said = f"Conclusions about populations, from the cells of {who} and from the true cells"
    if wrong.empty:
        return [f"{said}: the same in all {asked} comparisons."]
    cases: dict[tuple[str, str, str], list[str]] = {}
    for row in wrong.to_dict("records"):
        cases.setdefault((row["feature"], row["a"], row["b"]), []).append(row["method"])
    shown = "; ".join(
        f"{feature.replace('_', ' ')} of {a} against {b}"
        + (f" ({', '.join(names)})" if len(tied) > 1 else "")
        for (feature, a, b), names in list(cases.items())[:3]
    )
    more = f"; and {len(cases) - 3} more" if len(cases) > 3 else ""
    return [
        f"{said}: the same in {asked - len(cases)} of {asked} comparisons, not in {shown}{more}."
    ]


CAPTION = (
    "Does the conclusion depend on the method? Differences between populations (a minus b, means "
    "of independent units with 95 % confidence intervals) in the true cells and in the cells of "
    "each method. The conclusion is what the interval shows by itself."
)
