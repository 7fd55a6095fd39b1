"""Does a conclusion about populations depend on the method that found the cells?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
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
        ('yes' or 'no'; '' for the truth), same_in_trainings, same_in_conventions ('2 of 3': in how
        many of the method's trainings, and in how many conventions of measuring, its cells lead to
        the same conclusion as the true cells measured likewise; for the truth, in how many
        conventions to the conclusion of this row; '' where there is only one). Empty without
        populations or with too few units.
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
    again = _Again(evidence)
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
                    "same_in_trainings": again.trainings(a, b, feature, row["method"]),
                    "same_in_conventions": again.conventions(a, b, feature, row["method"]),
                }
            )
    return pd.DataFrame(rows)


class _Again:
    """The same conclusions from other trainings, and in other conventions of measuring."""

    def __init__(self, evidence: Evidence) -> None:
        self.convention = evidence.settings.get("convention")
        self.found: dict[tuple[Hashable, ...], dict[tuple[Any, Any], str]] = {}
        for row in evidence.effects.to_dict("records"):
            key = (row["a"], row["b"], row["feature"], row["method"])
            own = (row["trial_id"], row["convention"])
            self.found.setdefault(key, {})[own] = _conclusion(row)
        chosen = evidence.methods[evidence.methods["representative"].astype(bool)]
        self.shown = dict(zip(chosen["method"], chosen["trial_id"]))

    def trainings(self, a: Hashable, b: Hashable, feature: Hashable, method: str) -> str:
        """Count the trainings whose cells lead to the truth's conclusion."""
        own = {
            trial_id: said
            for (trial_id, convention), said in self._of(a, b, feature, method).items()
            if convention == self.convention and trial_id
        }
        true = self._of(a, b, feature, TRUTH).get(("", self.convention))
        return _count([said == true for said in own.values()])

    def conventions(self, a: Hashable, b: Hashable, feature: Hashable, method: str) -> str:
        """Count the conventions in which cells lead to the conclusion of the true cells."""
        true = {c: said for (_, c), said in self._of(a, b, feature, TRUTH).items()}
        if method == TRUTH:
            return _count([said == true[self.convention] for said in true.values()])
        one = self.shown.get(method, "")  # given labels have no trial
        own = self._of(a, b, feature, method).items()
        return _count([said == true.get(c) for (trial_id, c), said in own if trial_id == one])

    def _of(self, *key: Hashable) -> dict[tuple[Any, Any], str]:
        return self.found.get(key, {})


def _count(same: Sequence[bool]) -> str:
    return f"{sum(same)} of {len(same)}" if len(same) > 1 else ""


def _all(count: str) -> bool:
    """Whether a count says that all are the same, or nothing.

    >>> [_all(count) for count in ("3 of 3", "2 of 3", "")]
    [True, False, True]
    """
    same, _, asked = count.partition(" of ")
    return same == asked or not asked


def _conclusion(row: Mapping[Any, Any]) -> str:
    """Say what the 95 % interval of a difference shows; '' where there is none."""
    if math.isnan(row["unit_difference_low"]):
        return ""
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
    asked = len(table.drop_duplicates(["a", "b", "feature"]))
    who = tied[0] if len(tied) == 1 else f"all {len(tied)} methods that may be the best"
    several = [
        name for name in ("trainings", "conventions") if (table[f"same_in_{name}"] != "").any()
    ]
    also = ""
    if several:
        named = " and ".join(several).replace("conventions", "conventions of measuring")
        also = f", in all {'their' if len(tied) > 1 else 'its'} {named}"
    said = f"Conclusions about populations, from the cells of {who}{also}, and from the true cells"
    cases: dict[tuple[str, str, str], list[str]] = {}
    for row in table.to_dict("records"):
        counts = _differing(row)
        if row["as_truth"] == "no" or counts:
            name = [row["method"]] if len(tied) > 1 else []
            key = (row["feature"], row["a"], row["b"])
            cases.setdefault(key, []).append(", ".join([*name, *counts]))
    if not cases:
        every = "the one comparison" if asked == 1 else f"all {asked} comparisons"
        return [f"{said}: the same in {every}."]
    shown = "; ".join(
        f"{feature.replace('_', ' ')} of {a} against {b}"
        + (f" ({'; '.join(names)})" if any(names) else "")
        for (feature, a, b), names in list(cases.items())[:3]
    )
    more = f"; and {len(cases) - 3} more" if len(cases) > 3 else ""
    return [
        f"{said}: the same in {asked - len(cases)} of {asked} comparisons, not in {shown}{more}."
    ]


def _differing(row: Mapping[Any, Any]) -> list[str]:
    """Say in how many trainings and conventions a conclusion is the truth's, if not in all."""
    return [
        f"the same in {row[f'same_in_{name}']} {name}"
        for name in ("trainings", "conventions")
        if not _all(row[f"same_in_{name}"])
    ]


def conclusions_caption(table: pd.DataFrame) -> str:
    """Return the caption of the table that `conclusions` returns; it explains the columns shown."""
    said = (
        "Does the conclusion depend on the method? Differences between populations (a minus b, "
        "means of independent units with 95 % confidence intervals) in the true cells and in the "
        "cells of each method. The conclusion is what the interval shows by itself."
    )
    if table.empty:
        return said
    if (table["same_in_trainings"] != "").any():
        said += (
            " Trainings: in how many of a method's trainings (seeds, folds) its cells lead "
            "to the conclusion of the true cells."
        )
    if (table["same_in_conventions"] != "").any():
        said += (
            " Conventions: in how many ways of measuring (TrackMate with and without "
            "simplified outlines, ImageJ, scikit-image) they do; for the true cells, in how many "
            "they lead to this conclusion."
        )
    return said
