"""The table of errors: how many cells every method found, missed, merged and so on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pandas as pd

from analysis.evaluation.outcomes import CAUSES, FOUND
from analysis.evidence import Evidence
from analysis.folds import network_shown
from analysis.report.tables import Cell, Table, make_table, measured_split, representatives


def error_counts(evidence: Evidence) -> pd.DataFrame:
    """Count what became of the cells of the reported images, for representative seeds.

    Returns
    -------
    DataFrame
        One row per method in the order of the ranking, then those with given labels: method;
        true_cells, and of these found, missed, merged, split, boundary; predicted_cells, and of
        these invented.
    """
    rows: list[dict[str, str | int]] = []
    if evidence.errors.empty:
        return pd.DataFrame(rows)
    for name in (*representatives(evidence)["method"], *evidence.given):
        own = evidence.errors[evidence.errors["method"] == name]
        if own.empty:
            continue
        sums = own.groupby("cause")[["true_cells", "predicted_cells", "tp_50"]].sum()
        sums = sums.reindex(CAUSES, fill_value=0)
        true, pred = sums["true_cells"], sums["predicted_cells"]
        found = int(sums.loc["boundary", "tp_50"])  # one for one, with an IoU of at least 0.5
        rows.append(
            {
                "method": name,
                "true_cells": int(true.sum()),
                FOUND: found,
                **{cause: int(true[cause]) for cause in ("missed", "merged", "split")},
                "boundary": int(true["boundary"]) - found,
                "predicted_cells": int(pred.sum()),
                "invented": int(pred["invented"]),
            }
        )
    return pd.DataFrame(rows)


def errors_table(evidence: Evidence, pictured: Collection[str]) -> Table | None:
    """Return the table of errors as the page shows it.

    Parameters
    ----------
    evidence : Evidence
    pictured : collection of str
        Methods that the viewer shows; a click on one of their numbers shows these cells there.
    """
    counts = error_counts(evidence)
    if counts.empty:
        return None
    said = (
        f"What became of the cells of the {measured_split(evidence)} images "
        f"({network_shown(evidence.plan)}). Found, missed, merged, split and boundary add up to "
        "the true cells; boundary: one cell for one true cell, with an IoU below 0.5. Invented are "
        "predicted cells."
    )
    if pictured:
        said += " Click a number to see such cells in the images."
    table = make_table("errors", said, counts)
    columns = [*map(str, counts)]
    rows = [
        [_linked(cell, method, name, pictured) for cell, name in zip(row, columns)]
        for row, method in zip(table.rows, counts["method"])
    ]
    return replace(table, rows=rows)


def _linked(cell: Cell, method: str, column: str, pictured: Collection[str]) -> Cell:
    if method in pictured and column in (FOUND, *CAUSES):
        return replace(cell, shows=(method, column))
    return cell
