"""The page's list of words: what it links, and that it explains all that it links and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import Markup

from analysis.report.page import write_report
from analysis.report.words import PAPER, WORDS, Linker
from tests.analysis.evidence_data import empty, make_evidence
from tests.analysis.page_text import claims, visible


def test_each_word_is_linked_once_where_it_is_first_used() -> None:
    linked = Linker()
    said = linked("mean AP and AP by IoU; Cliff's delta < 0")
    assert said == Markup(
        '<a class="word" href="#word-ap">mean AP</a> and AP by '
        '<a class="word" href="#word-iou">IoU</a>; '
        '<a class="word" href="#word-cliff">Cliff&#39;s delta</a> &lt; 0'
    )
    assert linked("IoU, MAP and PQ") == 'IoU, MAP and <a class="word" href="#word-pq">PQ</a>'
    assert {word.key for word in linked.words()} == {"ap", "iou", "cliff", "pq"}


def test_words_with_another_meaning_are_not_linked() -> None:
    linked = Linker()
    for text in ("a lead is often missed", "train each 3 times (--seeds 3)", "APPLE", "2-classes"):
        assert linked(text) == text
    assert "#word-outcome" in linked("it missed 3")


def test_tags_headings_code_and_links_stay_as_they_are() -> None:
    text = Markup(
        '<h2>SEG</h2><p title="SEG"><code>SEG</code> <a href="#x">SEG</a> '
        "<table><tr><td>SEG</td></tr></table></p>"
    )
    linked = Linker()
    assert linked(text) == text
    assert linked.words() == []
    assert "#word-seg" in linked(text + Markup("<p>SEG</p>"))


def test_every_word_is_explained_in_sentences() -> None:
    assert len({word.key for word in WORDS}) == len(WORDS)
    linked = Linker()
    for word in WORDS:
        assert word.means.endswith(".")
        assert claims(word.means.replace("may be the best", "")) == []
    linked("the paper says: PQ, AP and solidity")
    assert [word.key for word in linked.words()] == ["ap", "paper", "pq", "solidity"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    evidence = make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))
    return write_report(evidence, tmp_path_factory.mktemp("words"))


def test_the_page_explains_the_words_that_it_links_and_no_others(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r'href="#word-(\w+)"', text)
    entries = re.findall(r'<dt id="word-(\w+)">', text)
    assert len(set(links)) == len(links)
    assert sorted(links) == sorted(entries)
    wanted = "pq seg masd hd95 cliff ap iou star unit calibrated tied verdict margin nested truth"
    assert set(wanted.split()) <= set(entries)
    assert "fold" in entries  # a caption names folds
    assert "given" not in entries
    captions = "".join(re.findall(r"(?s)<(?:fig)?caption>.*?</(?:fig)?caption>", text))
    captions += "".join(re.findall(r'(?s)<p class="caption".*?</p>', text))
    for word in WORDS:
        if word.key not in entries:
            assert not re.search(word.pattern, captions), word.key


def test_the_paper_is_cited_where_it_is_first_named(page: Path) -> None:
    text = visible(page)
    first = text.index("The paper")
    assert PAPER in text[first : first + 120]


def test_a_page_without_results_explains_less(tmp_path: Path, page: Path) -> None:
    evidence = make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))
    bare = write_report(empty(evidence), tmp_path).read_text(encoding="utf-8")
    assert 0 < bare.count('<dt id="word-') < page.read_text().count('<dt id="word-')
