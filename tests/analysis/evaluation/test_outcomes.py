"""What became of every cell, and how much average precision each cause costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis.evaluation.outcomes import CAUSES, FOUND, TP_COLUMNS, budget, outcomes
from analysis.evaluation.scores import METRICS, image_scores, pooled

TRUE = np.zeros((12, 42), np.int32)
PRED = np.zeros((12, 42), np.int32)
TRUE[2:8, 1:7], PRED[2:8, 1:7] = 5, 1  # found
TRUE[2:8, 8:13], TRUE[2:8, 13:16], PRED[2:8, 8:16] = 6, 7, 2  # merged, IoU 5/8 and 3/8
TRUE[2:8, 18:24], PRED[2:8, 18:21], PRED[2:8, 21:24] = 8, 3, 4  # split, IoU 1/2 twice
TRUE[2:8, 26:29] = 9  # missed
PRED[2:8, 31:34] = 9  # invented
TRUE[2:4, 36:38], PRED[1:6, 36:40] = 11, 12  # too large, IoU 4/20


def test_every_cell_has_its_outcome() -> None:
    found = outcomes(TRUE, PRED)
    assert dict(zip(found.true.tolist(), found.true_outcome.tolist())) == {
        5: FOUND,
        6: "merged",
        7: "merged",
        8: "split",
        9: "missed",
        11: "boundary",
    }
    assert dict(zip(found.pred.tolist(), found.pred_outcome.tolist())) == {
        1: FOUND,
        2: "merged",
        3: "split",
        4: "split",
        9: "invented",
        12: "boundary",
    }
    assert found.overlapped.tolist() == [5, 6, 8, 8, 0, 11]
    counts = found.counts.set_index("cause")
    assert counts["true_cells"].to_dict() == dict(zip(CAUSES, (1, 0, 2, 1, 2)))
    assert counts["predicted_cells"].to_dict() == dict(zip(CAUSES, (0, 1, 1, 2, 2)))
    assert list(counts.loc["merged", list(TP_COLUMNS)]) == [1, 1, 0, 0, 0]
    assert list(counts.loc["split", list(TP_COLUMNS)]) == [1, 0, 0, 0, 0]
    assert list(counts.loc["boundary", list(TP_COLUMNS)]) == [1] * 5


def test_budget_by_hand() -> None:
    table = budget(outcomes(TRUE, PRED).counts).set_index("cause")
    # six cells each; true positives 3, 2, 1, 1, 1, so 9, 10, 11, 11, 11 cells in all
    parts = np.array([9, 10, 11, 11, 11])
    assert table["ap"].tolist() == pytest.approx([(np.array([3, 2, 1, 1, 1]) / parts).mean()] * 5)
    lost = {
        "missed": (1 / parts).mean(),
        "invented": (1 / parts).mean(),
        "merged": (np.array([1, 1, 3, 3, 3]) / parts).mean(),
        "split": (np.array([1, 3, 3, 3, 3]) / parts).mean(),
        "boundary": (2 / parts).mean(),
    }
    assert table["lost"].to_dict() == pytest.approx(lost)
    # found instead of missed: one more true positive, one less false negative, as many cells
    gives = (np.array([4, 3, 2, 2, 2]) / parts).mean() - table["ap"].iloc[0]
    assert table["gives_back"]["missed"] == pytest.approx(gives)
    # not invented: a cell less
    gives = (np.array([3, 2, 1, 1, 1]) / (parts - 1)).mean() - table["ap"].iloc[0]
    assert table["gives_back"]["invented"] == pytest.approx(gives)
    # not merged: two true positives for the two cells, nothing else of them
    gives = (np.array([4, 3, 3, 3, 3]) / np.array([9, 10, 10, 10, 10])).mean()
    assert table["gives_back"]["merged"] == pytest.approx(gives - table["ap"].iloc[0])


def test_an_overlap_exactly_as_required_counts_as_in_the_scores() -> None:
    for pixels in (5, 6, 7, 8, 9):
        true, pred = np.zeros((4, 12), np.int32), np.zeros((4, 12), np.int32)
        true[1, 1:11], pred[1, 1 : 1 + pixels] = 1, 1  # an IoU of pixels / 10
        ap = pooled([image_scores(true, pred)])[METRICS.index("ap_mean")]
        assert budget(outcomes(true, pred).counts)["ap"].iloc[0] == pytest.approx(ap)
        assert ap == pytest.approx((pixels - 4) / 5)


def test_a_small_cell_inside_a_good_one_is_merged_although_the_large_one_matches() -> None:
    true = np.zeros((20, 20), np.int32)
    true[2:18, 2:15], true[2:18, 15:17] = 1, 2
    found = outcomes(true, (true > 0).astype(np.int32))
    assert found.true_outcome.tolist() == ["merged", "merged"]
    assert found.matching.true.tolist() == [1]


def test_cells_that_only_touch_are_missed_and_invented() -> None:
    true, pred = np.zeros((10, 20), np.int32), np.zeros((10, 20), np.int32)
    true[2:8, 2:8], pred[2:8, 6:14] = 1, 1  # 12 of 36 pixels
    found = outcomes(true, pred)
    assert (found.true_outcome.tolist(), found.pred_outcome.tolist()) == (["missed"], ["invented"])
    assert found.overlapped.tolist() == [0]


def test_nothing_at_all() -> None:
    found = outcomes(np.zeros((4, 4), np.int32), np.zeros((4, 4), np.int32))
    assert not len(found.true)
    assert not len(found.pred)
    assert budget(found.counts)["ap"].isna().all()


def test_other_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        outcomes(np.zeros((4, 4), np.int32), np.zeros((4, 5), np.int32))


def random_cells(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    labels = np.zeros((24, 24), np.int32)
    for label in rng.permutation(60)[:count] + 1:
        row, column = rng.integers(0, 20, 2)
        high, wide = rng.integers(1, 9, 2)
        labels[row : row + high, column : column + wide] = label
    return labels


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_budget_adds_up_to_the_average_precision_that_scores_give(
    seed: int, true_cells: int, pred_cells: int
) -> None:
    rng = np.random.default_rng(seed)
    true, pred = random_cells(rng, true_cells), random_cells(rng, pred_cells)
    found = outcomes(true, pred)
    counts = found.counts
    assert counts["true_cells"].sum() == len(found.true)
    assert counts["predicted_cells"].sum() == len(found.pred)
    table = budget(counts)
    if not len(found.true) + len(found.pred):
        return
    ap = pooled([image_scores(true, pred)])[METRICS.index("ap_mean")]
    assert table["ap"].iloc[0] == pytest.approx(ap)
    assert table["lost"].sum() + ap == pytest.approx(1)
    assert (table["lost"] >= 0).all()
    assert (table["gives_back"] >= -1e-12).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
@settings(max_examples=20, deadline=None)
def test_perfect_cells_cost_nothing(seed: int, cells: int) -> None:
    true = random_cells(np.random.default_rng(seed), cells)
    found = outcomes(true, true)
    assert set(found.true_outcome) <= {FOUND}
    table = budget(pd.concat([found.counts] * 2))
    assert table["lost"].fillna(0).tolist() == [0] * 5
    assert found.overlapped.tolist() == found.true.tolist()
