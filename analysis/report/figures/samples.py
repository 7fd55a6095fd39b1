"""How much a figure was made from, as its caption says it."""

from __future__ import annotations

from analysis.evidence import Evidence
from analysis.report.tables import MOST_DOTS, counted, independent, measured_split, unit_of


def scored_from(evidence: Evidence) -> str:
    """Say what scores on the reported images are from: images, units, true cells."""
    split = measured_split(evidence)
    count = counted(evidence, split)
    units = independent(count["units"], unit_of(evidence))
    return f"{_images(count['images'], split)}, {units}, {count['true_objects']:,} true cells"


def measured_from(evidence: Evidence) -> str:
    """Say what features of cells are from: images without any cell do not count."""
    objects, unit = evidence.objects, unit_of(evidence, cells=True)
    images = objects["image"].nunique() if len(objects) else 0
    units = objects[unit].nunique() if len(objects) and unit in objects else 0
    seen = _images(images, measured_split(evidence))
    return f"{seen} with cells, {independent(units, unit)}"


def _images(count: int, split: str) -> str:
    return f"{count} {split} image{'s' * (count != 1)}"


def dots_are(unit: str) -> str:
    """Say what the small dots of a figure are."""
    return f"Small dots: each {unit} alone (not drawn above {MOST_DOTS})."
