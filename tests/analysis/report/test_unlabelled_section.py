"""The page's section on images without masks, and a page without it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.evidence import Evidence, Unlabelled
from analysis.report.figures import UNLABELLED_FIGURE, features, figures_of
from analysis.report.page import unlabelled, write_report
from analysis.report.unlabelled import unlabelled_said, unlabelled_table
from analysis.study.unlabelled import compare_methods, unit_of
from tests.analysis.evidence_data import METHODS, make_evidence
from tests.analysis.page_text import claims, drawn, visible
from tests.analysis.study.test_unlabelled import FIRST, SECOND
from tests.analysis.study.test_unlabelled import drawn as cells

NAMES = list(METHODS)


def found(fields: int = 1, extra: float = 1.0, tracks: int = 12) -> Unlabelled:
    table = cells(fields, tracks, 5, extra).replace({"method": {FIRST: NAMES[1], SECOND: NAMES[3]}})
    table.loc[table.index[:10], "left_out"] = True  # the first cell, in all of its frames
    unit = unit_of(table)
    tested = compare_methods(table, unit=unit, convention="trackmate", resamples=499, seed=0)
    return Unlabelled(table, tested, NAMES[1], unit, 5 * fields, None, "film")


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "FPN"), encoders=("resnet152",))


def test_section(evidence: Evidence, tmp_path: Path) -> None:
    page = write_report(replace(evidence, unlabelled=found()), tmp_path)
    said = visible(page)
    assert claims(said) == []
    assert f"{NAMES[1]}, the recommended method, found 60 cells, linked to 12 tracks." in said
    assert "5 frames without masks of 1 field" in said
    assert "nobody knows which method is right" in said
    assert "counts a cell anew in each of the 5 frames" in said
    texts = drawn(page)[UNLABELLED_FIGURE]
    assert texts.count("n = 55") == 4, "two rows, two methods: not the cell at the border"
    assert (tmp_path / "figures" / f"{UNLABELLED_FIGURE}.pdf").is_file()
    assert page.read_text().count(f'id="{UNLABELLED_FIGURE}"') == 1


def test_a_page_without_such_images_has_no_such_section(evidence: Evidence) -> None:
    assert UNLABELLED_FIGURE not in figures_of(evidence)
    assert unlabelled(evidence, []) is None


def test_figure_has_no_truth_and_the_colours_of_the_page(evidence: Evidence) -> None:
    shown = features.compute_unlabelled(replace(evidence, unlabelled=found()))
    assert shown is not None
    assert shown.methods == [NAMES[1], NAMES[3]]
    assert shown.colours == [1, 3]
    assert all(panel is not None and panel.median is None for panel in shown.panels)
    text = features.caption(shown)
    assert "truth" not in text
    assert text.startswith("All cells in 5 frames without masks of 1 field, without those at the")
    assert "the pixel size is not known" in text.lower()
    assert shown.means == "", "tracks are no column of their own"
    fields = features.compute_unlabelled(replace(evidence, unlabelled=found(6)))
    assert fields is not None
    assert fields.means == "mean of each field"
    usual = features.compute(evidence)
    assert usual is not None
    assert "Dashed: median of the truth." in features.caption(usual)
    assert usual.colours == [-1, 0, 1, 2, 3]


def test_table_has_effect_verdict_and_both_tests() -> None:
    caption, table = unlabelled_table(found())
    assert len(table) == 6
    area = table.set_index("feature").loc["area"]
    assert (area["a"], area["b"], area["verdict"]) == (NAMES[1], NAMES[3], "different")
    assert area["tracks"] == 11
    assert re.match(r"-[0-9.]+ px² \(", str(area["effect"]))
    assert area["p_text"]
    assert (area["cells_a"], area["cells_b"]) == (55, 55)
    assert "Over units: the mean over tracks" in caption
    _, fields = unlabelled_table(found(6))
    assert (fields["fields"] == 6).all()


def test_nothing_found() -> None:
    full = found()
    none = replace(full, objects=full.objects.iloc[:0], statistics=pd.DataFrame())
    assert unlabelled_said(none) == ["5 frames without masks: no method found a cell."]
    assert unlabelled_table(none)[1].empty
