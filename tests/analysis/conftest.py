"""Reports of planted sweeps, which several files of tests read."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

import pytest

from analysis.morphology import measure
from analysis.morphology.margin import half_pixel
from analysis.report.answer import answer
from analysis.report.errors import errors_table
from analysis.report.purposes import purposes
from analysis.report.remarks import calibration_said
from analysis.report.tables import make_tables
from analysis.run import main
from analysis.runfolder import open_data, read_run
from analysis.study.annotations import CellAnnotations
from analysis.study.given_labels import items_of, open_given
from tests.analysis.page_text import drawn, visible
from tests.analysis.planted_expected import Expected
from tests.analysis.planted_study import BUDGET, Planted, make_study, register
from tests.analysis.shown_page import Grid, Shown, as_shown, read_tables
from trainables import extensions


@dataclass(frozen=True)
class Page:
    """A report, and what it has to show."""

    tables: dict[str, Grid]
    text: str
    """The answer: its headline and all that is said below it."""
    expected: Expected
    remarks: str
    """What is said elsewhere."""
    figures: dict[str, list[str]]
    """What is written in each figure; empty where the page was not drawn."""

    @property
    def study(self) -> Planted:
        """What was planted."""
        return self.expected.study


@pytest.fixture(scope="session", params=["images", "groups"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Two reports: units are groups, a method has three seeds, populations share images; and
    units are images, each method has one seed, populations are of different groups.
    """
    root = tmp_path_factory.mktemp("planted")
    register(root / "site")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(root / "site")
            extensions.registered.cache_clear()
            if request.param == "groups":
                return _read(make_study(root))
            return _gathered(make_study(root, seeds=1, between=True))
    finally:
        extensions.registered.cache_clear()


def _read(study: Planted) -> Page:
    """Run the command line, and read the page that it writes."""
    words = [str(study.out), "--top", "2", "--budget", str(BUDGET), "--convention", "skimage"]
    for name, folder in study.given.items():
        words += ["--labels", f"{name}={folder}"]
    assert main(words) == 0
    path = study.out / "report" / "index.html"
    found = path.read_text(encoding="utf-8").split('<section id="answer">')[1]
    found = found.split('<section class="table"')[0]
    found = re.sub(r"</?(?:p|li|ul|h\d|div|td|th|tr)\b[^>]*>", "\n", found)
    found = re.sub(r"<[^>]*>", "", found)
    text = "\n".join(line.strip() for line in html.unescape(found).splitlines() if line.strip())
    wanted = Expected(study, "group", half_pixel, measure)
    return Page(read_tables(path), text, wanted, visible(path), drawn(path))


def _gathered(study: Planted) -> Page:
    """Gather the evidence, and make of it what the page would show."""
    from analysis.study.gather import gather
    from analysis.study.study import StudyOptions
    from analysis.study.study import make_study as study_of

    run = read_run(study.out)
    dataset, _ = open_data(run, None)
    requests = [f"{name}={folder}" for name, folder in study.given.items()]
    given = open_given(requests, items_of(dataset, None), ())
    options = StudyOptions(top=2, convention="skimage", unit="image", budget=BUDGET)
    known = CellAnnotations(dataset)
    evidence = gather(
        study_of(run, dataset, None, known, options, given), lambda *_: lambda: None, "command"
    )
    said = answer(evidence)
    tables = {table.name: as_shown(table) for table in make_tables(evidence)}
    errors = errors_table(evidence, ())
    assert errors is not None
    tables["errors"] = as_shown(errors)
    rows = [[Shown(text) for text in row] for row in purposes(evidence)]
    tables["purposes"] = Grid(["for", "method", "what it gives", "may be as good"], rows)
    text = "\n".join([said.headline, *said.sentences, *said.details])
    wanted = Expected(study, "image", half_pixel, measure)
    return Page(tables, text, wanted, calibration_said(evidence), {})
