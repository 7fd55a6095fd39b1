"""What the page says first: estimates, and how much data they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.evidence import Evidence
from analysis.report.tables import (
    counted,
    independent,
    measured_split,
    ranking,
    relative_bias,
    representatives,
    unit_of,
)

WHY = (
    "This page does not yet say which differences between methods are real: in simulations with "
    "few independent units, intervals missed the truth and tests rejected equal methods more often "
    "than they claim, so both are left out until they have been rebuilt."
)
"""Why the page shows estimates only; the page says it once."""


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    headline: str
    sentences: list[str]


def answer(evidence: Evidence) -> Answer:
    """Say which method scores highest, by how much and on how many units: estimates only."""
    methods = representatives(evidence)
    if methods.empty:
        text = "No method could be analysed yet, so there is no answer."
        return Answer(text, [f"The leaderboard has {len(evidence.leaderboard)} trials.", WHY])
    first = methods.iloc[0].to_dict()
    sentences = [*_measured(evidence, first), WHY, *_tested(evidence), *_features(evidence, first)]
    return Answer(_headline(methods), sentences)


def _headline(methods: pd.DataFrame) -> str:
    names, scores = methods["method"].tolist(), methods["val_score"].tolist()
    if len(names) == 1:
        return f"One method was analysed: {names[0]}."
    if not math.isfinite(scores[0]):
        return f"{len(names)} methods were analysed; none has a validation score."
    equal = scores.count(scores[0])
    said = f"mean AP {scores[0]:.3f} on validation"
    if equal < len(names):
        lead = scores[0] - scores[equal]
        more = "less than 0.001" if lead < 0.0005 else f"{lead:.3f}"
        known = math.isfinite(lead)
        said += f", {more} more than {names[equal]}" if known else f"; {names[equal]} has no score"
    if equal > 1:
        both = " and ".join(names[:equal])
        return f"{both} score highest of {len(names)} methods, with the same {said}."
    return f"{names[0]} scores highest of {len(names)} methods: {said}."


def _measured(evidence: Evidence, first: Mapping[Any, Any]) -> list[str]:
    """Say how much data the first method's validation score comes from, and how units differ."""
    count = counted(evidence, "val")
    unit = unit_of(evidence)
    cells = f"{_many(count['true_objects'], 'true cell')}"
    if unit == "image":
        said = f"{count['units']} independent validation image{'s' * (count['units'] != 1)}"
    else:
        said = f"validation images of {independent(count['units'], unit)}"
        cells = f"{_many(count['images'], 'image')}, {cells}"
    said = f"Measured on {said} ({cells})"
    if not math.isfinite(first["val_score"]):
        return [f"{said}; no score could be computed."]
    if first["val_units"] < 2:
        return [f"{said}."]
    low, high = first["val_lowest"], first["val_highest"]
    return [
        f"{said}: the mean AP of {first['method']} ranges from {low:.3f} in the lowest {unit} to "
        f"{high:.3f} in the highest."
    ]


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"


def _tested(evidence: Evidence) -> list[str]:
    """Say how the first method scores on the reported images."""
    row = ranking(evidence).iloc[0]
    if not math.isfinite(row["test_ap"]):
        return []
    split, unit = measured_split(evidence), unit_of(evidence)
    count = counted(evidence, split)
    images = "" if unit == "image" else f"{_many(count['images'], 'image')}, "
    return [
        f"On the {split} images, not used for training, tuning or selection "
        f"({independent(count['units'], unit)}, {images}"
        f"{_many(count['true_objects'], 'true cell')}): mean AP {row['test_ap']:.3f}, "
        f"IoU {row['test_iou']:.3f}."
    ]


def _features(evidence: Evidence, first: Mapping[Any, Any]) -> list[str]:
    """Say by how much the cell features of the first method differ from the truth."""
    biases = relative_bias(evidence)
    if biases.empty or not (biases["method"] == first["method"]).any():
        return []
    rows = biases[biases["method"] == first["method"]]
    parts = ", ".join(
        f"{feature.replace('_', ' ')} {100 * value:+.1f} %"
        for feature, value in zip(rows["feature"], rows["value"])
    )
    units = _many(int(rows["units"].max()), unit_of(evidence, cells=True))
    return [
        f"Mean cell features of {first['method']} compared with the ground truth, for the "
        f"{_many(int(rows['n'].max()), 'cell')} in {units} that both have: {parts}."
    ]
