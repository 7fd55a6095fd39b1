"""Epochs and counts that the ledger lacks come back from the trials' own results."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from sweep.leaderboard import write_all_tables
from sweep.ledger import Ledger, LedgerError
from sweep.restoring import restore_parts
from tests.sweep.test_ledger import CONFIG, RESULT
from trainables.records.files import write_json


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder with a finished trial, and one that is running."""
    ledger = Ledger(tmp_path)
    ledger.write_start("a", CONFIG, "node")
    ledger.write_done(CONFIG, "a", RESULT)
    ledger.write_start("b", CONFIG, "node")
    content: dict[str, Any] = dict(vars(RESULT))
    content["history"] = [one.to_dict() for one in RESULT.history]
    content["per_image"] = [vars(one) for one in RESULT.per_image]
    write_json(tmp_path / "checkpoints" / "a" / "result.json", content)
    return tmp_path


def tables(out: Path) -> list[list[dict[str, str]]]:
    config = CONFIG.model_dump(mode="json")
    plan = {"trials": [{"trial_id": name, "config": config} for name in "ab"]}
    write_all_tables(out, plan, Ledger(out).read())
    found = []
    for name in ("history.csv", "per_image.csv"):
        with open(out / name, newline="") as handle:
            found.append(list(csv.DictReader(handle)))
    return found


@pytest.mark.parametrize("part", ["history", "per_image"])
@pytest.mark.parametrize("content", [None, b'[{"epo'])
def test_missing_and_damaged_parts_are_written_again(
    out: Path, part: str, content: bytes | None
) -> None:
    """Where they were missing, exit 0 came with tables that lacked the trial."""
    before = tables(out)
    assert restore_parts(out, Ledger(out).read()) == []
    path = out / "ledger" / part / "a.json"
    path.unlink() if content is None else path.write_bytes(content)
    (line,) = restore_parts(out, Ledger(out).read())
    assert line.startswith("note: epochs and counts of a were missing or damaged; they were taken")
    assert tables(out) == before
    assert restore_parts(out, Ledger(out).read()) == []


def test_what_cannot_be_restored_is_named(out: Path) -> None:
    (out / "checkpoints" / "a" / "result.json").unlink()
    path = out / "ledger" / "history" / "a.json"
    path.write_text("[")
    with pytest.raises(LedgerError) as caught:
        restore_parts(out, Ledger(out).read())
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert "restore it from a copy, or remove it" in said
    assert "--resume" not in said, "which would not train the trial again"
    path.unlink()
    assert restore_parts(out, Ledger(out).read()) == [], "versions before had no counts"
