"""How much data a figure is based on, in the words of its caption."""

from __future__ import annotations

from analysis.evidence import Evidence
from analysis.report.tables import (
    MOST_DOTS,
    counted,
    independent,
    measured_split,
    representatives,
    unit_of,
)

MOST_METHODS = 10
"""Largest number of methods in a figure; with more, it is longer than a page."""


def first_methods(evidence: Evidence) -> list[str]:
    """Return the methods that figures show, best first."""
    names: list[str] = representatives(evidence)["method"].tolist()
    return names[:MOST_METHODS]


def methods_left_out(evidence: Evidence) -> str:
    """Say how many methods a figure shows; '' if it shows all."""
    count = len(representatives(evidence))
    if count <= MOST_METHODS:
        return ""
    return f" The first {MOST_METHODS} of {count} methods; tables have all."


def scored_from(evidence: Evidence) -> str:
    """Say how many images, units and true cells the scores on the reported images come from."""
    split = measured_split(evidence)
    count = counted(evidence, split)
    units = independent(count["units"], unit_of(evidence))
    return f"{_images(count['images'], split)}, {units}, {count['true_objects']:,} true cells"


def measured_from(evidence: Evidence) -> str:
    """Say how many images and units cell features come from; images without cells do not count."""
    objects, unit = evidence.cells, unit_of(evidence, cells=True)
    images = objects["image"].nunique() if len(objects) else 0
    # tracks are numbered within their group
    names = ["group", "track"] if unit == "track" else [unit]
    known = len(objects) and set(names) <= set(objects)
    units = len(objects[names].dropna().drop_duplicates()) if known else 0
    seen = _images(images, measured_split(evidence))
    return f"{seen} with cells, {independent(units, unit)}"


def _images(count: int, split: str) -> str:
    return f"{count} {split} image{'s' * (count != 1)}"


def dots_are(unit: str) -> str:
    """Say what the small dots of a figure mean."""
    return f"Small dots: each {unit} alone (not drawn for more than {MOST_DOTS})."
