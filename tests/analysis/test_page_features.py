"""Each number of a report equals one that is computed by hand: cell features and populations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
from scipy import stats

from tests.analysis import by_hand
from tests.analysis.conftest import Page
from tests.analysis.planted_expected import RECOMMENDED, TRUTH, Difference
from tests.analysis.planted_study import PIXEL_UM
from tests.analysis.shown_page import Shown, numbers, rounded, said
from tests.analysis.test_page_numbers import at

UNITS = {"area": "µm²", "perimeter": "µm", "radius": "µm"}
WORDS = ("equivalent", "different", "undecided")


def is_effect(cell: Shown, one: Difference) -> bool:
    """Whether a cell shows a difference of units' means, its unit and its interval."""
    found = numbers(cell.text)
    sides = one.sides
    values = [sides.difference, *(sides.interval if sides.enough else ())]
    unit = UNITS.get(one.feature, "")
    there = re.findall(r"µm²|µm|px²|px", cell.text)
    return (
        len(found) == len(values)
        and all(rounded(text, one.scale * value) for text, value in zip(found, values))
        and there == ([unit] if unit else [])
    )


def is_p(cell: Shown, p: float) -> bool:
    """Whether a cell shows a p-value."""
    if math.isnan(p):
        return cell.text == ""
    if cell.text.startswith("<"):
        return p < float(cell.text[1:]) == 0.0001
    return rounded(cell.text, p) and p >= 0.0001


def is_delta(cell: Shown, one: Difference) -> bool:
    """Whether a cell shows Cliff's delta: equal perimeters may differ in their last digit, so that
    a few pairs of thousands count as unequal.
    """
    a, b = (table[one.feature].to_numpy(float) for table in (one.table_a, one.table_b))
    value, tolerance = float(cell.sort), 3.5 / (len(a) * len(b))
    return rounded(cell.text, value) and abs(value - by_hand.cliffs_delta(a, b)) <= tolerance


def verdict(one: Difference, p: float) -> str:
    """Say what the two tests say together."""
    if by_hand.tost(one.sides, one.margin) <= 0.05:
        return "equivalent"
    return "different" if p <= 0.05 else "undecided"


def check_tested(row: dict[str, Shown], one: Difference, p: float, size: int) -> None:
    """Check the columns that all tables of tested differences have."""
    assert is_effect(at(row, "^over units"), one), (at(row, "^over units").text, one.sides)
    a, b = (table[one.feature].to_numpy(float) for table in (one.table_a, one.table_b))
    paper = float(stats.mannwhitneyu(a.round(9), b.round(9), alternative="two-sided").pvalue)
    assert is_p(at(row, "paper"), paper), (at(row, "paper").text, paper)
    margin = at(row, "^(margin|half a pixel)")
    assert rounded(numbers(margin.text)[0], one.scale * one.margin)
    assert margin.text.endswith(UNITS.get(one.feature, ""))
    assert is_p(at(row, "^p$"), p), (at(row, "^p$").text, p)
    shown = at(row, "^verdict").text
    if math.isnan(p):
        assert shown == ""
        return
    wanted = verdict(one, p)
    assert shown.split(" ")[0] == wanted, (shown, p, one)
    more = by_hand.more_units(one.sides, one.margin, p, size) if wanted == "undecided" else None
    assert numbers(shown) == ([] if more is None else [f"{more:,}"])


def test_features_against_the_truth(page: Page) -> None:
    grid, wanted = page.tables["features"], page.expected
    rows, p = wanted.against_truth, wanted.family(wanted.against_truth)
    names = [(m, f.replace(" ", "_")) for m, f in grid.texts("^method", "^feature")]
    order = [*wanted.order, *page.study.others]
    assert names == [(method, feature) for method in order for feature in by_hand.FEATURES]
    for key, cells in zip(names, grid.rows):
        row, one = dict(zip(grid.headings, cells)), rows[key]
        a, b = one.means
        assert at(row, "^all cells").holds(100 * (a / b - 1))
        matched = wanted.agreement.get(key, {}).get("relative_bias", math.nan)
        assert at(row, "^found by all").holds(100 * matched)
        check_tested(row, one, p.get(key, math.nan), len(p))
    said_of_truth = {verdict(rows[key], value) for key, value in p.items()}
    assert {"different", "undecided"} <= said_of_truth


def test_corrected_and_uncorrected_p_differ(page: Page) -> None:
    """So that one in the place of the other is noticed."""
    wanted = page.expected
    p = wanted.family(wanted.against_truth)
    alone = {key: by_hand.step_down([wanted.against_truth[key].sides])[0] for key in p}
    assert sum(abs(p[key] - alone[key]) > 0.005 for key in p) > len(p) / 2


def test_populations(page: Page) -> None:
    grid, wanted = page.tables["populations"], page.expected
    rows = wanted.populations(RECOMMENDED)
    p = wanted.family(rows)
    names = [(a, b, f.replace(" ", "_")) for a, b, f in grid.texts("^a$", "^b$", "^feature")]
    assert names == list(rows)
    for key, cells in zip(names, grid.rows):
        row, one = dict(zip(grid.headings, cells)), rows[key]
        check_tested(row, one, p.get(key, math.nan), len(p))
        assert is_delta(at(row, "^Cliff"), one), key


def test_all_other_differences(page: Page) -> None:
    """Without tests: of each pair of methods, and of populations in the other methods."""
    grid, wanted = page.tables["statistics"], page.expected
    seen = set()
    keys = ("^comparison", "^method", "^feature", "^a$", "^b$")
    for key, cells in zip(grid.texts(*keys), grid.rows):
        comparison, method, feature, a, b = key
        feature = feature.replace(" ", "_")
        if comparison == "methods":
            assert TRUTH not in (a, b)
            one = wanted.difference(a, b, feature, wanted.of(a), wanted.of(b))
        else:
            assert method != RECOMMENDED
            one = wanted.populations(method)[a, b, feature]
        row = dict(zip(grid.headings, cells))
        assert is_effect(at(row, "^over units"), one), (key, one.sides)
        values = one.table_a[feature], one.table_b[feature]
        assert is_delta(at(row, "^Cliff"), one), key
        assert at(row, "^cells in a").holds(len(values[0]))
        assert at(row, "^cells in b").holds(len(values[1]))
        seen.add((comparison, method, feature, *sorted((a, b))))
    methods = len(wanted.trials) + len(page.study.others)
    populated = methods  # the truth and all but the recommended one
    assert len(seen) == len(grid.rows) == 6 * (methods * (methods - 1) // 2 + populated)


def test_conclusions(page: Page) -> None:
    grid, wanted = page.tables["conclusions"], page.expected
    known = [TRUTH, *wanted.order, *page.study.others]
    rows, said_of = [], {}
    for method in known:
        for (a, b, feature), one in wanted.populations(method).items():
            if feature not in by_hand.TESTED or not one.sides.enough:
                continue
            low, high = one.sides.interval
            said_of[a, b, feature, method] = (
                "a is larger" if low > 0 else "a is smaller" if high < 0 else "no difference shown"
            )
            rows.append((a, b, feature, method))
    rows.sort(key=lambda row: (by_hand.FEATURES.index(row[2]), known.index(row[3])))
    keys = grid.texts("^a$", "^b$", "^feature", "^method")
    assert keys == rows
    wrong = set()
    for key, cells in zip(rows, grid.rows):
        a, b, feature, method = key
        row = dict(zip(grid.headings, cells))
        assert is_effect(at(row, "^over units"), wanted.populations(method)[a, b, feature])
        assert at(row, "^conclusion").text == said_of[key]
        same = said_of[key] == said_of[a, b, feature, TRUTH]
        assert at(row, "^as ").text == ("" if method == TRUTH else "yes" if same else "no")
        again = wanted.same_in(method, (a, b, feature))
        for name, own in zip(("trainings", "conventions"), again):
            shown = [cell.text for heading, cell in row.items() if name in heading]
            text = f"{sum(own)} of {len(own)}" if len(own) > 1 else ""
            assert shown == [text] or (not shown and not text), (key, name, shown, own)
        if method in wanted.tied and not (same and all(again[0] + again[1])):
            wrong.add(feature)
    line = next(line for line in page.text.splitlines() if line.startswith("Conclusions about"))
    if wrong:
        assert said(line, r"same in (\d+) of (\d+) comp") == [str(4 - len(wrong)), "4"]
    else:
        assert said(line, r"same in all (\d+) comp") == ["4"]


def test_agreement(page: Page) -> None:
    grid, wanted = page.tables["agreement"], page.expected
    headings = {
        "^bias": "bias",
        "^sd": "sd",
        "lower": "loa_low",
        "upper": "loa_high",
        "^concordance": "ccc",
        "^relative bias": "relative_bias",
        "^cells": "n",
        "^units": "units",
    }
    sizes = ("bias", "sd", "loa_low", "loa_high")
    names = [(m, f.replace(" ", "_")) for m, f in grid.texts("^method", "^feature")]
    assert sorted(names) == sorted(wanted.agreement)
    for (method, feature), cells in zip(names, grid.rows):
        row, own = dict(zip(grid.headings, cells)), wanted.agreement[method, feature]
        for pattern, name in headings.items():
            scale = PIXEL_UM ** by_hand.POWERS.get(feature, 0) if name in sizes else 1.0
            assert at(row, pattern).holds(scale * own[name]), (method, feature, name)


def shares(text: str) -> dict[str, str]:
    """Give the per cents that a sentence names, by feature."""
    found = re.findall(r"(?:^|[:,] )([a-z ]+?) ([+-][\d.]+) %", text)
    return {name.strip().replace(" ", "_"): number for name, number in found}


def test_what_the_answer_says_of_cells(page: Page) -> None:
    wanted = page.expected
    line = next(line for line in page.text.splitlines() if line.startswith("Means over all"))
    every, matched = line.split("Only on the")
    for part, values in (
        (every, {f: d.means[0] / d.means[1] - 1 for f, d in _of(page).items()}),
        (
            matched,
            {f: wanted.agreement[RECOMMENDED, f]["relative_bias"] for f in by_hand.FEATURES},
        ),
    ):
        found = shares(part)
        assert list(found) == list(by_hand.FEATURES)
        for feature, value in values.items():
            assert rounded(found[feature], 100 * value), (feature, found[feature], value)
    count = wanted.agreement[RECOMMENDED, "area"]["n"]
    assert said(matched, r"(\d+) cells that all") == [str(count)]


def _of(page: Page) -> dict[str, Difference]:
    rows = page.expected.against_truth
    return {feature: rows[RECOMMENDED, feature] for feature in by_hand.FEATURES}


@pytest.mark.parametrize("which", ["truth", "populations"])
def test_what_the_answer_says_of_verdicts(page: Page, which: str) -> None:
    wanted = page.expected
    family: Mapping[Any, Difference]
    if which == "truth":
        family, start = wanted.against_truth, f"{RECOMMENDED} against the ground truth:"
    else:
        family, start = wanted.populations(RECOMMENDED), "Populations, in the cells of"
    p: dict[Any, float] = wanted.family(family)
    line = next(line for line in page.text.splitlines() if line.startswith(start))
    own = {k: v for k, v in p.items() if which != "truth" or k[0] == RECOMMENDED}
    assert len(own) == len(by_hand.TESTED)
    text = line[len(start) :]
    parts = {word: text.split(f"{word} in ")[1].split(";")[0] for word in WORDS if word in text}
    for key, value in own.items():
        one = family[key]
        word = verdict(one, value)
        assert re.search(rf"\b{one.feature}\b", parts[word]), (one.feature, word, line)
        after = re.findall(rf"\b{one.feature} \(([^)]*)\)", parts[word])
        if word == "different":
            share = one.sides.difference / one.means[1]
            assert rounded(numbers(after[0])[0], 100 * share)
        elif word == "undecided":
            more = by_hand.more_units(one.sides, one.margin, value, len(p))
            assert [n for text in after for n in numbers(text)] == (
                [] if more is None else [f"{more:,}"]
            )
            # groups are the units where no unit holds cells of both
            unit = wanted.unit if one.sides.paired else "group"
            assert all(f" {unit}" in text for text in after), line


def ratios(above: dict[str, float], below: dict[str, float]) -> tuple[float, list[float]]:
    """Give a ratio of sums over units, and those without each unit."""
    units = sorted(below)
    without = [
        sum(above.get(u, 0.0) for u in units if u != one) / sum(below[u] for u in units if u != one)
        for one in units
    ]
    return sum(above.values()) / sum(below.values()), without


def test_which_method_for_which_purpose(page: Page) -> None:
    """The number that is nearest to nought, with what it rests on."""
    wanted, grid = page.expected, page.tables["purposes"]
    found = {row[0]: row[1:] for row in grid.texts("^for$", "^method$", "^what", "^may")}
    wrong: dict[str, dict[str, int]] = {}
    for name in wanted.order:
        counts = wrong[name] = dict.fromkeys((*by_hand.SIDES, "true"), 0)
        for stem in page.study.split["test"]:
            labels = wanted.labels(name, wanted.shown[name], stem, "calibrated")
            of_true, of_found = by_hand.causes(page.study.true[stem], labels)
            for cause in ("missed", "merged", "split"):
                counts[cause] += of_true.count(cause)
            counts["invented"] += of_found.count("invented")
            counts["true"] += len(of_true)
    names = ("missed", "merged", "split", "invented")
    rates = {name: sum(own[n] for n in names) / own["true"] for name, own in wrong.items()}
    best = min(rates, key=lambda name: rates[name])
    method, gives, _ = found["counting cells"]
    assert method == best
    rate, *counts_shown, true, f1 = said(
        gives,
        r"^([\d.]+) wrong .*\((\d+) missed, (\d+) merged, (\d+) split, (\d+) invented; (\d+) true"
        r".*is ([\d.]+)$",
    )
    assert rounded(rate, 100 * rates[best])
    assert counts_shown == [str(wrong[best][name]) for name in names]
    assert true == str(wrong[best]["true"])
    scores = by_hand.scores(
        list(wanted.fractions(best, wanted.shown[best], "test", "calibrated").values())
    )
    assert rounded(f1, scores["f1_50"])
    for feature in ("area", "circularity", "solidity"):
        (key,) = (text for text in found if f"mean {feature}" in text)
        _is_bias(page, feature, *found[key][:2])


def _is_bias(page: Page, feature: str, method: str, gives: str) -> None:
    wanted = page.expected
    biases = {}
    for name in wanted.order:
        each = []
        for table in (wanted.of(name), wanted.of(TRUTH)):
            own = table.groupby("unit")[feature]
            sums = {str(unit): float(value) for unit, value in own.sum().items()}
            counts = {str(unit): float(value) for unit, value in own.size().items()}
            known = set(wanted.objects["unit"])
            each.append(ratios(sums, {u: counts.get(u, 0.0) for u in sorted(known)}))
        (one, without), (true, true_without) = each
        biases[name] = (one / true - 1, [a / b - 1 for a, b in zip(without, true_without)])
    best = min(biases, key=lambda name: abs(biases[name][0]))
    assert method == best
    values = (biases[best][0], *by_hand.jackknife(*biases[best]))
    shown = re.findall(r"[+-]\d+\.\d+|(?<=to )[+-]?\d+\.\d+", gives)
    assert len(shown) == 3
    for text, value in zip(shown, values):
        assert rounded(text, 100 * value), (feature, gives, values)
