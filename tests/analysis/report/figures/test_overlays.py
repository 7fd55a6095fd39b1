"""Figure 10 and the viewer: which part of which image they show, and which methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis.evaluation.outcomes import FOUND, outcomes
from analysis.evidence import Evidence, Picture
from analysis.report.figures import overlays
from analysis.report.figures.pixels import worst_window
from analysis.report.figures.style import TWO_COLUMNS
from analysis.report.viewer import viewer_pictures
from tests.analysis.evidence_data import METHODS, make_evidence

NAMES = list(METHODS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "UnetPlusPlus", "PAN"))


def test_overlays_compare_the_window_that_is_shown(evidence: Evidence) -> None:
    shown = overlays.compute(evidence)
    assert shown is not None
    errors = [errors_of(one) for one in evidence.pictures]
    assert errors.count(max(errors)) == 1
    assert errors[0] < max(errors)
    picture = evidence.pictures[int(np.argmax(errors))]
    assert (shown.image, shown.errors) == (picture.image, max(errors))
    a, b = picture.labels[NAMES[0]] > 0, picture.truth > 0
    assert shown.pairs[0].title == "A vs truth"
    assert shown.pairs[0].iou == pytest.approx((a & b).sum() / (a | b).sum())
    assert len(shown.pairs) == 4 + 6
    assert not shown.cropped
    assert overlays.caption(shown).startswith(
        f"Image {picture.image} (test). This is the part of the 3 pictures of the viewer in which "
        f"these methods make most errors ({shown.errors} cells missed, invented, merged, split or "
        "with a wrong boundary), so it is not typical. Cells"
    )
    pixels, truth = np.tile(picture.pixels, (2, 2)), np.tile(picture.truth, (2, 2))
    large = Picture("b", "val", pixels, truth, {})
    large.labels.update(dict.fromkeys([*picture.labels, "one more"], large.truth))
    cut = overlays.compute(replace(evidence, pictures=[large]))
    assert cut is not None
    assert cut.pixels.shape == (360, 360)
    assert {pair.iou for pair in cut.pairs} == {1.0}
    assert {pair.found - pair.cells for pair in cut.pairs} == {0}
    assert overlays.caption(cut).startswith(
        "Image b (val), 360 × 360 pixels of it. This is the part with the most true foreground; "
        "all cells are found. Cells"
    )


def errors_of(picture: Picture) -> int:
    """Give the number of true cells that are not found and of invented ones, over all methods."""
    every = [outcomes(picture.truth, labels) for labels in picture.labels.values()]
    true = sum(int((one.true_outcome != FOUND).sum()) for one in every)
    return true + sum(int((one.pred_outcome == "invented").sum()) for one in every)


def test_six_methods_are_laid_over_the_truth_and_the_first_over_the_others(
    evidence: Evidence,
) -> None:
    first = evidence.methods[evidence.methods["method"] == NAMES[0]]
    more = [f"U-Net, variant {n}" for n in range(4)]
    methods = pd.concat([evidence.methods, *(first.assign(method=name) for name in more)])
    picture = evidence.pictures[0]
    labels = picture.labels | dict.fromkeys(more, picture.labels[NAMES[1]])
    pictures = [replace(picture, labels=labels | {"second person": picture.truth})]
    six = replace(evidence, methods=methods, pictures=pictures, given=["second person"])
    shown = overlays.compute(six)
    assert shown is not None
    titles = [pair.title for pair in shown.pairs]
    assert titles == [*(f"{m} vs truth" for m in "ABCDEF"), *(f"A vs {m}" for m in "BCDEF")]
    assert "; the first 6 of 8 methods." in overlays.caption(shown)
    figure = overlays.draw(shown)
    assert len(figure.axes) == 12
    width, height = figure.get_size_inches()
    assert width <= TWO_COLUMNS + 0.01
    assert height <= 9.7
    (names,) = (t.get_text() for t in figure.texts)
    assert [line[0] for line in names.splitlines()] == list("ABCDEF")


def test_the_window_with_most_errors_and_of_several_the_densest() -> None:
    truth = np.zeros((40, 50), np.int32)
    truth[20:30, 30:40] = 1
    right = [(truth, outcomes(truth, truth))]
    window = worst_window(truth, right, 10)
    assert window == ((slice(20, 30), slice(30, 40)), 0, 100)
    assert worst_window(truth, right, 100) == ((slice(0, 40), slice(0, 50)), 0, 100)
    truth[2:5, 2:5], truth[2:5, 7:9] = 2, 3
    lost, found = np.where(truth == 2, 0, truth), truth.copy()
    found[36:39, 3:6] = 4  # invented
    methods = [(labels, outcomes(truth, labels)) for labels in (lost, lost, found)]
    place, errors, foreground = worst_window(truth, methods, 10)
    assert (errors, foreground) == (2, 9 + 6), "the small cells, missed by two methods"
    assert np.isin([2, 3], truth[place]).all()
    place, errors, _ = worst_window(truth, methods[2:], 10)
    assert errors == 1, "one invented cell counts more than any foreground"
    assert place[0].stop > 37
    assert worst_window(truth, methods, 50).errors == 3


def test_viewer_cuts_large_pictures_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.viewer.MOST_PIXELS", 800_000)
    truth = np.zeros((600, 700), np.int32)
    truth[300:500, 300:500] = 1
    picture = Picture("big", "test", np.zeros(truth.shape, np.float32), truth, {"a": truth})
    made, notes = viewer_pictures([picture, picture, picture, picture])
    assert [p["width"] <= 273 for p in made] == [True] * 3
    assert made[0]["cut"].startswith("256 × 256 pixels of 700 × 600, from row")
    assert ["first 3 of 4" in notes[0], "not scaled" in notes[1]] == [True, True]
    assert "in which the methods make most errors" in notes[1]
    missed = truth.copy()
    missed[20:40, 20:40] = 2
    (first, *_), _ = viewer_pictures([replace(picture, truth=missed)] * 4)
    assert first["layers"]["a"]["counts"]["missed"] == 1, "not the densest part, which is right"


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_no_other_window_has_more_errors_or_as_many_and_more_foreground(
    seed: int, side: int
) -> None:
    rng = np.random.default_rng(seed)
    truth, labels = (
        np.kron(rng.integers(0, 2, (3, 4)) * np.arange(1, 13).reshape(3, 4), np.ones((3, 3), int))
        for _ in range(2)
    )
    became = outcomes(truth, labels)
    found = worst_window(truth, [(labels, became)], side)
    wrong = became.true_outcome != FOUND
    centres = [_centre(truth, label) for label in became.true[wrong]]
    invented = became.pred[became.pred_outcome == "invented"]
    centres += [_centre(labels, label) for label in invented]
    every = {}
    for top in range(truth.shape[0] - min(side, truth.shape[0]) + 1):
        for left in range(truth.shape[1] - min(side, truth.shape[1]) + 1):
            inside = [top <= r < top + side and left <= c < left + side for r, c in centres]
            part = truth[top : top + side, left : left + side]
            every[top, left] = (sum(inside), int((part > 0).sum()))
    assert (found.errors, found.foreground) == max(every.values())
    rows, columns = found.place
    assert every[rows.start, columns.start] == max(every.values())


def _centre(labels: NDArray[np.int64], label: int) -> tuple[float, float]:
    rows, columns = np.nonzero(labels == label)
    return float(rows.mean()), float(columns.mean())
