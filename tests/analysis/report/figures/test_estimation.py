"""Estimation plots: what is drawn is what the statistics say, read back from the drawing."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.evidence import TRUTH, Evidence, compared
from analysis.report.figures import (
    FIGURES,
    METHODS_FIGURE,
    POPULATIONS_FIGURE,
    estimation,
    features,
)
from analysis.report.figures.estimation import MOST_CELLS, Estimation, thinned
from analysis.report.figures.estimation_drawing import _ticks
from analysis.report.figures.style import STYLE, look
from analysis.statistics.equivalence import EQUIVALENT
from analysis.study.comparisons import comparisons
from analysis.study.families import FAMILY_FEATURES, POPULATION_FAMILY, TRUTH_FAMILY
from tests.analysis.evidence_data import METHODS, empty, make_evidence

NAMES = list(METHODS)
SMALL: dict[str, Any] = {"architectures": ("Unet", "UnetPlusPlus", "PAN")}
TWO: dict[str, Any] = {"names": [NAMES[0], NAMES[3]], "architectures": ("Unet", "PAN")}
FEATURES = ("area_um2", "perimeter_um", "circularity", "solidity")


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(**SMALL)


def shown(evidence: Evidence, name: str = METHODS_FIGURE) -> Estimation:
    found = FIGURES[name].compute(evidence)
    assert isinstance(found, Estimation)
    return found


def drawn(one: Estimation) -> Figure:
    style: Any = STYLE
    with matplotlib.rc_context(style):
        return FIGURES[METHODS_FIGURE].draw(one)


def again(evidence: Evidence, objects: pd.DataFrame, unit: str = "group") -> Evidence:
    """Give the evidence with other objects, tested anew."""
    tested = comparisons(compared(objects), unit=unit, recommended=NAMES[0], resamples=99)
    settings = evidence.settings | {"unit": unit}
    return replace(evidence, objects=objects, statistics=tested, settings=settings)


def axes(figure: Figure, kind: str) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_gid() == kind]


def lines(ax: Axes, kind: str) -> list[NDArray[np.float64]]:
    """Give (2, n) x and y of all lines and dots of a kind."""
    found = [line for line in ax.lines if line.get_gid() == kind]
    return [np.asarray(line.get_xydata(), float).T for line in found]


def rows_of(evidence: Evidence, feature: str) -> pd.DataFrame:
    """Give a feature's rows of the methods against the truth, in the order of the methods."""
    table = evidence.statistics
    rows = table[(table["family"] == TRUTH_FAMILY) & (table["feature"] == feature)]
    return rows.set_index("a").loc[NAMES]


def means(
    evidence: Evidence, feature: str, method: str, population: str | None = None
) -> NDArray[np.float64]:
    """Give the mean of each group."""
    cells = evidence.cells[evidence.cells["method"] == method]
    cells = cells if population is None else cells[cells["population"] == population]
    return cells.groupby("group")[feature].mean().to_numpy(float)


def test_intervals_zones_and_verdicts_are_those_of_the_statistics(evidence: Evidence) -> None:
    figure = drawn(shown(evidence))
    assert len(axes(figure, "differences")) == len(axes(figure, "values")) == 4
    for ax, feature in zip(axes(figure, "differences"), FAMILY_FEATURES):
        rows = rows_of(evidence, feature)
        ends = [x for x, _ in lines(ax, "interval")]
        np.testing.assert_array_equal(
            ends, rows[["unit_difference_low", "unit_difference_high"]].to_numpy()
        )
        places = [x for x, _ in lines(ax, "difference")]
        np.testing.assert_array_equal(np.ravel(places), rows["unit_difference"])
        heights = [list(y) for _, y in lines(ax, "interval")]
        assert heights == [[n, n] for n in (1.0, 2.0, 3.0, 4.0)], "below the row of the truth"
        zones = [p for p in ax.patches if p.get_gid() == "zone" and isinstance(p, Rectangle)]
        np.testing.assert_allclose([z.get_x() for z in zones], -rows["margin"])
        np.testing.assert_allclose([z.get_width() for z in zones], 2 * rows["margin"])
        assert [z.get_y() + 0.5 for z in zones] == [1, 2, 3, 4]
        assert [t.get_text() for t in ax.texts] == rows["verdict"].tolist()
        inner = np.array([x for x, _ in lines(ax, "inner")])
        inside = (np.abs(inner) <= rows["margin"].to_numpy()[:, None]).all(axis=1)
        np.testing.assert_array_equal(inside, rows["verdict"] == EQUIVALENT)
        assert (inner[:, 0] > np.array(ends)[:, 0]).all()
        assert (inner[:, 1] < np.array(ends)[:, 1]).all()
        low, high = ax.get_xlim()
        assert low < min(np.min(ends), -rows["margin"].max())
        assert max(np.max(ends), rows["margin"].max()) < high


def test_every_unit_is_a_dot_and_a_line_at_its_means(evidence: Evidence) -> None:
    figure = drawn(shown(evidence))
    for ax, other, feature in zip(axes(figure, "values"), axes(figure, "differences"), FEATURES):
        units = lines(ax, "units")
        true = means(evidence, feature, TRUTH)
        own = [means(evidence, feature, name) for name in NAMES]
        assert [len(x) for x, _ in units] == [8] * 9, "the truth alone, then pairs"
        np.testing.assert_allclose(units[0][0], true)
        for number, mine in enumerate(own):
            np.testing.assert_allclose(units[1 + 2 * number][0], true)
            np.testing.assert_allclose(units[2 + 2 * number][0], mine)
        joined = np.array([x for x, _ in lines(ax, "joined")])
        assert joined.shape == (4 * 8, 2)
        np.testing.assert_allclose(joined[:, 0], np.tile(true, 4))
        np.testing.assert_allclose(joined[:, 1], np.ravel(own))
        each = np.array([x for x, _ in lines(other, "unit differences")])
        np.testing.assert_allclose(each, np.array(own) - true)
        np.testing.assert_allclose(
            each.mean(axis=1), np.ravel([x for x, _ in lines(other, "difference")])
        )
        low, high = ax.get_xlim()
        assert low < min(map(np.min, own)) <= max(map(np.max, own)) < high


def test_single_cells_are_few_pale_and_pixels(evidence: Evidence) -> None:
    one = shown(evidence)
    for ax, feature in zip(axes(drawn(one), "values"), FEATURES):
        cells = [line for line in ax.lines if line.get_gid() == "cells"]
        assert len(cells) == 5
        assert {line.get_rasterized() for line in cells} == {True}
        for line, name in zip(cells, [TRUTH, *NAMES]):
            values = np.asarray(line.get_xdata(), float)
            assert len(values) == MOST_CELLS
            own = evidence.cells.loc[evidence.cells["method"] == name, feature]
            assert np.isin(values, own).all()
            assert abs(np.median(values) - own.median()) < own.std(), "a random part of them"
    assert one.counts == ["n = 392"] * 5


@given(st.integers(0, 400), st.integers(0, 5))
def test_thinned_values_are_a_part(count: int, seed: int) -> None:
    values = np.arange(count, dtype=float)
    part = thinned(values, np.random.default_rng(seed))
    assert len(part) == len(set(part.tolist())) == min(count, MOST_CELLS)
    assert set(part.tolist()) <= set(values.tolist())


@given(st.floats(-1e6, 0), st.floats(0, 1e6))
def test_ticks_are_zero_and_round_numbers_inside_the_axis(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 0.0 in ticks
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    if max(-low, high) > 1e-9:
        assert len(ticks) > 1
        assert max(map(abs, ticks)) >= 0.5 * max(-low, high), "near the end"


def test_caption_says_what_is_drawn(evidence: Evidence) -> None:
    said = estimation.caption(shown(evidence))
    for part in (
        "Methods and the ground truth in 8 test images with cells, 8 independent groups.",
        "pale dots are single cells (at most 120 for each row and colour, drawn at random)",
        "larger dots the mean of each group; thin lines join the two means of one group",
        "the difference of these means (method − truth); small dots: each group alone",
        "its 95 % confidence interval",
        "Shaded: the equivalence zone, as far from zero as the margin: what moving the outline by "
        "half a pixel does to such cells.",
        "The word is the verdict",
        "Equivalent: the 90 % interval is within the zone (two one-sided tests at 5 %).",
        "Different is corrected for all differences of the table, which intervals are not.",
        "doi:10.1083/jcb.202001064",
        "doi:10.1038/s41592-019-0470-3",
    ):
        assert part in said
    assert "too few" not in said
    assert "The first" not in said


def test_a_second_person_whose_disagreement_is_the_margin_has_no_verdict() -> None:
    two = make_evidence(**TWO)
    tested = comparisons(two.cells, recommended=NAMES[0], resamples=99, annotator=NAMES[3])
    settings = two.settings | {"annotator": NAMES[3]}
    one = shown(replace(two, statistics=tested, settings=settings))
    assert "means of ground truth and" in estimation.caption(one)
    area = axes(drawn(one), "differences")[0]
    assert len(lines(area, "interval")) == 2
    assert area.texts[0].get_text() != "" == area.texts[1].get_text()
    zones = [p for p in area.patches if isinstance(p, Rectangle)]
    true = means(two, "area_um2", TRUTH)
    apart = np.abs(means(two, "area_um2", NAMES[3]) - true).mean()
    np.testing.assert_allclose([zone.get_width() / 2 for zone in zones], apart)


def test_without_enough_units_there_is_no_interval_and_the_caption_says_so() -> None:
    few = make_evidence(units=5, **TWO)
    for name in (METHODS_FIGURE, POPULATIONS_FIGURE):
        one = shown(few, name)
        figure = drawn(one)
        for ax in axes(figure, "differences"):
            assert not lines(ax, "interval")
            assert len(lines(ax, "difference")) == 2, "the difference itself is known"
            assert {text.get_text() for text in ax.texts} == {""}
        said = estimation.caption(one)
        assert "No intervals are drawn because there are too few independent groups (6 are" in said
        assert "95 %" not in said
        assert "verdict" not in said
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "difference" in labels


def test_populations_of_the_recommended_method_beside_those_of_the_truth(
    evidence: Evidence,
) -> None:
    one = shown(evidence, POPULATIONS_FIGURE)
    assert one.names == ["large − small\ntrue cells", "large − small\nmethod's cells"]
    assert one.counts == ["n = 192, 200"] * 2
    assert f"in the cells of {NAMES[0]}, the recommended method" in estimation.caption(one)
    table = evidence.statistics[evidence.statistics["comparison"] == "populations"]
    figure = drawn(one)
    for number, ax in enumerate(axes(figure, "differences")):
        rows = table[table["feature"] == FAMILY_FEATURES[number]].set_index("method")
        true, own = rows.loc[TRUTH], rows.loc[NAMES[0]]
        assert (true["a"], own["a"], own["family"]) == ("large", "large", POPULATION_FAMILY)
        ends = [list(x) for x, _ in lines(ax, "interval")]
        assert ends == [
            [row["unit_difference_low"], row["unit_difference_high"]] for row in (true, own)
        ]
        assert [text.get_text() for text in ax.texts] == ["", own["verdict"]]
        units = lines(axes(figure, "values")[number], "units")
        small, large = units[2], units[3]  # the reference is drawn below
        feature = FEATURES[number]
        np.testing.assert_allclose(small[0], means(evidence, feature, NAMES[0], "small"))
        np.testing.assert_allclose(large[0], means(evidence, feature, NAMES[0], "large"))
        assert small[1].min() > large[1].max()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["large", "small"]


def test_of_many_populations_the_first_pairs_are_shown() -> None:
    two = make_evidence(**TWO)
    names = np.array(["control", *(f"drug {n}" for n in range(1, 6))])
    many = two.objects.assign(population=names[two.objects["label"] % 6])
    one = shown(again(two, many), POPULATIONS_FIGURE)
    assert [name.split("\n")[0] for name in one.names[::2]] == [
        f"control − drug {n}" for n in range(1, 5)
    ]
    assert "The first 4 of 15 pairs; the table has all." in estimation.caption(one)
    assert drawn(one).get_size_inches()[1] < 9.7
    alone = again(two, two.objects.assign(population="all"))
    assert FIGURES[POPULATIONS_FIGURE].compute(alone) is None
    assert FIGURES[METHODS_FIGURE].compute(alone) is not None


def test_populations_in_different_units_are_not_joined() -> None:
    two = make_evidence(**TWO)
    by_image = np.where(two.objects["image"] < "t004", "control", "treated")
    one = shown(again(two, two.objects.assign(population=by_image)), POPULATIONS_FIGURE)
    figure = drawn(one)
    for ax in axes(figure, "values"):
        assert not lines(ax, "joined")
        assert [len(x) for x, _ in lines(ax, "units")] == [4, 4, 4, 4]
    for ax in axes(figure, "differences"):
        assert not lines(ax, "unit differences")
        assert len(lines(ax, "interval")) == 2
    said = estimation.caption(one)
    assert "thin lines" not in said
    assert "each group alone" not in said
    tracks = shown(
        again(two, two.objects.assign(population=by_image), unit="image"), POPULATIONS_FIGURE
    )
    assert "images" in estimation.caption(tracks)


def test_groups_are_the_units_where_none_holds_both() -> None:
    two = make_evidence(**TWO)
    objects = two.objects.assign(
        population=np.where(two.objects["image"] < "t004", "control", "treated")
    )
    one = shown(again(two, objects, unit="track"), POPULATIONS_FIGURE)
    assert "Where no group holds both, the groups are the units." in estimation.caption(one)
    methods = shown(replace(two, settings=two.settings | {"unit": "track"}))
    assert {len(row.sides[0].means) for panel in methods.panels if panel for row in panel.rows} == {
        8 * 49
    }, "tracks are numbered within their group"
    assert all(
        len(side.means) == 4 for panel in one.panels if panel for side in panel.rows[0].sides
    )


def test_more_than_thirty_units_are_a_mean_only() -> None:
    one = shown(make_evidence(units=31, **TWO))
    figure = drawn(one)
    ticks_lie_apart(figure)
    for ax in figure.axes:
        assert not [k for k in ("units", "joined", "unit differences") if lines(ax, k)]
    assert all(lines(ax, "interval") for ax in axes(figure, "differences"))
    said = estimation.caption(one)
    assert "(each group alone is drawn only for at most 30)" in said
    assert "thin lines" not in said


def test_missing_values_leave_gaps_and_pixels_stay_pixels() -> None:
    two = make_evidence(pixel=None, **TWO)
    objects = two.objects.assign(circularity=np.nan)
    objects.loc[objects["method"] == NAMES[3], "solidity"] = np.nan
    one = shown(again(two, objects))
    labels = [panel.label if panel else None for panel in one.panels]
    assert labels == ["Area (px²)", "Perimeter (px)", None, "Solidity"]
    assert one.panels[3] is not None
    assert [len(row.sides) for row in one.panels[3].rows] == [1, 2, 0]
    figure = drawn(one)
    assert len(axes(figure, "values")) == 3
    assert len(lines(axes(figure, "differences")[2], "interval")) == 1
    ticks = axes(figure, "values")[2].get_yticklabels()
    assert ticks[0].get_text().startswith(TRUTH), "named although nothing stands left of it"
    assert FIGURES[METHODS_FIGURE].compute(empty(two)) is None


def test_of_many_methods_the_first_are_shown_and_given_labels() -> None:
    two = make_evidence(**TWO)
    own, objects = two.methods, two.objects
    more = [f"U-Net, variant {n}" for n in range(58)]
    parts = [objects[objects["method"] == NAMES[3]].assign(method=name) for name in more]
    labels = objects[objects["method"] == NAMES[0]].assign(method="second person", trial_id="")
    methods = [own, *(own[own["method"] == NAMES[3]].assign(method=name) for name in more)]
    many = replace(
        two,
        objects=pd.concat([objects, *parts, labels]),
        methods=pd.concat(methods, ignore_index=True),
        given=["second person"],
    )
    one = shown(many)
    assert one.names == [TRUTH, NAMES[0], NAMES[3], *more[:5], "second person"]
    assert "The first 7 of 60 methods; tables have all." in estimation.caption(one)
    untested = [row for panel in one.panels if panel for row in panel.rows[3:]]
    assert all(math.isnan(row.difference) for row in untested), "not in these statistics"
    assert drawn(one).get_size_inches()[1] < 9.7
    boxes = features.compute(many)
    assert boxes is not None
    colours = {name: look(place).colour for name, place in zip(boxes.methods, boxes.colours)}
    assert one.panels[0] is not None
    drawn_in = [row.sides[-1].colour for row in one.panels[0].rows[1:]]
    assert drawn_in == [colours[name] for name in one.names[1:]], "as in Figure 9"


def ticks_lie_apart(figure: Figure) -> None:
    """Check each row of the page; the figure has four panels."""
    for row in (figure.axes[:4], figure.axes[4:]):
        boxes = [tick.get_window_extent() for ax in row for tick in ax.get_xticklabels()]
        boxes.sort(key=lambda box: box.x0)
        assert len(boxes) >= 8
        for left, right in pairwise(boxes):
            assert left.x1 < right.x0


@pytest.mark.parametrize("name", [METHODS_FIGURE, POPULATIONS_FIGURE])
def test_texts_lie_inside_the_figure_and_ticks_apart(evidence: Evidence, name: str) -> None:
    figure = drawn(shown(evidence, name))
    style: Any = STYLE
    with matplotlib.rc_context(style):
        figure.draw_without_rendering()
        page = figure.bbox
        for ax in figure.axes:
            for text in [*ax.texts, *ax.get_yticklabels(), ax.xaxis.label]:
                box = text.get_window_extent()
                assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        ticks_lie_apart(figure)
