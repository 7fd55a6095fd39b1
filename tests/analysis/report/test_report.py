"""The page: what it says, and that it works in a browser without a network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import TRUTH, Evidence
from analysis.report.answer import answer
from analysis.report.page import embedded, parameters, write_report
from analysis.report.tables import make_table, make_tables, number
from tests.analysis.browsing import opened
from tests.analysis.evidence_data import METHODS, empty, make_evidence
from tests.analysis.page_text import claims, drawn, visible

NAMES = list(METHODS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "UnetPlusPlus", "MAnet", "FPN", "PAN"))


@pytest.fixture(scope="module")
def page(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(evidence, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def bare(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(empty(evidence), tmp_path_factory.mktemp("bare"))


def test_page_is_one_small_file(page: Path) -> None:
    text = page.read_text()
    assert page.name == "index.html"
    assert len(text) < 5e6
    addresses = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert {a.split(":")[0] for a in addresses if ":" in a} == {"data"}
    assert not re.search(r"url\(|@import|https?://", text.split("<body>")[0])


def test_text_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    json_of = embedded({"name": "</script><!-- & '\""})
    assert "<" not in json_of
    assert json.loads(json_of) == {"name": "</script><!-- & '\""}


def test_all_is_said(page: Path, evidence: Evidence) -> None:
    text = page.read_text()
    for part in (
        evidence.missing[0],
        "ab12" * 16,
        "0123456789abcdef",
        "python -m analysis.run runs/paper --top 4",
        "python -m sweep.run paper",
        "scikit-image 0.26.0",
        "0.5 → 0.42",
        "connected components are taken as cells",
    ):
        assert part in text
    for command in evidence.methods["command"]:
        assert command in text


def test_answer_says_who_scores_highest_by_how_much_and_from_how_many(evidence: Evidence) -> None:
    said = answer(evidence)
    low, high = evidence.methods.loc[0, ["val_low", "val_high"]]
    assert said.headline == (
        f"{NAMES[0]} scores highest of the 4 methods on this page (mean AP 0.740, 95 % confidence "
        f"interval {low:.3f} to {high:.3f}, on validation); 1 of the 3 others is statistically "
        "tied with it."
    )
    compared, recommended, second, power, seeds = said.sentences
    done = evidence.leaderboard[evidence.leaderboard["status"] == "done"]
    trained = len(done[["task", "architecture", "encoder"]].drop_duplicates())
    assert compared.endswith(
        f"The 4 methods on this page come from 4 of the {trained} networks that were trained; the "
        "others are not compared."
    )
    assert second.startswith(f"Second is {NAMES[1]}, with a mean AP lower by 0.010 (95 %")
    measured, test, features, became, tests, populations, survives = said.details
    assert survives.startswith("Conclusions about populations, from the cells of")
    assert recommended == (
        f"Recommended: {NAMES[0]}. Of methods that are tied, the page takes the one with the "
        "highest mean AP; the data cannot tell whether it is better than "
        f"{NAMES[1]}."
    )
    assert re.search(r"With 8 groups, a lead below 0\.0\d+ in mean AP is often missed", power)
    assert "fewer than 3 times" in seeds
    assert measured == (
        "Measured on validation images of 8 independent groups (16 images, 420 true cells): the "
        f"mean AP of {NAMES[0]} ranges from 0.706 in the lowest group to 0.778 in the highest."
    )
    assert "test images, not used for training, tuning or selection" in test
    assert "(8 independent groups, 16 images, 420 true cells)" in test
    low, high = evidence.methods.loc[0, ["measured_low", "measured_high"]]
    interval = f"(95 % confidence interval {low:.3f} to {high:.3f})"
    assert f"mean AP 0.738 {interval}, IoU 0.878" in test  # over two trainings
    assert features.startswith(f"Means over all cells of {NAMES[0]}, compared with")
    assert (
        "Only on the 380 cells that all methods found, without those at borders of images: area "
        "-1.0 %, perimeter" in features
    )
    assert became == (
        "Of 400 true cells it missed 0, merged 32 with others and split 8; of the 400 cells that "
        "it drew, 8 do not exist."
    )
    assert tests.startswith(
        f"{NAMES[0]} against the ground truth: equivalent in area, perimeter and "
        "circularity; undecided in solidity (about "
    )
    assert re.search(
        r"large against small: different in area \([-+.0-9]+ %\) and perimeter \(.* %\); undecided",
        populations,
    )


def test_estimation_plots_stand_above_their_tables(page: Path) -> None:
    text = page.read_text()
    order = ["estimation_methods", "features-caption", "estimation_populations"]
    order += ["populations-caption", "conclusions-caption", "figures", "figure9_features"]
    places = [text.index(f'id="{name}"') for name in order]
    assert places == sorted(places)
    assert text.count('id="estimation_methods"') == 1


def test_the_page_says_how_to_use_every_method(page: Path, evidence: Evidence) -> None:
    text = visible(page)
    methods = evidence.methods[evidence.methods["representative"]]
    assert f"with {NAMES[0]}:" in text
    assert "-m analysis.segment --model runs/paper IMAGES --out CELLS" in text
    for trial_id in methods["trial_id"][1:]:
        command = f"--model runs/paper/checkpoints/{trial_id} IMAGES --out CELLS"
        assert command in text


def test_answer_of_a_clear_winner_of_none_and_of_too_few(evidence: Evidence) -> None:
    methods = evidence.methods
    clear = answer(replace(evidence, methods=methods.assign(tied=methods["method"] == NAMES[0])))
    assert clear.headline.startswith(
        f"{NAMES[0]} is better than the 3 other methods on this page: mean AP"
    )
    assert not any("Recommended" in sentence for sentence in clear.sentences)
    equal = answer(replace(evidence, methods=methods.assign(tied=True)))
    assert equal.headline.endswith("all 3 others are statistically tied with it.")
    assert f"better than {NAMES[1]}; {NAMES[2]}; or {NAMES[3]}." in equal.sentences[1]
    unknown = answer(replace(evidence, methods=methods.assign(val_score=np.nan)))
    assert unknown.headline == "4 methods were analysed; none has a validation score."
    few = make_evidence(units=5, architectures=("Unet", "PAN"), encoders=("resnet152",))
    said = answer(few)
    assert said.headline == (
        f"{NAMES[0]} scores highest of the 4 methods on this page: mean AP 0.740, on validation."
    )
    assert (
        "Validation images of 5 independent groups with cells cannot show which methods are "
        "better: at least 6 independent groups are needed."
    ) in said.sentences


def test_contradicting_validation_and_test_scores_come_first(evidence: Evidence) -> None:
    assert not any("disagree" in sentence for sentence in answer(evidence).sentences)
    methods = evidence.methods.copy()
    third = methods["method"] == NAMES[2]
    methods.loc[third, ["measured_low", "measured_high"]] = 0.9, 0.95
    first = answer(replace(evidence, methods=methods)).sentences[0]
    assert first.startswith("Validation and test disagree")
    assert f"{NAMES[2]} (" in first
    assert "against 0.900 to 0.950" in first
    assert NAMES[0] not in first


def test_several_trainings_speak_of_architectures(evidence: Evidence) -> None:
    standing = evidence.standing
    once = standing[standing["seed"] == 0]
    said = answer(replace(evidence, standing=once)).sentences
    assert any("trained once" in s and "--seeds 3" in s for s in said)
    thrice = pd.concat([once.assign(seed=n, score=once["score"] + 0.001 * n) for n in range(3)])
    said = answer(replace(evidence, standing=thrice)).sentences
    assert not any("trained once" in s or "trained fewer than" in s for s in said)


def test_the_page_says_how_its_methods_were_chosen(evidence: Evidence) -> None:
    board = evidence.candidates.assign(iou_mean=0.9, iou_low=0.88, iou_high=0.92, tied=False)
    board.loc[:2, "tied"] = True
    said = answer(replace(evidence, candidates=board)).details
    assert any(f"3 of {len(board)} trained candidates are statistically tied" in s for s in said)


def test_units_may_be_single_images(evidence: Evidence) -> None:
    said = answer(replace(evidence, settings=evidence.settings | {"unit": "image"}))
    assert "Measured on 8 independent validation images (420 true cells)" in said.details[0]
    assert "in the lowest image" in said.details[0]


@pytest.mark.parametrize("units", [1, 6, 12])
def test_page_claims_nothing_that_it_cannot_hold(units: int, tmp_path: Path) -> None:
    few = make_evidence(units=units, architectures=("Unet", "PAN"), encoders=("resnet152",))
    page = write_report(few, tmp_path)
    text, figures = visible(page), drawn(page)
    assert claims(text) == []
    untested = f"cannot be tested: {units} independent group"
    assert text.count(untested) == (units < 6)
    assert ("against the ground truth: " in text) == (units >= 6)
    assert len(figures) >= 10
    for name, texts in figures.items():
        assert claims(" ".join(texts)) == [], name
    counted = "1 independent group" if units == 1 else f"{units} independent groups"
    assert f"Measured on validation images of {counted} ({2 * units} image" in text
    in_figures = {"calibration", "overlaps", "bias"}
    for name in in_figures:
        caption = re.search(
            rf'id="{name}".*?<figcaption>(.*?)</figcaption>', page.read_text(), re.S
        )
        assert caption is not None
        assert counted in re.sub("<[^>]*>", "", caption.group(1))
        assert any("one group" in words for words in figures[name])
    assert "Bias (% of the ground truth's mean)" in figures["bias"]


def test_feature_tables_by_hand(evidence: Evidence) -> None:
    """Every number of the tables of features is in statistics.csv, and verdicts are of families."""
    tables = {table.name: table for table in make_tables(evidence)}
    statistics = evidence.statistics
    features = tables["features"]
    titles = [title for title, _ in features.headings]
    texts = {(row[0].text, row[1].text): [c.text for c in row] for row in features.rows}
    own = statistics[(statistics["comparison"] == "methods") & (statistics["b"] == TRUTH)]
    assert len(texts) == len(own) == 4 * 6
    for row in own.to_dict("records"):
        shown = dict(zip(titles, texts[row["a"], row["feature"].replace("_", " ")]))
        assert shown["all cells (%)"] == f"{100 * row['difference'] / row['mean_b']:.1f}"
        tested = row["feature"] not in ("radius", "shape_index")
        more = row["further_units"]
        assert shown["verdict"] == row["verdict"] + ("" if pd.isna(more) else f" ({more:.0f} more)")
        assert bool(shown["verdict"]) == bool(shown["p"]) == tested
        if tested and row["p_family"] > 0.1:
            assert shown["p"] == f"{row['p_family']:.2f}"
        low, high = shown["over units (95 % interval)"].split("(")[1].strip(")").split(" to ")
        assert float(low) == pytest.approx(row["unit_difference_low"], rel=0.02, abs=6e-3)
        assert float(high) == pytest.approx(row["unit_difference_high"], rel=0.02, abs=6e-3)
    rest = tables["statistics"]
    assert len(rest.rows) == (statistics["family"] == "").sum()
    assert not {"p", "verdict"} & {title for title, _ in rest.headings}
    assert {"over units (95 % interval)", "Cliff's delta", "cells in a"} <= {
        title for title, _ in rest.headings
    }
    populations = tables["populations"]
    assert {row[0].text for row in populations.rows} == {"large"}
    assert len(populations.rows) == 6


def test_parameters_at_their_bound_are_marked(evidence: Evidence) -> None:
    methods = evidence.methods.assign(at_bound="min_size")
    marked = {(name, text) for _, name, text in parameters(replace(evidence, methods=methods))}
    assert ("min_size", "20 → 31 (at the end of its range)") in marked
    assert ("threshold", "0.5 → 0.42") in marked
    assert not any("end of its range" in text for _, _, text in parameters(evidence))


def test_page_without_anything(bare: Path, evidence: Evidence) -> None:
    text = bare.read_text()
    assert "No method could be analysed yet" in text
    assert "Figure left out because its data are missing: What calibration changes." in text
    assert 'id="viewer"' not in text
    nothing = replace(empty(evidence), leaderboard=pd.DataFrame(), plan={}, settings={})
    assert write_report(nothing, bare.parent / "nothing").exists()


def test_one_method_and_one_trial(tmp_path: Path) -> None:
    one = make_evidence(names=[NAMES[3]], architectures=("PAN",), encoders=("vgg19",), pixel=None)
    text = write_report(one, tmp_path).read_text()
    assert f"One method was analysed: {NAMES[3]}." in text
    assert "the pixel size is not known, so sizes are in pixels" in text


def test_other_images_are_called_by_their_split(evidence: Evidence) -> None:
    scores = evidence.scores.assign(split=evidence.scores["split"].replace("test", "all"))
    assert any("On the all images" in s for s in answer(replace(evidence, scores=scores)).details)


def test_tables_of_data_frames() -> None:
    frame = pd.DataFrame({"name": ["b", None], "some_x": [0.5, 1e-9], "none": [None, None]})
    table = make_table(
        "t",
        "caption",
        frame.assign(noise=pd.Series([True, None], dtype=object)),
        most=1,
    )
    assert table.headings == [("name", False), ("some x", True), ("noise", False)]
    assert table.total == 2
    assert [cell.text for cell in table.rows[0]] == ["b", "0.500", "yes"]
    texts = [number(v) for v in (0.912345, 1234567.0, 0.00001234, float("nan"), 154.32)]
    assert texts == ["0.912", "1,234,567", "1.23e-05", "", "154.3"]


# In a browser

WIDTHS = (390, 1280)
BACKSPACE, RIGHT, DOWN = "\ue003", "\ue014", "\ue015"
"""WebDriver's codes of keys."""


def requested(browser: Any) -> set[str]:
    """Schemes of all that the page asked for (the browser's own first tab apart)."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"].split(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"].startswith("file:")
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page", "bare"])
def test_loads_alone(browser: Any, which: str, width: int, request: pytest.FixtureRequest) -> None:
    opened(browser, request.getfixturevalue(which), width)
    asked = requested(browser)
    assert "file" in asked
    assert asked <= {"file", "data"}
    assert browser.get_log("browser") == []
    wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert browser.execute_script(wide) <= width
    sizes = browser.execute_script(
        "return Array.from(document.querySelectorAll('.paper img'), i => [i.naturalWidth, i.width])"
    )
    assert sizes
    assert all(natural > 50 and shown > 50 for natural, shown in sizes)


def column(browser: Any, table: str, number: int) -> list[str]:
    script = (
        "return Array.from(document.getElementById(arguments[0]).tBodies[0].rows)"
        ".filter(r => !r.hidden).map(r => r.cells[arguments[1]].dataset.sort)"
    )
    values: list[str] = browser.execute_script(script, table, number)
    return values


def test_tables_sort_and_filter(browser: Any, page: Path, evidence: Evidence) -> None:
    opened(browser, page)
    headings = browser.find_elements("css selector", "#leaderboard th")
    names = [heading.text.strip(" ↕") for heading in headings]
    at = names.index("test dataset iou")
    for order, sign in (("ascending", 1), ("descending", -1)):
        headings[at].find_element("tag name", "button").send_keys("\n")
        assert headings[at].get_attribute("aria-sort") == order
        values = column(browser, "leaderboard", at)
        assert values[-1] == "", "a failed trial has no value and comes last"
        numbers = [sign * float(value) for value in values if value]
        assert numbers == sorted(numbers)
        assert len(numbers) == (evidence.leaderboard["status"] == "done").sum()
    headings[0].find_element("tag name", "button").send_keys(" ")
    assert headings[at].get_attribute("aria-sort") == "none"
    field = browser.find_element("css selector", "input[data-table=leaderboard]")
    field.send_keys("Unet VGG19")
    trials = column(browser, "leaderboard", 0)
    assert trials
    assert all("Unet" in trial and "vgg19" in trial for trial in trials)
    count = browser.find_element("css selector", "[data-count=leaderboard]").text
    assert count == f"{len(trials)} of {len(evidence.leaderboard)} rows"
    field.send_keys(BACKSPACE * 12)
    assert len(column(browser, "leaderboard", 0)) == len(evidence.leaderboard)


def test_viewer_flips(browser: Any, page: Path, evidence: Evidence) -> None:
    opened(browser, page)
    box = browser.find_element("id", "v-box")
    status = browser.find_element("id", "v-status")

    def layers() -> list[str]:
        loaded = (
            "return Array.from(document.querySelectorAll('#v-stage img, #v-stage canvas'), "
            "i => i.src || 'canvas')"
        )
        sources: list[str] = browser.execute_script(loaded)
        return sources

    assert status.text.startswith(f"{NAMES[0]}; image t000")
    seen = {layers()[-1]}
    for name in (*NAMES[1:], "ground truth"):
        box.send_keys(RIGHT)
        assert status.text.startswith(name)
        seen.add(layers()[-1])
    assert len(seen) == 5
    base = layers()[0]
    box.send_keys(DOWN)  # the next image
    assert "image t001" in status.text
    assert layers()[0] != base
    buttons = browser.find_elements("css selector", "#v-methods button")
    buttons[2].click()
    assert [b.get_attribute("aria-pressed") for b in buttons].index("true") == 2
    assert [source[:6] for source in layers()] == ["data:i", "canvas", "data:i"]
    box.send_keys("tc")
    assert [source[:6] for source in layers()] == ["data:i"] * 3
    before = browser.find_element("id", "v-stage").size["width"]
    browser.find_element("id", "v-in").click()
    assert browser.find_element("id", "v-stage").size["width"] == 2 * before
    drawn = (
        "return Promise.all(Array.from(document.querySelectorAll('#v-stage img'), i => i.decode()"
        ".then(() => { const c = document.createElement('canvas'); c.width = i.naturalWidth;"
        " c.height = i.naturalHeight; const x = c.getContext('2d'); x.drawImage(i, 0, 0);"
        " return x.getImageData(0, 0, c.width, c.height).data.some(v => v > 0); })))"
    )
    assert browser.execute_script(drawn) == [True] * 3
    assert browser.get_log("browser") == []


def test_numbers_of_cells_show_these_cells(browser: Any, page: Path) -> None:
    opened(browser, page)
    rows = browser.find_elements("css selector", "#errors tbody tr")
    button = rows[3].find_element("css selector", "button[data-outcome=missed]")
    button.send_keys("\n")
    assert browser.find_element("id", "v-status").text.startswith(NAMES[3])
    pressed = browser.find_element("css selector", "#v-outcomes [aria-pressed=true]")
    assert re.fullmatch(r"missed [1-9]\d*", pressed.text)
    seen = (
        "const c = document.querySelector('#v-stage canvas');"
        "const d = c.getContext('2d', {willReadFrequently: true})"
        ".getImageData(0, 0, c.width, c.height).data;"
        "const s = new Set(); for (let i = 0; i < d.length; i += 4)"
        " if (d[i + 3]) s.add([d[i], d[i + 1], d[i + 2]].join()); return [...s].sort()"
    )
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda one: one.execute_script(seen) == ["0,114,178"])
    box = browser.switch_to.active_element
    assert box.get_attribute("id") == "v-box"
    box.send_keys("1")  # found
    WebDriverWait(browser, 60).until(lambda one: one.execute_script(seen) == ["169,188,201"])
    box.send_keys("0")
    WebDriverWait(browser, 60).until(lambda one: len(one.execute_script(seen)) > 1)
    assert not browser.find_elements("css selector", "#v-outcomes [aria-pressed=true]")
    assert browser.get_log("browser") == []
