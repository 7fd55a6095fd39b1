"""What the page says of images without masks: how much was seen, and where methods differ."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.evidence import Unlabelled
from analysis.report.feature_tables import p_text, tested

FIRST = ("effect", "verdict", "p_text", "paper_text")
"""Columns of the table that come first, because a narrow window shows only these."""


def unit_name(found: Unlabelled) -> str:
    """Return the name of what is independent.

    Parameters
    ----------
    found : Unlabelled
    """
    return "track" if found.unit == "track" else "field"


def frames_said(found: Unlabelled) -> str:
    """Say how many frames there are, and of how many fields with cells."""
    fields = found.objects["group"].nunique()
    of = f" of {_counted(fields, 'field')}" if fields else ""
    return f"{_counted(found.frames, 'frame')} without masks{of}"


def unlabelled_said(found: Unlabelled) -> list[str]:
    """Return the sentences of the section.

    Parameters
    ----------
    found : Unlabelled

    Returns
    -------
    list of str
    """
    objects = found.objects
    if objects.empty:
        return [f"{frames_said(found)}: no method found a cell."]
    first = found.recommended
    own = objects[objects["method"] == first]
    tracks = int(own["track"].dropna().nunique())
    said = [
        f"{frames_said(found)}: {first}, the recommended method, found {_counted(len(own), 'cell')}"
    ]
    said[0] += f", linked to {_counted(tracks, 'track')}." if tracks else "."
    if found.unit == "track":
        said[0] += (
            " Each cell of another method belongs to the track of the cell that it overlaps most, "
            "so all methods are compared on the same tracks."
        )
    said.append(
        "There is no ground truth here, so nobody knows which method is right: where two methods "
        "differ, at least one of them is wrong."
    )
    said.append(_two_tests(found))
    return said


def _two_tests(found: Unlabelled) -> str:
    """Say why p over units and the paper's p differ."""
    if found.unit == "track":
        return (
            f"The paper's Mann-Whitney test counts a cell anew in each of the {found.frames} "
            "frames, as if these were different cells, and compares the cells of two methods as if "
            "they were not the same ones. The test over tracks counts each cell once, and compares "
            "what two methods make of the same cell. Tracks of one field share its conditions, so "
            "the result holds for these fields; for others, give six fields or more."
        )
    return (
        "The paper's Mann-Whitney test counts every cell as independent, although cells of one "
        "field share its conditions; the test over fields counts each field once."
    )


def unlabelled_table(found: Unlabelled) -> tuple[str, pd.DataFrame]:
    """Return the caption and the rows of the table: one per pair of methods and feature.

    Parameters
    ----------
    found : Unlabelled
    """
    unit = unit_name(found)
    rows: list[dict[str, Any]] = []
    for row in found.statistics.to_dict("records"):
        shown = tested(row) | {"paper_text": p_text(row["p_cells"])}
        names = {"a": row["a"], "b": row["b"], "feature": row["feature"]}
        first = {column: shown.pop(column) for column in FIRST}
        counts = {
            f"{unit}s": min(row["units_a"], row["units_b"]),
            "cells_a": row["cells_a"],
            "cells_b": row["cells_b"],
        }
        rows.append(names | first | shown | counts)
    caption = (
        f"Methods on images without masks (a minus b). Over units: the mean over {unit}s of the "
        "difference of the two methods' means, with its 95 % confidence interval. Equivalent: "
        "the difference is smaller than what half a pixel of boundary does to such cells (two "
        "one-sided tests, each at 5 %). Different: p is at most 0.05, corrected for all pairs of "
        "methods in area, perimeter, circularity and solidity; radius and shape index follow from "
        "these and are not tested. Undecided: in brackets is about how many more "
        f"{unit}s would decide. The paper's test is Mann-Whitney's over all cells of all frames. "
        "Cells at the border of an image are left out."
    )
    return caption, pd.DataFrame(rows)


def _counted(count: int, name: str) -> str:
    """Write a count and its noun.

    >>> _counted(1, "frame"), _counted(5034, "cell")
    ('1 frame', '5,034 cells')
    """
    return f"{count:,} {name}{'s' * (count != 1)}"
