"""The error budget: its figure, its table, and that a click shows the cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.evaluation.outcomes import CAUSES, outcomes
from analysis.evidence import Evidence
from analysis.report.errors import error_counts, errors_table
from analysis.report.figures import bias, budget, features
from tests.analysis.evidence_data import METHODS, make_evidence

NAMES = list(METHODS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))


def counts_of(true: NDArray[np.int32], pred: NDArray[np.int32], group: str) -> pd.DataFrame:
    counts = outcomes(true, pred).counts
    return counts.assign(method=NAMES[0], image=group, group=group, split="test")


def planted() -> pd.DataFrame:
    """One group with two true cells, one of them missed; one with two that are merged."""
    true, one = np.zeros((10, 20), np.int32), np.zeros((10, 20), np.int32)
    true[2:8, 2:8], true[2:8, 8:14] = 1, 2
    one[2:8, 2:8] = 1
    return pd.concat([counts_of(true, one, "a"), counts_of(true, (true > 0).astype(np.int32), "b")])


def test_budget_is_the_mean_over_units_by_hand(evidence: Evidence) -> None:
    """Group a: TP 1, FN 1, so AP 1/2, all of the rest missed, and right 1 without it. Group b: the
    merged cell has an IoU of exactly 1/2 with both, so that it is found at that IoU by one of
    them: AP (1/2 + 0 + 0 + 0 + 0) / 5.
    """
    shown = budget.compute(replace(evidence, errors=planted()))
    assert shown is not None
    (bar,) = shown.bars
    merged_ap = 0.5 / 5
    assert bar.ap == pytest.approx((0.5 + merged_ap) / 2)
    lost = dict(zip(CAUSES, bar.lost))
    assert lost["missed"] == pytest.approx(0.5 / 2)
    assert lost["merged"] == pytest.approx((1 - merged_ap) / 2)
    assert bar.ap + bar.lost.sum() == pytest.approx(1)
    gains = dict(zip(CAUSES, bar.gives_back))
    assert gains["missed"] == pytest.approx(0.5 / 2)
    assert gains["merged"] == pytest.approx((1 - merged_ap) / 2)
    assert "the mean over groups" in budget.caption(shown)


def test_units_without_cells_have_no_budget(evidence: Evidence) -> None:
    nothing = np.zeros((4, 4), np.int32)
    errors = pd.concat([planted(), counts_of(nothing, nothing, "c")])
    with_empty, without = (
        budget.compute(replace(evidence, errors=table)) for table in (errors, planted())
    )
    assert with_empty is not None
    assert without is not None
    assert with_empty.bars[0].ap == without.bars[0].ap
    only_empty = counts_of(nothing, nothing, "c")
    assert budget.compute(replace(evidence, errors=only_empty)) is None


def test_bars_are_in_the_order_of_the_ranking_and_end_at_one(evidence: Evidence) -> None:
    shown = budget.compute(evidence)
    assert shown is not None
    assert [bar.method for bar in shown.bars] == NAMES
    left = budget.draw(shown).axes[0]
    ends = [patch.get_x() + patch.get_width() for patch in left.patches]  # type: ignore[attr-defined]
    assert max(ends) == pytest.approx(1)
    assert "methods." not in budget.caption(shown).split("Left")[0]


def test_errors_are_counted_by_hand(evidence: Evidence) -> None:
    (row,) = error_counts(replace(evidence, errors=planted())).to_dict("records")
    assert row == {
        "method": NAMES[0], "true_cells": 4, "found": 1, "missed": 1, "merged": 2, "split": 0,
        "boundary": 0, "predicted_cells": 2, "invented": 0,
    }  # fmt: skip
    table = error_counts(evidence)
    parts = table[["found", "missed", "merged", "split", "boundary"]].sum(axis=1)
    assert (parts == table["true_cells"]).all()
    assert table["true_cells"].tolist() == [8 * 50] * 4
    assert error_counts(replace(evidence, errors=evidence.errors.iloc[:0])).empty


def test_given_labels_are_shown_after_the_methods(evidence: Evidence) -> None:
    """Also in figures that show only the first methods."""
    tables = {
        name: pd.concat([table, table[table["method"] == NAMES[0]].assign(method="annotator")])
        for name in ("errors", "objects", "agreement")
        if len(table := getattr(evidence, name))
    }
    more = replace(evidence, given=["annotator"], **tables)
    assert error_counts(more)["method"].tolist() == [*NAMES, "annotator"]
    costs, boxes, biases = budget.compute(more), features.compute(more), bias.compute(more)
    assert costs is not None
    assert boxes is not None
    assert biases is not None
    assert [bar.method for bar in costs.bars] == boxes.methods[1:] == [*NAMES, "annotator"]
    assert biases.methods[-1] == "annotator"


def test_numbers_lead_to_the_cells_that_the_viewer_shows(evidence: Evidence) -> None:
    table = errors_table(evidence, {NAMES[1]})
    assert table is not None
    assert [heading for heading, _ in table.headings] == [
        "method", "true cells", "found", "missed", "merged", "split", "boundary",
        "predicted cells", "invented",
    ]  # fmt: skip
    links = [[cell.shows for cell in row if cell.shows] for row in table.rows]
    assert [len(row) for row in links] == [0, 6, 0, 0]
    assert links[1][1] == (NAMES[1], "missed")
    assert "Click" in table.caption
    without = errors_table(evidence, ())
    assert without is not None
    assert "Click" not in without.caption
