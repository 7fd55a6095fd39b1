"""Run folders that are copied or moved: a copy is a sweep of its own in W&B."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweep.identity import identity
from sweep.tracking import TrackingOptions, known_id, run_id
from sweep.wandb_upload import main as wandb_upload
from tests.conftest import Swept
from tests.sweep.command_line import rows, run


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run folder, and what its plan.json says."""
    out = tmp_path / "run"
    out.mkdir()
    return out, written(out, identity(out, None))


def written(out: Path, content: dict[str, Any]) -> dict[str, Any]:
    (out / "plan.json").write_text(json.dumps(content))
    return content


def test_a_new_run_has_a_token_of_its_own(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, plan = made
    assert plan["wandb_group"] == f"run-{plan['run_token']}"
    other = tmp_path / "other"
    other.mkdir()
    assert identity(other, None)["run_token"] != plan["run_token"]
    assert identity(out, plan) == plan


def test_a_moved_run_stays_what_it_was(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, plan = made
    (tmp_path / "link").symlink_to(out)
    told = identity(tmp_path / "link", plan)
    assert told == {**plan, "folder": told["folder"]}
    for place in (tmp_path / "moved", tmp_path / "again"):
        out = out.rename(place)
        told = identity(place, plan)
        assert told["folder"]["path"] == str(place)
        assert told == {**plan, "folder": told["folder"]}


@pytest.mark.parametrize("original", ["there", "there, on a snapshot", "gone"])
def test_a_copy_is_another_sweep(
    original: str, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, plan = made
    copy = shutil.copytree(out, tmp_path / "copy")
    if original == "there, on a snapshot":  # whose files keep their numbers
        plan["folder"]["inode"] = copy.stat().st_ino
    if original == "gone":
        shutil.rmtree(out)
    told = identity(copy, plan)
    assert told["run_token"] != plan["run_token"]
    assert told["wandb_group"] == f"copy-{told['run_token']}"
    assert told["copy_of"] == str(out)
    # from then on it stays what it is
    assert identity(copy, written(copy, told)) == told
    if original != "gone":
        assert identity(out, plan)["run_token"] == plan["run_token"]


def test_where_another_run_lies_by_now_a_folder_was_moved(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, plan = made
    moved = out.rename(tmp_path / "old")
    out.mkdir()
    written(out, identity(out, None))
    assert identity(moved, plan)["run_token"] == plan["run_token"]


def test_runs_of_earlier_versions_get_a_token(tmp_path: Path) -> None:
    told = identity(tmp_path, {"format": 1})
    assert told["wandb_group"] == tmp_path.name
    assert "copy_of" not in told
    before_folders = {"run_token": "5e1f00d2", "wandb_group": "run-5e1f00d2"}
    told = identity(tmp_path, before_folders)
    assert {name: told[name] for name in before_folders} == before_folders


def test_ids_are_kept_within_a_sweep() -> None:
    own = TrackingOptions(mode="offline", group="g", folder="f", token="0badcafe")
    copy = TrackingOptions(mode="offline", group="g", folder="f", token="0badcafe", copied=True)
    for recorded, of_own, of_copy in (
        ("", "", ""),
        (run_id("a", "0badcafe"), "a-0badcafe", "a-0badcafe"),
        (run_id("a", "5e1f00d2"), "", ""),
        (run_id("a"), "a", ""),  # reported before runs had tokens
    ):
        assert (known_id(recorded, "a", own), known_id(recorded, "a", copy)) == (of_own, of_copy)


def interrupt(out: Path, architecture: str) -> str:
    """Make a trial's record what it is while it runs; return its trial_id."""
    for path in (out / "ledger").glob(f"semantic2-{architecture}-mobilenet_v2-*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "status": "running"}))
        return path.stem
    raise AssertionError("no such trial")


@pytest.mark.slow
def test_a_copied_sweep_reports_to_runs_of_its_own(
    swept: Path, sweep_of_cells: Swept, tmp_path: Path
) -> None:
    copy = shutil.copytree(swept, tmp_path / "copy")
    shutil.rmtree(copy / "wandb")
    words = (
        sweep_of_cells.space,
        "--data",
        sweep_of_cells.data,
        "--wandb",
        "offline",
        "--only",
        "architecture=FPN",
        "--resume",
        "--out",
    )
    before = {row["trial_id"]: row["wandb_id"] for row in rows(copy)}
    trial_id = interrupt(copy, "FPN")
    code, text, err = run(*words, copy, cwd=tmp_path)
    assert code == 0, text + err
    plan = json.loads((copy / "plan.json").read_text())
    own = f"{trial_id}-{plan['run_token']}"
    assert own != before[trial_id]
    after = {row["trial_id"]: row["wandb_id"] for row in rows(copy)}
    assert after == {**before, trial_id: own}
    assert [p.name.partition("-")[2][-len(own) :] for p in copy.glob("wandb/offline-*")] == [own]
    assert "copy" in text
    # moved, it goes on with these
    moved = copy.rename(tmp_path / "moved")
    interrupt(moved, "FPN")
    code, text, err = run(*words, moved, cwd=tmp_path)
    assert code == 0, text + err
    assert {row["trial_id"]: row["wandb_id"] for row in rows(moved)} == after


def test_an_upload_names_a_torn_record(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    shutil.copy(swept / "plan.json", tmp_path)
    shutil.copytree(swept / "ledger", tmp_path / "ledger")
    record = min((tmp_path / "ledger").glob("*.json"))
    os.truncate(record, 10)
    assert wandb_upload([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {record} is damaged" in err
    assert len(err.strip().splitlines()) == 1
