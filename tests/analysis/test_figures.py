"""Figures: all that the evidence allows, nothing that it does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from analysis.evidence import Picture
from analysis.report import figures
from analysis.report import tables as report_tables
from analysis.report.figure_images import (
    EXTRA,
    LOST,
    RIGHT,
    border,
    densest_window,
    outlines,
    overlay,
    pixel_iou,
    viewer_pictures,
)

sys.path.insert(0, str(Path(__file__).parent))
from evidence_data import METHODS, empty, make_evidence

ONE = {"names": ["PAN vgg19, 2-class + watershed"], "architectures": ("Unet",)}


@pytest.fixture(scope="module")
def evidence():
    return make_evidence()


def test_everything_is_drawn_twice(evidence, tmp_path: Path) -> None:
    one = make_evidence(**ONE, encoders=("resnet152",))
    written = figures.make_figures(one, tmp_path)
    missing = {"figure8_networks_semantic3", "figure8_networks_stardist"}
    assert set(written) == {"table1", *figures.DRAWINGS} - missing
    for name, path in written.items():
        assert path.stat().st_size > 100
        if name != "table1":
            assert path == tmp_path / "figures" / f"{name}.svg"
            assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "Date" not in written["bias"].read_text()
    again = figures.make_figures(one, tmp_path / "again")
    assert again["bias"].read_bytes() == written["bias"].read_bytes()


def test_without_anything_analysed_only_training_is_drawn(evidence, tmp_path: Path) -> None:
    assert set(figures.make_figures(empty(evidence), tmp_path)) == {"table1", "figure7_dataset_iou"}
    nothing = replace(empty(evidence), leaderboard=evidence.leaderboard.iloc[:0])
    assert figures.make_figures(nothing, tmp_path / "b") == {}


@pytest.mark.parametrize("name", figures.DRAWINGS)
def test_print_size_and_letters(evidence, name: str) -> None:
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.DRAWINGS[name](evidence)
        assert figure is not None
        figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width <= figures.TWO_COLUMNS + 0.01
    assert height <= 9.7, "longer than a page"
    for text in figure.findobj(Text):
        assert not text.get_text() or text.get_fontsize() >= 7


def test_every_line_of_many_seeds_is_drawn() -> None:
    evidence = make_evidence(seeds=2, encoders=("vgg19", "resnet152", "own_net"))
    figure = figures.draw_train_loss(evidence)
    assert figure is not None
    lines = sum(len(ax.lines) for ax in figure.axes)
    assert lines == evidence.history["trial_id"].nunique() == 8 * 3 * 2 - 1 + 4


def test_heat_map_names_what_is_missing(evidence) -> None:
    figure = figures.draw_heat_map(evidence)
    assert figure is not None
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert texts.count("failed") == 1
    assert sum(len(ax.texts) for ax in figure.axes) == 44
    waiting = evidence.leaderboard.assign(test_dataset_iou=np.nan)
    assert figures.draw_heat_map(replace(evidence, leaderboard=waiting)) is None


def test_boxes_say_how_many_lie_beyond_the_axis(evidence) -> None:
    figure = figures.draw_boxes(evidence)
    assert figure is not None
    ax = figure.axes[0]
    area = evidence.objects["area_um2"]
    low, high = ax.get_xlim()
    beyond = int(((area < low) | (area > high)).sum())
    assert beyond > 0
    assert ax.get_title(loc="right") == f"{beyond} of {len(area):,} beyond the axis"
    assert ax.get_xlabel() == "Area (µm²)"
    pixels = figures.draw_boxes(make_evidence(pixel=None))
    assert pixels is not None
    assert pixels.axes[0].get_xlabel() == "Area (px²)"


def test_features_without_values_are_left_out(evidence) -> None:
    without = evidence.objects.assign(solidity=np.nan)
    figure = figures.draw_boxes(replace(evidence, objects=without))
    assert figure is not None
    assert sum(ax.get_visible() for ax in figure.axes) == 5


def dots(figure) -> list[float]:
    """Give where the small dots, one per unit, lie along the axis of values."""
    lines = [line for ax in figure.axes for line in ax.lines if line.get_gid() == "units"]
    return [float(v) for line in lines for v in line.get_xydata().ravel()]


def test_every_unit_is_a_dot_and_nothing_is_drawn_as_an_interval(evidence) -> None:
    draws = (figures.draw_overlaps, figures.draw_calibration, figures.draw_bias)
    for draw, count in zip(draws, (5 * 4, 2 * 4, 6 * 4)):
        figure = draw(evidence)
        assert figure is not None
        assert len(dots(figure)) == 2 * 8 * count
        assert not [c for ax in figure.axes for c in ax.collections]
        small = [line for ax in figure.axes for line in ax.lines if line.get_gid() == "units"]
        assert {line.get_linestyle() for line in small} == {"None"}
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels.count("one group (of 8 independent groups)") == 1


def test_units_beyond_thirty_are_not_drawn() -> None:
    many = make_evidence(units=31, names=list(METHODS)[:2], architectures=("Unet", "PAN"))
    for draw in (figures.draw_overlaps, figures.draw_calibration, figures.draw_bias):
        figure = draw(many)
        assert figure is not None
        assert not dots(figure)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert not [label for label in labels if "one group" in label]


def test_table1_puts_the_paper_beside_resnet152(evidence) -> None:
    table = report_tables.table1(evidence).set_index("model")
    two = table[table["task"] == "semantic2"]
    assert len(two) == 39
    assert two.loc["UnetPlusPlus (resnet152)", "paper_iou_percent"] == 88.88
    assert table.loc[table["task"] == "semantic3", "paper_iou_percent"].isna().all()
    assert pd.isna(two.loc["Unet (vgg19)", "paper_iou_percent"])
    assert two["loss"].notna().all()
    assert "StarDist" in table.index


def test_chosen_by_validation_never_by_test() -> None:
    common = {"task": "semantic2", "architecture": "Unet", "encoder": "vgg19", "status": "done"}
    board = pd.DataFrame(
        [
            {**common, "trial_id": "a", "val_dataset_iou": 0.9, "test_dataset_iou": 0.1},
            {**common, "trial_id": "b", "val_dataset_iou": 0.8, "test_dataset_iou": 0.9},
        ]
    )
    assert report_tables.chosen_trials(board)["trial_id"].tolist() == ["a"]


def test_overlay_colours_each_kind_of_pixel() -> None:
    image = overlay(np.zeros((1, 4)), np.array([[1, 2, 0, 0]]), np.array([[3, 0, 4, 0]]))
    for pixel, colour in zip(image[0], (RIGHT, EXTRA, LOST, (0, 0, 0))):
        np.testing.assert_allclose(pixel, 0.8 * np.asarray(colour))
    assert pixel_iou(np.array([1, 1, 0]), np.array([0, 1, 1])) == pytest.approx(1 / 3)
    assert np.isnan(pixel_iou(np.zeros(3), np.zeros(3)))


def test_outlines_and_borders_tell_touching_cells_apart() -> None:
    labels = np.zeros((6, 8), np.int32)
    labels[1:5, 1:4], labels[1:5, 4:7] = 1, 2
    lines = outlines(labels)
    assert len(lines) == 2
    assert lines[0][:, 0].max() == 3.5
    assert lines[1][:, 0].min() == 3.5
    edge = border(labels)
    assert edge[2, 3]
    assert edge[2, 4]
    assert not edge[2, 2]
    assert not edge[labels == 0].any()


def test_densest_window() -> None:
    truth = np.zeros((40, 50), np.int32)
    truth[20:30, 30:40] = 1
    rows, columns = densest_window(truth, 10)
    assert (rows, columns) == (slice(20, 30), slice(30, 40))
    assert densest_window(truth, 100) == (slice(0, 40), slice(0, 50))


def test_viewer_cuts_large_pictures_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.figure_images.MOST_PIXELS", 200_000)
    truth = np.zeros((600, 700), np.int32)
    truth[300:500, 300:500] = 1
    picture = Picture("big", "test", np.zeros(truth.shape, np.float32), truth, {"a": truth})
    made, notes = viewer_pictures([picture, picture, picture, picture])
    assert [p["width"] <= 273 for p in made] == [True] * 3
    assert made[0]["cut"].startswith("256 × 256 pixels of 700 × 600, from row")
    assert ["first 3 of 4" in notes[0], "not scaled" in notes[1]] == [True, True]


def test_no_torch() -> None:
    code = (
        "import sys, analysis.report.figures, analysis.report.page;"
        "heavy = {'torch', 'ray', 'sweep', 'tensorflow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_letters() -> None:
    marks = report_tables.letters(pd.DataFrame({"method": [str(n) for n in range(28)]}))
    assert [marks[n] for n in ("0", "25", "26", "27")] == ["A", "Z", "AA", "AB"]
    assert len(METHODS) == 4
