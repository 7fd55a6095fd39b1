"""Differences between populations in every training and convention."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from analysis.evaluation.images import LabelledImage
from analysis.evidence import TRUTH
from analysis.morphology.features import CONVENTIONS, measure
from analysis.study.effects import measured_again, of_training, population_effects
from analysis.study.objects import CellAnnotations, CellMeasurer
from trainables.data.dataset import Item

UNITS = 7
SIDE = 64


def squares(rng: np.random.Generator) -> NDArray[np.int32]:
    """Give a large square (label 1) and a small one (label 2), neither at the border."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    large, small = int(rng.integers(18, 24)), int(rng.integers(8, 12))
    labels[4 : 4 + large, 4 : 4 + large] = 1
    labels[40 : 40 + small, 40 : 40 + small] = 2
    return labels


def measurer(populations: tuple[str | None, str | None] = ("L", "S")) -> CellMeasurer:
    cells = {
        (f"i{k}", label): SimpleNamespace(track=None, population=population)
        for k in range(UNITS)
        for label, population in zip((1, 2), populations)
    }
    known = SimpleNamespace(cells=cells)
    known.get = lambda image, label: CellAnnotations.get(cast(CellAnnotations, known), image, label)
    return CellMeasurer("test", cast(CellAnnotations, known), "trackmate", 0.5)


def image(k: int, truth: NDArray[np.int32]) -> LabelledImage:
    item = Item(f"i{k}", Path(f"i{k}.tif"), Path(f"i{k}.tif"), f"g{k}")
    return LabelledImage(item, np.zeros(truth.shape, np.float32), truth)


def test_every_convention_by_hand() -> None:
    rng = np.random.default_rng(1)
    truths = [squares(rng) for _ in range(UNITS)]
    how = measurer()
    true, found = list[pd.DataFrame](), list[pd.DataFrame]()
    for k, truth in enumerate(truths):
        seen = image(k, truth)
        true += measured_again(how, how.true_cells(seen), truth)
        grown = np.where(truth == 1, 1, np.roll(truth, 1, 0)).astype(np.int32)
        cells, _ = how.found_cells(grown, seen, method="m", trial_id="m-0")
        found += measured_again(how, cells, grown)
        found += of_training(how, truth, seen, method="m", trial_id="m-1")
    table = population_effects([*true, *found], "group")
    assert len(table) == 4 * (4 + 4 + 1)
    assert set(table["a"]) == {"L"}
    assert set(table["b"]) == {"S"}
    for convention in CONVENTIONS:
        each = [measure(t, convention=convention).set_index("label")["perimeter"] for t in truths]
        values = np.array([one[1] - one[2] for one in each])
        low, high = stats.t.interval(
            0.95, UNITS - 1, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(UNITS)
        )
        row = table[
            (table["method"] == TRUTH)
            & (table["convention"] == convention)
            & (table["feature"] == "perimeter")
        ].iloc[0]
        assert row["unit_difference"] == pytest.approx(values.mean())
        assert row["unit_difference_low"] == pytest.approx(low)
        assert row["unit_difference_high"] == pytest.approx(high)
    # the second training found the true cells, and is measured in the report's convention only
    again = table[table["trial_id"] == "m-1"].drop(columns=["method", "trial_id"])
    same = table[(table["method"] == TRUTH) & (table["convention"] == "trackmate")]
    pd.testing.assert_frame_equal(
        again.reset_index(drop=True),
        same.drop(columns=["method", "trial_id"]).reset_index(drop=True),
    )


def test_without_populations_nothing_is_measured_again() -> None:
    truth = squares(np.random.default_rng(0))
    how = measurer((None, None))
    assert measured_again(how, how.true_cells(image(0, truth)), truth) == []
    assert of_training(how, truth, image(0, truth), method="m", trial_id="m-0") == []
    assert population_effects([], "group").empty


def test_cells_at_the_border_are_left_out() -> None:
    rng = np.random.default_rng(2)
    how, kept = measurer(), list[pd.DataFrame]()
    for k in range(UNITS):
        truth = squares(rng)
        if k == 0:
            truth[0:4, 4] = 1  # touches the border
        kept += measured_again(how, how.true_cells(image(k, truth)), truth)
    own = [table for table in kept if (table["convention"] == "skimage").any()]
    assert own[0]["left_out"].tolist() == [True, False]
    whole = population_effects(kept, "group")
    without = population_effects([table[~table["left_out"]] for table in kept], "group")
    pd.testing.assert_frame_equal(whole, without)
