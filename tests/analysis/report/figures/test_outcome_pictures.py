"""Cells in the colours of their outcomes, in Figure 10 and in the viewer."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from analysis.evaluation.outcomes import CAUSES, FOUND, outcomes
from analysis.evidence import TRUTH, Evidence, Picture
from analysis.report.figures import overlays
from analysis.report.figures.pixels import (
    OUTCOMES,
    left_out_pixels,
    outcome_image,
    outcome_pixels,
)
from analysis.report.figures.style import CELL_LINE, OUTCOME_COLOURS, TRUE_LINE
from analysis.report.viewer import viewer_pictures
from tests.analysis.evidence_data import METHODS, make_evidence

ONE = next(iter(METHODS))
ROW = (14, 62)
Labels = NDArray[np.int32]


def cell(
    labels: Labels, label: int, columns: tuple[int, int], rows: tuple[int, int] = (4, 9)
) -> None:
    labels[slice(*rows), slice(*columns)] = label


@pytest.fixture(scope="module")
def planted() -> tuple[Labels, Labels]:
    """One cell found, one missed, one invented, two merged, one split, one too small, and one at
    the border, from left to right.
    """
    truth, pred = np.zeros(ROW, np.int32), np.zeros(ROW, np.int32)
    for labels in (truth, pred):
        cell(labels, 1, (2, 8))
    cell(truth, 2, (10, 15))
    cell(pred, 2, (17, 22))
    cell(truth, 3, (24, 28))
    cell(truth, 4, (28, 32))
    cell(pred, 3, (24, 32))
    cell(truth, 5, (35, 43))
    cell(pred, 4, (35, 39))
    cell(pred, 5, (39, 43))
    cell(truth, 6, (46, 54))
    cell(pred, 6, (48, 50))
    for labels in (truth, pred):
        cell(labels, 7, (57, 62))
    return truth, pred


MIDDLE = {"missed": 12, "invented": 19, "merged": 28, "split": 37, "boundary": 49}
"""A column in the middle of each cell that is not right."""


def test_every_pixel_has_the_outcome_of_its_cell(planted: tuple[Labels, Labels]) -> None:
    truth, pred = planted
    painted = outcome_pixels(truth, pred, outcomes(truth, pred))
    assert OUTCOMES == (FOUND, *CAUSES) == tuple(OUTCOME_COLOURS)
    for outcome, column in (MIDDLE | {FOUND: 4}).items():
        assert OUTCOMES[painted[6, column] - 1] == outcome
    assert painted[6, 53] == 0, "a true cell that is not missed is shown by its predicted cell"
    assert not painted[0].any()
    assert len(set(OUTCOME_COLOURS.values()) | {CELL_LINE, TRUE_LINE}) == 8
    image = outcome_image(np.zeros(ROW), pred, painted)
    for outcome, column in MIDDLE.items():
        inner = 0.8 * np.array(to_rgb(OUTCOME_COLOURS[outcome]))
        darker = 0.7 if column == MIDDLE["boundary"] else 1  # that cell is all edge
        np.testing.assert_allclose(image[6, column], darker * inner)
    np.testing.assert_array_equal(image[0], 0)


def test_cells_that_are_left_out_are_those_of_the_object_table() -> None:
    """True cells at the border, what overlaps these most, and invented cells at the border."""
    truth, pred = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    truth[0:5, 2:8], pred[1:5, 2:8] = 1, 1  # the truth is cut, what was found does not touch
    truth[8:14, 8:14], pred[8:14, 8:14] = 2, 2
    pred[15:20, 0:3] = 3  # invented
    true_out, pred_out = left_out_pixels(truth, pred, outcomes(truth, pred))
    assert set(truth[true_out]) == {1}
    assert set(pred[pred_out]) == {1, 3}


def test_figure10_counts_and_dashes(evidence: Evidence, planted: tuple[Labels, Labels]) -> None:
    truth, pred = planted
    picture = Picture("a", "test", np.zeros(ROW, np.float32), truth, {ONE: pred})
    shown = overlays.compute(replace(evidence, pictures=[picture]))
    assert shown is not None
    (pair,) = shown.pairs
    assert (pair.found, pair.cells) == (2, 7)
    assert (len(pair.second), len(pair.second_cut)) == (6, 1)
    assert (len(shown.truth), len(shown.truth_cut)) == (6, 1)
    titles = [ax.get_title() for ax in overlays.draw(shown).axes]
    assert titles[1].endswith("\n2 of 7 cells found")


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(names=[ONE], architectures=("Unet",), encoders=("resnet152",))


def read(uri: str) -> NDArray[np.uint8]:
    """Give the (H, W, 4) pixels of a data URI."""
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def rgba(colour: str) -> list[int]:
    return [*bytes.fromhex(colour[1:]), 255]


def test_viewer_paints_and_counts_outcomes(planted: tuple[Labels, Labels]) -> None:
    truth, pred = planted
    picture = Picture("a", "test", np.zeros(ROW, np.float32), truth, {"method": pred})
    (made,), _ = viewer_pictures([picture])
    layers: dict[str, Any] = made["layers"]["method"]
    assert layers["counts"] == {
        "found": 2, "missed": 1, "invented": 1, "merged": 2, "split": 1, "boundary": 1
    }  # fmt: skip
    painted = read(layers["outcomes"])
    for outcome, column in MIDDLE.items():
        assert painted[6, column].tolist() == rgba(OUTCOME_COLOURS[outcome])
    assert painted[0, 0, 3] == 0
    for name, colour in (("method", CELL_LINE), (TRUTH, TRUE_LINE)):
        lines = read(made["layers"][name]["outlines"])
        assert lines[4, 3].tolist() == rgba(colour)
        at_border = lines[4, 57:62, 3]
        assert 0 < np.count_nonzero(at_border) < 5, "dashed"
        assert lines[4, 2:8, 3].all(), "not dashed"


def test_outcomes_are_those_of_whole_cells(
    planted: tuple[Labels, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cropped picture shows a merged cell as merged, also where one of its cells is outside."""
    monkeypatch.setattr("analysis.report.viewer.MOST_PIXELS", 100)
    monkeypatch.setattr("analysis.report.viewer.SMALLEST", 7)
    truth, pred = np.zeros((30, 30), np.int32), np.zeros((30, 30), np.int32)
    truth[5:12, 5:12], truth[5:12, 12:18], pred[5:12, 5:18] = 1, 2, 1
    picture = Picture("a", "test", np.zeros((30, 30), np.float32), truth, {"method": pred})
    (made,), _ = viewer_pictures([picture])
    assert made["width"] < 13
    assert made["layers"]["method"]["counts"]["merged"] >= 1
    assert read(made["layers"]["method"]["outcomes"])[4, 4].tolist() == rgba(
        OUTCOME_COLOURS["merged"]
    )
