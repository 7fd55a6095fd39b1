"""Figures: all that the evidence allows, nothing that it does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.evidence import TRUTH, Crop, Evidence
from analysis.report import tables as report_tables
from analysis.report.figures import (
    FIGURES,
    bias,
    calibration,
    dataset_iou,
    estimation,
    features,
    figures_of,
    losses,
    make_figures,
    networks,
    overlaps,
)
from analysis.report.figures.pixels import (
    border,
    outlines,
    pixel_iou,
)
from analysis.report.figures.style import STYLE, TWO_COLUMNS, look
from analysis.report.table1 import chosen_trials, table1
from tests.analysis.evidence_data import METHODS, empty, make_evidence

NAMES = list(METHODS)
ONE: dict[str, Any] = {"names": ["PAN vgg19, 2-class + watershed"], "architectures": ("Unet",)}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence()


def test_everything_is_drawn_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_evidence(**ONE, encoders=("resnet152",))
    written = make_figures(one, tmp_path)
    assert [*written] == [*figures_of(one)]
    assert len(written) == 12
    for name, figure in written.items():
        assert figure.path == tmp_path / f"{name}.svg"
        assert figure.path.stat().st_size > 100
        assert figure.path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "Date" not in written["bias"].path.read_text()
    monkeypatch.setattr("analysis.report.figures.FIGURES", {"bias": FIGURES["bias"]})
    again = make_figures(one, tmp_path / "again")
    assert again["bias"].path.read_bytes() == written["bias"].path.read_bytes()


def test_names_with_dollar_signs_are_not_formulas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = r"tile $\frac{$ 1"
    monkeypatch.setitem(METHODS, name, METHODS[ONE["names"][0]])
    one = make_evidence(names=[name], architectures=("Unet",), encoders=("resnet152",))
    assert len(make_figures(one, tmp_path)) == 12


def test_without_anything_analysed_only_training_is_drawn(
    evidence: Evidence, tmp_path: Path
) -> None:
    assert set(make_figures(empty(evidence), tmp_path)) == {"figure7_dataset_iou"}
    nothing = replace(empty(evidence), leaderboard=evidence.leaderboard.iloc[:0])
    assert make_figures(nothing, tmp_path / "b") == {}


def test_print_size_and_letters(evidence: Evidence) -> None:
    for name, kind in figures_of(evidence).items():
        shown = kind.compute(evidence)
        assert shown is not None, name
        style: Any = STYLE
        with matplotlib.rc_context(style):
            figure = kind.draw(shown)
            figure.draw_without_rendering()
        check_print(figure)


def check_print(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    assert width <= TWO_COLUMNS + 0.01
    assert height <= 9.7, "longer than a page"
    for text in figure.findobj(Text):
        assert not text.get_text() or float(text.get_fontsize()) >= 7


def test_a_task_of_ones_own_has_figures_too(evidence: Evidence) -> None:
    board = evidence.leaderboard
    own = replace(evidence, leaderboard=board.replace({"task": {"semantic3": "centres"}}))
    names = [name for name in figures_of(own) if name.startswith("figure8")]
    assert names == [f"figure8_networks_{task}" for task in ("semantic2", "stardist", "centres")]
    kind = figures_of(own)[names[-1]]
    assert kind.title == "One crop through every network, centres (Figure 8)"
    shown = kind.compute(own)
    assert shown is not None
    assert len(shown.networks) == 3
    trained, ranked = losses.compute_training(own), dataset_iou.compute(own)
    assert trained is not None
    assert ranked is not None
    assert [row.panels[0].title for row in trained.rows][-1] == "centres, ResNet-152"
    assert ranked.maps[-1].title == "centres"


def test_every_line_of_many_seeds_is_drawn() -> None:
    evidence = make_evidence(seeds=2, encoders=("vgg19", "resnet152", "own_net"))
    shown = losses.compute_training(evidence)
    assert shown is not None
    lines = sum(len(ax.lines) for ax in losses.draw(shown).axes)
    assert lines == evidence.history["trial_id"].nunique() == 8 * 3 * 2 - 1 + 4
    assert f"({lines} trials)" in losses.caption(shown)
    for panel in shown.rows[0].panels:
        first = [line.network for line in panel.lines if not line.again]
        again = [line.network for line in panel.lines if line.again]
        assert sorted(first) == list(range(8)), "all networks in one panel"
        assert set(again) <= set(first)
    assert [panel.title for panel in shown.rows[0].panels] == [
        "2-class, ResNet-152", "2-class, VGG19", "2-class, own_net",
    ]  # fmt: skip


def test_networks_have_the_names_that_methods_have(evidence: Evidence) -> None:
    """As a leaderboard has it, the encoder of stardist's own model is 'none'."""
    assert "none" in set(evidence.leaderboard["encoder"])
    trained, ranked = losses.compute_training(evidence), dataset_iou.compute(evidence)
    crossed = networks.compute(evidence, task="semantic2")
    assert trained is not None
    assert ranked is not None
    assert crossed is not None
    assert trained.networks[-2:] == ["PAN", "StarDist"]
    assert ranked.maps[0].rows[:2] == crossed.architectures[:2] == trained.networks[:2]
    assert trained.networks[:2] == ["U-Net", "U-Net++"]
    assert ranked.maps[0].columns == crossed.encoders
    assert [(m.title, m.columns) for m in ranked.maps[1:]] == [
        ("3-class", ["ResNet-152"]),
        ("star-convex", ["own encoder"]),
    ]
    (board,) = (t for t in report_tables.make_tables(evidence) if t.name == "leaderboard")
    names = {row[1].text for row in board.rows}
    assert {"U-Net++, ResNeSt-269, 2-class", "U-Net, ResNet-152, 3-class", "StarDist"} <= names


def test_no_two_of_sixteen_networks_look_alike() -> None:
    networks_drawn = [f"net{n}" for n in range(16)]
    looks = [look(n) for n in range(16)]
    for first, second in combinations(looks, 2):
        if first.colour == second.colour:
            assert first.dash != second.dash
            assert first.marker != second.marker
            assert second.every, "the marker is drawn on lines"
    lines = [losses.Line(n, False, np.arange(1.0, 61), np.full(60, n + 1.0)) for n in range(16)]
    shown = losses.Losses(
        "Loss", networks_drawn, [losses.Row([losses.Panel("a", lines)], False)], 16
    )
    figure = losses.draw(shown)
    for drawn in (figure.axes[0].lines, figure.legends[0].get_lines()):
        seen = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in drawn}
        assert len(seen) == 16
        for line, one in zip(drawn, looks):
            assert line.get_color() == one.colour
            assert line.get_marker() == (one.marker if one.every else "None")
    spaced = {int(line.get_markevery()) for line in figure.axes[0].lines}  # type: ignore[arg-type]
    assert spaced == {7}, "eight markers or nine"


def test_given_labels_are_no_other_seeds_and_look_different(evidence: Evidence) -> None:
    once = evidence.scores[
        evidence.scores["trial_id"].isin(
            evidence.methods.loc[evidence.methods["representative"], "trial_id"]
        )
    ]
    own = once[once["method"] == NAMES[0]]
    parts = [own.assign(method=name, trial_id="") for name in ("second person", "Otsu")]
    given = replace(evidence, scores=pd.concat([once, *parts]), given=["second person", "Otsu"])
    found = calibration.compute(given)
    assert found is not None
    assert not found.other_seeds
    shown = overlaps.compute(given)
    assert shown is not None
    figure = overlaps.draw(shown)
    lines = [line for line in figure.axes[0].lines if line.get_gid() != "units"]
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == len(lines) == 6


def test_caption_counts_the_lines_that_are_drawn(evidence: Evidence) -> None:
    one = evidence.history["trial_id"].iloc[0]
    history = evidence.history.copy()
    history.loc[history["trial_id"] == one, "val_loss"] = np.nan
    trained, validated = (
        compute(replace(evidence, history=history))
        for compute in (losses.compute_training, losses.compute_validation)
    )
    assert trained is not None
    assert validated is not None
    assert validated.trials == trained.trials - 1
    lines = [line for row in validated.rows for panel in row.panels for line in panel.lines]
    assert f"({len(lines)} trials)" in losses.caption_validation(validated)


def test_many_epochs_are_medians_of_neighbours() -> None:
    history = pd.DataFrame({"trial_id": "a", "epoch": np.arange(1, 301), "train_loss": 1.0})
    history.loc[4, "train_loss"] = 7.0  # one of three neighbours
    fields = {"task": "semantic2", "architecture": "Unet", "encoder": "vgg19"}
    board = pd.DataFrame([{"trial_id": "a", **fields}])
    shown = losses.compute_training(replace(make_evidence(), history=history, leaderboard=board))
    assert shown is not None
    (line,) = shown.rows[0].panels[0].lines
    np.testing.assert_array_equal(line.epochs, np.arange(2, 300, 3))
    np.testing.assert_array_equal(line.values, 1.0)
    assert not shown.rows[0].logarithmic


def test_heat_map_names_what_is_missing(evidence: Evidence) -> None:
    shown = dataset_iou.compute(evidence)
    assert shown is not None
    figure = dataset_iou.draw(shown)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert texts.count("failed") == 1
    assert sum(len(ax.texts) for ax in figure.axes) == 9 * (5 + 1 + 1)
    assert "43 finished trials" in dataset_iou.caption(shown)
    two, three, star = shown.maps
    assert two.percent[two.best].tolist() == [np.nanmax(two.percent)]
    assert (two.best.sum(), three.best.sum(), star.best.sum()) == (1, 1, 0)
    assert "Framed: the highest value of a task that has several." in dataset_iou.caption(shown)
    waiting = evidence.leaderboard.assign(test_dataset_iou=np.nan)
    assert dataset_iou.compute(replace(evidence, leaderboard=waiting)) is None


def test_boxes_say_how_many_lie_beyond_the_axis(evidence: Evidence) -> None:
    shown = features.compute(evidence)
    assert shown is not None
    ax = features.draw(shown).axes[0]
    area = evidence.cells["area_um2"]
    low, high = ax.get_xlim()
    beyond = int(((area < low) | (area > high)).sum())
    assert beyond > 0
    assert ax.get_title(loc="right") == f"{beyond} of {len(area):,} beyond the axis"
    assert ax.get_xlabel() == "Area (µm²)"
    assert "pixel size is not known" not in features.caption(shown)
    pixels = features.compute(make_evidence(pixel=None))
    assert pixels is not None
    assert features.draw(pixels).axes[0].get_xlabel() == "Area (px²)"
    unknown = "The pixel size is not known, so sizes are in pixels."
    assert features.caption(pixels).endswith(unknown)


def test_boxes_are_quartiles_of_cells(evidence: Evidence) -> None:
    shown = features.compute(evidence)
    assert shown is not None
    radius = shown.panels[4]
    assert shown.means == "", "means of units are in the estimation plots"
    assert radius is not None
    truth = evidence.cells[evidence.cells["method"] == TRUTH]
    values = truth["radius_um"]
    box = radius.boxes[0]
    assert [box["q1"], box["med"], box["q3"]] == [values.quantile(q) for q in (0.25, 0.5, 0.75)]
    assert radius.median == box["med"]
    assert shown.counts == [8 * 49] * 5


@pytest.mark.parametrize(
    ("unit", "counted", "each"),
    [
        ("group", "8 independent groups", True),
        ("image", "8 independent images", True),
        ("track", "392 independent tracks", False),
    ],
)
def test_captions_name_the_unit_that_was_used(
    unit: str, counted: str, each: bool, evidence: Evidence
) -> None:
    """Of 8 groups of one image with 50 tracks each, which are numbered from 1 in every group."""
    one = replace(evidence, settings=evidence.settings | {"unit": unit})
    shown, biases = features.compute(one), bias.compute(one)
    differences = estimation.compute_methods(one)
    assert shown is not None
    assert differences is not None
    assert biases is not None
    said = features.caption(shown)
    assert f"with cells, {counted}," in said
    assert f"with cells, {counted}." in bias.caption(biases)
    assert "White diamonds" not in said
    said = estimation.caption(differences)
    assert f"with cells, {counted}." in said
    assert (f"larger dots the mean of each {unit};" in said) == each
    assert f"Vertical bars: the mean over {unit}s" in said
    captions = {table.name: table.caption for table in report_tables.make_tables(one)}
    assert f"Over units: the difference between the means of {unit}s" in captions["statistics"]
    assert f"the means of independent {unit}s" in captions["features"]
    assert f"Units are {unit}s." in captions["agreement"]


def test_features_without_values_are_left_out(evidence: Evidence) -> None:
    without = evidence.cells.assign(solidity=np.nan)
    shown = features.compute(replace(evidence, objects=without))
    assert shown is not None
    assert shown.panels.count(None) == 1
    assert sum(ax.get_visible() for ax in features.draw(shown).axes) == 5


@pytest.mark.parametrize("task", ["semantic2", "semantic3", "stardist"])
def test_every_network_is_drawn_or_a_dash(evidence: Evidence, task: str) -> None:
    crop = evidence.crop
    assert crop is not None
    part = {name: probability[:64, :96] for name, probability in crop.probabilities.items()}
    crop = Crop(crop.image, (32, 64), crop.pixels[:64, :96], crop.truth[:64, :96], part)
    shown = networks.compute(replace(evidence, crop=crop), task=task)
    assert shown is not None
    board = evidence.leaderboard[evidence.leaderboard["task"] == task]
    done = board.loc[board["status"] == "done", "trial_id"]
    assert len(shown.networks) == len(done)
    cells = len(shown.architectures) * len(shown.encoders)
    figure = networks.draw(shown)
    assert len(figure.axes) == 2 + cells
    assert len([t for t in figure.findobj(Text) if t.get_text() == "–"]) == cells - len(done)
    assert sum(len(ax.images) for ax in figure.axes) == 2 + len(done)
    assert "96 × 64 pixels from row 32, column 64" in networks.caption(shown)


def test_names_of_encoders_lie_apart_and_the_key_beside_the_image(evidence: Evidence) -> None:
    shown = networks.compute(evidence, task="semantic2")
    assert shown is not None
    style: Any = STYLE
    with matplotlib.rc_context(style):
        figure = networks.draw(shown)
        figure.draw_without_rendering()
        boxes = [ax.title.get_window_extent() for ax in figure.axes[2:7]]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        key = figure.legends[0].get_window_extent()
        assert not any(key.overlaps(ax.get_window_extent()) for ax in figure.axes)
        assert not any(key.overlaps(box) for box in boxes)
        assert figure.bbox.x0 <= key.x0 <= key.x1 <= figure.bbox.x1
    assert "Dash: no finished trial." in networks.caption(shown)


def test_networks_of_few_combinations_are_listed(evidence: Evidence) -> None:
    """Of StarDist's own model and a head on a U-Net, half of a table would be empty."""
    shown = networks.compute(evidence, task="stardist")
    assert shown is not None
    (network,) = shown.networks.values()
    both = {("U-Net", "ResNet-18"): network, ("StarDist", "own encoder"): network}
    two = shown._replace(
        architectures=["U-Net", "StarDist"], encoders=["own encoder", "ResNet-18"], networks=both
    )
    titles = [ax.get_title() for ax in networks.draw(two).axes]
    assert titles == ["Image", "Ground truth", "U-Net, ResNet-18", "StarDist"]
    assert "Dash" not in networks.caption(two)


def test_half_lines_go_round_what_is_probable(evidence: Evidence) -> None:
    """Of a square of probability 1: halfway between its pixels and those around it."""
    board = evidence.leaderboard
    trial = board.loc[(board["task"] == "stardist"), "trial_id"].iloc[0]
    probability = np.zeros((20, 30), np.float32)
    probability[4:9, 12:20] = 1
    truth = np.zeros((20, 30), np.int32)
    crop = Crop("t000", (0, 0), probability, truth, {trial: probability})
    shown = networks.compute(replace(evidence, crop=crop), task="stardist")
    assert shown is not None
    (network,) = shown.networks.values()
    (line,) = network.half
    assert (line.min(axis=0).tolist(), line.max(axis=0).tolist()) == ([11.5, 3.5], [19.5, 8.5])
    assert shown.truth == []


def dots(figure: Figure) -> list[float]:
    """Give where the small dots, one per unit, lie along the axis of values."""
    lines = [line for ax in figure.axes for line in ax.lines if line.get_gid() == "units"]
    return [float(v) for line in lines for v in np.asarray(line.get_xydata()).ravel()]


def test_every_unit_is_a_dot_and_nothing_is_drawn_as_an_interval(evidence: Evidence) -> None:
    for kind, count in zip((overlaps, calibration, bias), (5 * 4, 2 * 4, 6 * 4)):
        figure = kind.draw(kind.compute(evidence))
        assert len(dots(figure)) == 2 * 8 * count
        assert not [c for ax in figure.axes for c in ax.collections]
        small = [line for ax in figure.axes for line in ax.lines if line.get_gid() == "units"]
        assert {line.get_linestyle() for line in small} == {"None"}
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels.count("one group (of 8 independent groups)") == 1


def test_units_beyond_thirty_are_not_drawn() -> None:
    many = make_evidence(units=31, names=NAMES[:2], architectures=("Unet", "PAN"))
    for kind in (overlaps, calibration, bias):
        figure = kind.draw(kind.compute(many))
        assert not dots(figure)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert not [label for label in labels if "one group" in label]


def test_without_units_of_the_reported_images_no_dots_are_drawn(evidence: Evidence) -> None:
    validation = evidence.units.assign(split="val")
    for kind in (overlaps, calibration, bias):
        shown = kind.compute(replace(evidence, units=validation))
        assert shown.dots == ""
        assert not dots(kind.draw(shown))


def test_table1_puts_the_paper_beside_resnet152(evidence: Evidence) -> None:
    table = table1(evidence).set_index("model")
    two = table[table["task"] == "semantic2"]
    assert len(two) == 39
    assert two.loc["U-Net++, ResNet-152, 2-class", "paper_iou_percent"] == 88.88
    assert table.loc[table["task"] == "semantic3", "paper_iou_percent"].isna().all()
    assert two["paper_iou_percent"].isna()["U-Net, VGG19, 2-class"]
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
    assert chosen_trials(board)["trial_id"].tolist() == ["a"]


def test_iou_of_foregrounds() -> None:
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
