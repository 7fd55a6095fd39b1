"""The page on a narrow screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.report.page import write_report
from tests.analysis.browsing import opened
from tests.analysis.evidence_data import make_evidence


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    evidence = make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))
    return write_report(evidence, tmp_path_factory.mktemp("narrow"))


@pytest.mark.parametrize("width", [400, 500])
def test_narrow_windows_show_scores_without_scrolling(browser: Any, page: Path, width: int) -> None:
    opened(browser, page, width)
    script = (
        "return ['ranking', 'features', 'scores', 'leaderboard', 'errors'].map(name => {"
        " const table = document.getElementById(name), box = table.parentElement;"
        " const number = table.tBodies[0].querySelector('td.number');"
        " const name_ = table.tBodies[0].rows[0].cells[0];"
        " return [name, number.getBoundingClientRect().right - box.getBoundingClientRect().right,"
        " name_.getBoundingClientRect().width]; })"
    )
    whole = "const box = document.getElementById('purposes').parentElement;" + (
        "return [box.scrollHeight - box.clientHeight, box.scrollWidth - box.clientWidth]"
    )
    assert browser.execute_script(whole) == [0, 0]
    for name, beyond, first in browser.execute_script(script):
        assert beyond <= 0, name
        assert first <= 0.4 * width, name
