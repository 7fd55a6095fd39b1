"""Each number of a report equals one that is computed by hand: methods, scores, errors, trials."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.analysis import by_hand, by_hand_methods
from tests.analysis.conftest import Page
from tests.analysis.planted_expected import GAP_NAME, NAMES, RECOMMENDED
from tests.analysis.planted_study import CALIBRATED, DEFAULT, GAP, PIXEL_UM, Planned
from tests.analysis.shown_page import Grid, Shown, rounded, said

SCORES = {
    r"^precision": "precision_50",
    r"^recall": "recall_50",
    r"^f1": "f1_50",
    **{rf"^ap {10 * tenths}": f"ap_{10 * tenths}" for tenths in by_hand.TENTHS},
    r"^ap mean": "ap_mean",
    r"^pq": "pq",
    r"^seg": "seg",
    r"^iou": "iou",
    r"^MASD \(µm\)": "masd",
    r"^HD95 \(µm\)": "hd95",
}
"""Headings of the table of all scores."""
RANKED = {
    r"^F1 .*test": "f1_50",
    r"^PQ.*test": "pq",
    r"^SEG.*test": "seg",
    r"^IoU.*test": "iou",
}


def ends(cell: Shown, low: float, high: float) -> bool:
    """Whether a cell shows the two ends of an interval."""
    found = re.findall(r"[+-]?\d+\.\d+", cell.text)
    return len(found) == 2 and rounded(found[0], low) and rounded(found[1], high)


def row_of(grid: Grid, pattern: str, text: str) -> dict[str, Shown]:
    """Give the one row with a text in a column, by heading."""
    rows = [row for row, cell in zip(grid.rows, grid.column(pattern)) if cell.text == text]
    assert len(rows) == 1, (text, len(rows))
    return dict(zip(grid.headings, rows[0]))


def at(row: dict[str, Shown], pattern: str) -> Shown:
    """Give the cell below the one heading that matches."""
    (name,) = (name for name in row if re.search(pattern, name))
    return row[name]


def test_methods_are_in_the_order_of_their_validation_scores(page: Page) -> None:
    grid, wanted = page.tables["ranking"], page.expected
    given = [f"{name} (labels given)" for name in page.study.others]
    assert [cell.text for cell in grid.column("^method")] == [*wanted.order, *given]
    marks = [cell.text for cell in grid.column("Fig")]
    assert marks == [*"ABCD", "", ""]
    standing = wanted.standing("val")
    for name in wanted.order:
        row = row_of(grid, "^method", name)
        assert at(row, "AP, validation").holds(float(standing[name].mean()))
        low, high = by_hand_methods.own_interval(name, standing)
        assert ends(at(row, "95 %"), max(0.0, low), min(1.0, high))
        assert at(row, "best").text == ("yes" if name in wanted.tied else "no")
    for name in given:
        row = row_of(grid, "^method", name)
        assert {at(row, p).text for p in ("AP, validation", "95 %", "best")} == {""}


def test_scores_of_the_ranking_are_those_of_the_test_images(page: Page) -> None:
    grid, wanted = page.tables["ranking"], page.expected
    standing = wanted.standing("test")
    columns = [tuple(cell.text for cell in grid.column(p)) for p in (*RANKED, "AP, test")]
    assert len(set(columns)) == len(columns), "no two columns can be confused"
    for name, trials in {**wanted.trials, **{other: [""] for other in page.study.others}}.items():
        shown = f"{name} (labels given)" if name in page.study.others else name
        row = row_of(grid, "^method", shown)
        own = [wanted.fractions(name, trial, "test", "calibrated") for trial in trials]
        pooled = [by_hand.scores(list(images.values())) for images in own]
        values = {
            p: float(np.mean([one[metric] for one in pooled])) for p, metric in RANKED.items()
        }
        values["AP, test"] = float(
            (standing[name] if name in standing else one_given(page, name)).mean()
        )
        for pattern, value in values.items():
            assert at(row, pattern).holds(value), (name, pattern, value)


def one_given(page: Page, name: str) -> NDArray[np.float64]:
    """Give the AP of given labels in each unit where a network shows some cell, or one is."""
    wanted = page.expected
    own = wanted.by_unit(wanted.fractions(name, "", "test", "calibrated"))
    trained = [
        wanted.by_unit(wanted.fractions(method, trial, "test", "calibrated"))
        for method, trials in wanted.trials.items()
        for trial in trials
    ]
    known = {unit for one in trained for unit, value in one.items() if not math.isnan(value)}
    return np.array([1.0 if math.isnan(v) else v for u, v in own.items() if u in known])


def test_all_scores(page: Page) -> None:
    grid, wanted = page.tables["scores"], page.expected
    keys = ("^method", "^trial", "^split", "^parameters")
    rows = dict(zip(grid.texts(*keys), grid.rows))
    planned: list[tuple[str, ...]] = []
    for name, trials in wanted.trials.items():
        for split in ("val", "test"):
            for parameters in ("calibrated",) if name == GAP_NAME else ("default", "calibrated"):
                planned += [(name, trial, split, parameters) for trial in trials]
    planned += [(name, "", "test", "calibrated") for name in page.study.others]
    assert sorted(rows) == sorted(planned)
    assert len(grid.rows) == len(planned)
    columns = [tuple(cell.sort for cell in grid.column(pattern)) for pattern in SCORES]
    assert len(set(columns)) == len(columns), "no two columns can be confused"
    for key in planned:
        name, trial, split, parameters = key
        images = list(wanted.fractions(name, trial, split, parameters).values())
        pooled, row = by_hand.scores(images), dict(zip(grid.headings, rows[key]))
        for pattern, metric in SCORES.items():
            scale = PIXEL_UM if metric in ("masd", "hd95") else 1.0
            assert at(row, pattern).holds(scale * pooled[metric]), (key, metric, pooled[metric])
        true = sum(image["recall_50"][1] for image in images)
        found = sum(image["precision_50"][1] for image in images)
        assert at(row, "^images").holds(len(images))
        assert at(row, "^true").holds(true)
        assert at(row, "^predicted").holds(found)


def test_errors_by_their_cause(page: Page) -> None:
    grid, wanted = page.tables["errors"], page.expected
    others = page.study.others
    assert [cell.text for cell in grid.column("^method")] == [*wanted.order, *others]
    for name in (*wanted.order, *others):
        counts = dict.fromkeys((*by_hand.SIDES, "found", "true", "predicted"), 0)
        for stem in page.study.split["test"]:
            true = page.study.true[stem]
            found = wanted.labels(name, wanted.shown.get(name, ""), stem, "calibrated")
            of_true, of_found = by_hand.causes(true, found)
            pairs = by_hand.paired(by_hand.overlap(true, found), 5)
            right = sum(of_true[i] == "boundary" for i, _ in pairs)
            for cause in by_hand.SIDES:
                counts[cause] += of_true.count(cause)
            counts["invented"] += of_found.count("invented")
            counts["boundary"] -= right
            counts["found"] += right
            counts["true"] += len(of_true)
            counts["predicted"] += len(of_found)
        row = row_of(grid, "^method", name)
        for heading, count in counts.items():
            assert at(row, f"^{heading}").holds(count), (name, heading, count)
        if name == RECOMMENDED:
            _said_of_errors(page, counts)


def _said_of_errors(page: Page, counts: dict[str, int]) -> None:
    found = said(
        page.text,
        r"Of (\d+) true cells it missed (\d+), merged (\d+) .* split (\d+); of the (\d+) cells "
        r"that it drew, (\d+)",
    )
    names = ("true", "missed", "merged", "split", "predicted", "invented")
    assert found == [str(counts[name]) for name in names]


def test_error_budgets(page: Page) -> None:
    """Means over units, of the seed that is shown."""
    if not page.figures:
        pytest.skip("this page was not drawn")
    wanted, drawn = page.expected, page.figures["budget"]
    found = [text for text in drawn if re.fullmatch(r"[+-−]?\d\.\d{3}", text)]
    assert len(found) == 6 * len(by_hand.SIDES) + 6
    aps = [text for text in found if text[0].isdigit()]
    gains = [text for text in found if not text[0].isdigit()]
    for place, name in enumerate((*wanted.order, *page.study.others)):
        units: dict[str, list[Any]] = {}
        for stem in page.study.split["test"]:
            labels = wanted.labels(name, wanted.shown.get(name, ""), stem, "calibrated")
            units.setdefault(wanted.unit_of(stem), []).append((page.study.true[stem], labels))
        each = [by_hand.budget(own) for own in units.values()]
        # in the unit without cells one network invents some
        nothing = {"ap": 1.0, "lost": [0.0] * 5, "gain": [0.0] * 5}
        each = [nothing if math.isnan(one["ap"]) else one for one in each]
        assert rounded(aps[place], float(np.mean([one["ap"] for one in each])))
        gain = np.mean([one["gain"] for one in each], axis=0)
        shown = gains[len(by_hand.SIDES) * place :][: len(by_hand.SIDES)]
        for text, value in zip(shown, gain.tolist()):
            assert rounded(text.replace("−", "-"), value), (name, shown, gain)
        for one in each:
            assert one["ap"] + sum(one["lost"]) == pytest.approx(1)


def test_what_the_answer_says_of_the_methods(page: Page) -> None:
    wanted, text = page.expected, page.text
    val, test = wanted.standing("val"), wanted.standing("test")
    first = wanted.order[0]
    assert first == RECOMMENDED
    assert text.startswith(first)
    low, high = by_hand_methods.own_interval(first, val)
    found = said(text.splitlines()[0], r"mean AP ([\d.]+), 95 % [a-z ]+ ([\d.]+) to ([\d.]+)\D")
    for number, value in zip(found, (val[first].mean(), low, high)):
        assert rounded(number, float(value))
    others = len(wanted.tied) - 1
    if others:
        assert said(text, r"; (\d+) of the (\d+) others") == [str(others), "3"]
    else:
        assert said(text, r"better than the (\d+) other") == ["3"]

    unit = wanted.unit
    groups = {wanted.unit_of(stem) for stem in page.study.split["val"]}
    true = sum(int(page.study.true[stem].max()) for stem in page.study.split["val"])
    measured = next(line for line in text.splitlines() if line.startswith("Measured on"))
    assert re.search(rf"\b{len(groups)} independent", measured)
    assert said(measured, r"\b(\d+) true cells") == [str(true)]
    ranges = said(measured, rf"from ([\d.]+) in the lowest {unit} to ([\d.]+) in the highest")
    each = val[first].mean(0)
    assert rounded(ranges[0], float(each.min()))
    assert rounded(ranges[1], float(each.max()))

    line = next(line for line in text.splitlines() if line.startswith("On the test images"))
    shown = [wanted.fractions(first, i, "test", "calibrated") for i in wanted.trials[first]]
    iou = np.mean([by_hand.scores(list(images.values()))["iou"] for images in shown])
    true = sum(int(page.study.true[stem].max()) for stem in page.study.split["test"])
    groups = {wanted.unit_of(stem) for stem in page.study.split["test"]}
    found = said(
        line,
        r"(\d+) independent .*?(\d+) true cells\): mean AP ([\d.]+) .*?([\d.]+) to ([\d.]+)\).*"
        r"IoU ([\d.]+\d)",
    )
    assert found[:2] == [str(len(groups)), str(true)]
    interval = by_hand.t_interval(test[first].mean(0))
    for number, value in zip(found[2:], (test[first].mean(), *interval, iou)):
        assert rounded(number, float(value)), (number, value)


def test_what_so_few_units_cannot_show(page: Page) -> None:
    """Of the methods that may be the best, or of those that are nearest to a single one."""
    wanted = page.expected
    standing = wanted.standing("val")
    means = [float(standing[name].mean()) for name in wanted.order]
    near = [
        name
        for name, mean in zip(wanted.order, means)
        if means[0] - mean <= 2 * (means[0] - means[1])
    ]
    methods = [standing[name] for name in (wanted.tied if len(wanted.tied) > 1 else near)]
    units = methods[0].shape[1]
    line = next(line for line in page.text.splitlines() if "lead below" in line)
    count, lead = said(line, r"(\d+) (?:group|image)s\b.* lead below ([\d.]+\d)")
    assert int(count) == units
    assert float(lead) == float(f"{by_hand_methods.smallest_lead(methods):.2g}")
    if "alone could not show" in line:
        assert by_hand_methods.smallest_lead(methods, 1000) > 0.02
        return
    shown, more = said(line, r"show [a-z ]+ of ([\d.]+), about (\d+) more")
    assert shown == "0.02"
    leads = [by_hand_methods.smallest_lead(methods, units + int(more) - n) for n in (0, 1)]
    assert leads[0] <= 0.02 < leads[1]


def test_how_far_the_second_method_is_behind(page: Page) -> None:
    wanted = page.expected
    standing = wanted.standing("val")
    one, other = (standing[name].mean(0) for name in wanted.order[:2])
    line = next(line for line in page.text.splitlines() if line.startswith("Second is"))
    assert f"Second is {wanted.order[1]}, " in line
    found = said(line, rf"by ([\d.]+) .*over (\d+) {wanted.unit}s: ([\d.-]+) to ([\d.-]+);")
    assert int(found.pop(1)) == len(one)
    assert rounded(found[0], float((one - other).mean()))
    # a scan in steps of a two-thousandth of the range, and three decimals
    tolerance = float(np.ptp(one - other)) / 2000 + 0.0005
    for number, value in zip(found[1:], by_hand.flipped_interval(one - other)):
        assert abs(float(number) - value) <= tolerance


def test_from_validation_to_test(page: Page) -> None:
    wanted = page.expected
    val, test = (float(wanted.standing(split)[RECOMMENDED].mean()) for split in ("val", "test"))
    line = next(line for line in page.text.splitlines() if line.startswith("On the test images"))
    word, by = said(line, r"test score is (lower|higher) .* by ([\d.]+\d)")
    assert word == ("lower" if test < val else "higher")
    assert rounded(by, abs(test - val))
    ends = (
        *by_hand_methods.own_interval(RECOMMENDED, wanted.standing("val")),
        *by_hand.t_interval(wanted.standing("test")[RECOMMENDED].mean(0)),
    )
    apart = ends[1] < ends[2] or ends[3] < ends[0]
    assert ("do not overlap" in line) == apart


def test_where_calibration_lowered_the_score(page: Page) -> None:
    """Pooled over the test images, of the seeds that are shown."""
    wanted, lowered = page.expected, {}
    for name in wanted.order:
        if name == GAP_NAME:
            continue
        before, after = (
            by_hand.scores(list(wanted.fractions(name, wanted.shown[name], "test", kind).values()))
            for kind in ("default", "calibrated")
        )
        change = after["ap_mean"] - before["ap_mean"]
        if change < -0.0005:
            lowered[name] = -change
    assert lowered
    assert len(lowered) < 3
    found = re.findall(r"(Table\w, \d-class) \(by ([\d.]+)\)", page.remarks)
    assert [name for name, _ in found] == list(lowered)
    assert all(rounded(number, lowered[name]) for name, number in found)


def test_how_many_networks_are_compared(page: Page) -> None:
    assert said(page.text, r"(\d+) methods on this page come from (\d+) of the (\d+) net") == [
        "4",
        "3",
        str(len(of_candidates(page))),
    ]


def test_table_of_methods(page: Page) -> None:
    grid, wanted = page.tables["methods"], page.expected
    val, test = wanted.standing("val"), wanted.standing("test")
    rows = dict(zip(grid.texts("^method", "^trial"), grid.rows))
    assert set(rows) == {(name, i) for name, ids in wanted.trials.items() for i in ids}
    for (name, trial_id), cells in rows.items():
        row = dict(zip(grid.headings, cells))
        assert at(row, "^representative").text == (
            "yes" if wanted.shown[name] == trial_id else "no"
        )
        assert at(row, "^seed").text == str(page.study.trials[trial_id].config.seed)
        each, low_high = val[name].mean(0), by_hand_methods.own_interval(name, val)
        assert at(row, "AP, validation").holds(float(val[name].mean()))
        assert at(row, "interval, from").holds(max(0.0, low_high[0]))
        assert at(row, "^to$").holds(min(1.0, low_high[1]))
        assert at(row, "lowest").holds(float(each.min()))
        assert at(row, "highest").holds(float(each.max()))
        assert at(row, "units").holds(len(each))
        low, high = by_hand.t_interval(test[name].mean(0))
        assert at(row, "measured low").holds(low)
        assert at(row, "measured high").holds(high)
        default, calibrated = (json.loads(at(row, p).text) for p in ("^default", "^calibrated"))
        assert default["threshold"] == DEFAULT
        assert calibrated["threshold"] == (GAP if name == GAP_NAME else CALIBRATED)


def test_parameters_before_and_after_calibration(page: Page) -> None:
    if "parameters" not in page.tables:
        pytest.skip("this page was not drawn")
    for name, parameter, text in page.tables["parameters"].texts("^method", "^param", "^default"):
        if parameter == "threshold":
            after = GAP if name == GAP_NAME else CALIBRATED
            assert text.startswith(f"{DEFAULT} → {after};")
            assert said(text, r"from ([\d.]+) to ([\d.]+)") == ["0.011", "0.987"]


def of_candidates(page: Page) -> dict[str, list[tuple[str, Planned]]]:
    """Give the trials of each candidate."""
    found: dict[str, list[tuple[str, Planned]]] = {}
    for trial_id, one in page.study.trials.items():
        found.setdefault(one.config.candidate_key(), []).append((trial_id, one))
    return found


def iou_of_groups(page: Page, trial_id: str) -> list[float]:
    """Give the IoU of each validation group; 1 where there is nothing."""
    table = page.study.per_image
    own = table[(table["trial_id"] == trial_id) & (table["split"] == "val")]
    sums = own.groupby("group")[["intersection", "union"]].sum()
    return [a / b if b else 1.0 for a, b in sums.to_numpy(float).tolist()]


def test_candidates(page: Page) -> None:
    grid, groups = page.tables["candidates"], of_candidates(page)
    methods: dict[str, NDArray[np.float64]] = {
        key: np.array([iou_of_groups(page, trial_id) for trial_id, _ in own])
        for key, own in groups.items()
    }
    p = by_hand_methods.leaving(methods, draws=2000)
    board = page.study.board.set_index("trial_id")
    assert len(grid.rows) == len(groups)
    for key, own in groups.items():
        row = row_of(grid, "^candidate", key)
        ids = [trial_id for trial_id, _ in own]
        assert at(row, "^seeds").holds(len(ids))
        for split in ("val", "test"):
            for kind in ("dataset", "image"):
                values = board.loc[ids, f"{split}_{kind}_iou"].astype(float)
                assert at(row, f"^{split} {kind} iou mean").holds(values.mean())
                if len(ids) > 1:
                    assert at(row, f"^{split} {kind} iou sd").holds(values.std(ddof=1))
        low, high = by_hand_methods.own_interval(key, methods)
        assert at(row, "^IoU, validation").holds(float(methods[key].mean()))
        assert at(row, "interval, from").holds(low)
        assert at(row, "^to$").holds(high)
        assert at(row, "best").text == ("yes" if p[key] > 0.05 else "no")
    tied = sum(one > 0.05 for one in p.values())
    line = next(line for line in page.text.splitlines() if "pixels alone" in line)
    assert said(line, r"analyses (\d+) methods") == ["4"]
    assert said(line, r"(\d+) of (\d+) trained") == [str(tied), str(len(groups))]


PAPER = {"Unet": (67.2, "21:41", 0.0165, 87.21), "PAN": (58.9, "16:46", 0.0581, 80.35)}


def test_table_1(page: Page) -> None:
    """One row per task and network: the trial that is best on validation, and the paper's row."""
    grid, board = page.tables["table1"], page.study.board
    best = board.sort_values("val_dataset_iou", ascending=False).drop_duplicates(
        ["task", "architecture", "encoder"]
    )
    assert len(best) < len(board)
    assert len(grid.rows) == len(best)
    history = page.study.history.set_index(["trial_id", "epoch"])["train_loss"]
    for row, cells in zip(best.to_dict("records"), grid.rows):
        shown = dict(zip(grid.headings, cells))
        network = {"Unet": "U-Net"}.get(row["architecture"], row["architecture"])
        assert at(shown, "^model").text.startswith(network)
        assert at(shown, "^model").text.endswith("3" * (row["task"] == "semantic3") + "-class") or (
            at(shown, "^model").text.endswith("2-class")
        )
        assert at(shown, "^seed").text == str(row["seed"])
        assert at(shown, r"^parameters \(m").holds(round(row["parameters_m"], 1))
        whole = round(row["train_seconds"])
        assert at(shown, "^training time").text == f"{whole // 60:02d}:{whole % 60:02d}"
        assert at(shown, "^training time").sort == str(whole)
        loss = float(history[row["trial_id"], row["best_epoch"]])
        assert at(shown, "^loss").holds(round(loss, 4))
        assert at(shown, "^test data-set IoU").holds(round(100 * row["test_dataset_iou"], 2))
        same = row["encoder"] == "resnet152" and row["task"] == "semantic2"
        paper = PAPER[row["architecture"]] if same else None
        for place, pattern in enumerate(("parameters", "time", "loss", "IoU")):
            cell = at(shown, f"^paper: {pattern}")
            if paper is None or isinstance(paper[place], str):
                assert cell.text == (paper[place] if paper else "")
            else:
                assert cell.holds(float(paper[place]))


def test_leaderboard(page: Page) -> None:
    grid, board = page.tables["leaderboard"], page.study.board.set_index("trial_id")
    assert [cell.text for cell in grid.column("^trial")] == board.index.tolist()
    names = ["parameters_m", "train_seconds", "best_epoch", "peak_memory_mb"]
    names += [f"{split}_{kind}_iou" for split in ("val", "test") for kind in ("dataset", "image")]
    for name in names:
        pattern = "^parameters" if name == "parameters_m" else f"^{name.replace('_', ' ')}$"
        for cell, value in zip(grid.column(pattern), board[name].astype(float)):
            assert cell.holds(value), name


def test_names_differ(page: Page) -> None:
    """What is planted can tell methods, splits and parameters apart."""
    wanted = page.expected
    by_iou = sorted(NAMES.values(), key=lambda n: -page.study.trials[wanted.shown[n]].val_iou)
    assert by_iou != [name for name in wanted.order if name in NAMES.values()]
    table = pd.DataFrame(
        {
            (name, split): one.mean(1)[:1]
            for split in ("val", "test")
            for name, one in wanted.standing(split).items()
        }
    )
    assert table.round(3).T[0].is_unique
