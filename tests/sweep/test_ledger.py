"""The ledger by itself: what is written, what stays, and what a damaged record is called."""

from __future__ import annotations

import fcntl
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sweep import ledger as ledger_module
from sweep.ledger import Ledger, LedgerError, Status, has_ended, missing
from trainables.config import EpochRecord, ImageCounts, TrialConfig, TrialResult

CONFIG = TrialConfig(encoder="resnet34")
RESULT = TrialResult(
    best_epoch=1,
    epochs=2,
    val_dataset_iou=0.5,
    val_image_iou=0.6,
    test_dataset_iou=0.4,
    test_image_iou=0.3,
    parameters_m=1.5,
    train_seconds=6.0,
    peak_memory_mb=100.0,
    checkpoint="/somewhere",
    history=(EpochRecord(1, 0.4, 0.3, 0.5, 0.6, 3.0), EpochRecord(2, 0.3, None, None, None, 3.0)),
    per_image=(ImageCounts("val", "i0", "g", 3, 4),),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def record(ledger: Ledger, trial_id: str = "a") -> dict[str, Any]:
    found = ledger.read_one(trial_id)
    assert found is not None
    return found


def test_a_record_is_one_file_with_the_whole_configuration(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write("a", CONFIG, "failed", error="no reason")
    assert json.loads((tmp_path / "ledger" / "a.json").read_text()) == {
        "trial_id": "a",
        "status": "failed",
        "config": CONFIG.model_dump(mode="json"),
        "error": "no reason",
        "wandb_id": "",
    }


def test_what_is_not_said_again_is_gone_but_for_what_happened_on_the_way(ledger: Ledger) -> None:
    ledger.write("a", CONFIG, "running", wandb_id="w1", out_of_memory=["1 GB"], limits={"gpu": 1})
    ledger.note("a", "slow disk")
    ledger.write("a", CONFIG, "failed", error="e")
    found = record(ledger)
    assert found["out_of_memory"] == ["1 GB"]
    assert found["notes"] == ["slow disk"]
    assert found["wandb_id"] == "w1"
    assert "limits" not in found
    ledger.write("a", CONFIG, "running", wandb_id="w2", out_of_memory=["2 GB"])
    assert record(ledger)["wandb_id"] == "w2"
    assert record(ledger)["out_of_memory"] == ["2 GB"]
    assert "error" not in record(ledger)
    ledger.write("b", CONFIG, "running")
    assert not {"notes", "out_of_memory"} & record(ledger, "b").keys()


def test_a_record_that_says_done_stays(ledger: Ledger) -> None:
    ledger.write("a", CONFIG, "done", metrics={"epochs": 2})
    before = record(ledger)
    statuses: tuple[Status, ...] = ("running", "failed", "stopped", "done")
    for status in statuses:
        ledger.write("a", CONFIG, status, error="late")
    ledger.write_done(CONFIG, "a", RESULT)
    assert record(ledger) == before
    assert ledger.read_history("a") == []


def test_attempts_are_listed_with_node_process_and_time(ledger: Ledger) -> None:
    began = time.time()
    ledger.write_start("a", CONFIG, "node1", limits={"gpu": 0.5})
    assert record(ledger)["limits"] == {"gpu": 0.5}
    ledger.write_start("a", CONFIG, "node2")
    found = record(ledger)
    assert found["status"] == "running"
    assert [one["node"] for one in found["attempts"]] == ["node1", "node2"]
    first, second = found["attempts"]
    assert {*first} - {*second} == {"limits"}
    assert first["limits"] == {"gpu": 0.5}
    for one in found["attempts"]:
        assert {*one} - {"limits"} == {"node", "gpus", "pid", "started"}
        assert one["pid"] == os.getpid()
        assert began <= one["started"] <= time.time()
    assert ledger.attempts("a") == found["attempts"]
    assert ledger.attempts("nobody") == []


def test_shortages_add_up(ledger: Ledger) -> None:
    ledger.write_start("a", CONFIG, "node1")
    ledger.write_shortage("a", CONFIG, "0.5 GPU", {"gpu": 1.0}, wandb_id="w")
    ledger.write_shortage("a", CONFIG, "1 GPU", {"gpu": 1.0, "micro_batch": 4})
    found = record(ledger)
    assert found["status"] == "running"
    assert found["out_of_memory"] == ["0.5 GPU", "1 GPU"]
    assert found["retry"] == {"gpu": 1.0, "micro_batch": 4}
    assert [one["node"] for one in found["attempts"]] == ["node1"]
    assert found["wandb_id"] == "w"
    ledger.write_shortage("new", CONFIG, "1 GB", {"memory_gb": 2})
    assert record(ledger, "new")["attempts"] == []
    assert record(ledger, "new")["config"] == CONFIG.model_dump(mode="json")


def test_notes_are_added_to_a_record_that_is_there(ledger: Ledger) -> None:
    ledger.note("nobody", "x")
    assert ledger.read() == {}
    ledger.write("a", CONFIG, "done", metrics={})
    ledger.note("a", "one")
    ledger.note("a", "two")
    assert record(ledger)["notes"] == ["one", "two"]
    assert record(ledger)["status"] == "done"


def test_a_finished_trial_has_figures_history_and_counts_apart(ledger: Ledger) -> None:
    ledger.write_start("a", CONFIG, "node1")
    ledger.write_history("a", [{"epoch": 1}])
    assert ledger.read_history("a") == [{"epoch": 1}]
    began = time.time()
    ledger.write_done(CONFIG, "a", RESULT, wandb_id="w")
    found = record(ledger)
    assert (found["status"], found["wandb_id"]) == ("done", "w")
    assert found["config"] == CONFIG.model_dump(mode="json")
    assert found["metrics"] == {
        "best_epoch": 1,
        "epochs": 2,
        "val_dataset_iou": 0.5,
        "val_image_iou": 0.6,
        "test_dataset_iou": 0.4,
        "test_image_iou": 0.3,
        "parameters_m": 1.5,
        "train_seconds": 6.0,
        "peak_memory_mb": 100.0,
        "class_iou": None,
        "micro_batch": None,
        "inference": "whole",
        "ceiling_iou": 1.0,
    }
    (attempt,) = found["attempts"]
    assert began <= attempt["ended"] <= time.time()
    assert ledger.read_history("a") == [one.to_dict() for one in RESULT.history]
    assert ledger.read_per_image("a") == [
        {"split": "val", "image": "i0", "group": "g", "intersection": 3, "union": 4}
    ]
    ledger.write_history("a", [{"epoch": 1}])
    assert len(ledger.read_history("a")) == 2, "the whole history comes before the driver's"
    ledger.write_done(CONFIG, "b", RESULT)
    assert record(ledger, "b")["attempts"] == []


def test_what_a_removed_record_leaves_is_not_taken_for_a_new_attempts(ledger: Ledger) -> None:
    """As messages advise, a record is removed so that --resume trains the trial again: until that
    ended, its epochs and its best were those of the trial before.
    """
    for trial_id in ("a", "b.partial"):
        ledger.write_done(CONFIG, trial_id, RESULT)
        ledger.write_history(trial_id, [{"epoch": 1}])
    (ledger.folder / "a.json").unlink()
    ledger.forget({"a", "c"})
    assert ledger.read_history("a") == ledger.read_per_image("a") == []
    assert [row["epoch"] for row in ledger.read_history("b.partial")] == [1, 2]
    assert len(ledger.read_per_image("b.partial")) == 1
    ledger.forget(set())
    Ledger(ledger.folder / "none").forget({"a"})


def test_nothing_is_known_of_a_trial_without_files(ledger: Ledger) -> None:
    assert ledger.read() == {}
    assert ledger.read_one("a") is None
    assert ledger.read_history("a") == []
    assert ledger.read_per_image("a") == []


def test_all_records_by_name_and_nothing_else(ledger: Ledger) -> None:
    for name in ("b", "a"):
        ledger.write(name, CONFIG, "running")
    ledger.write_history("c", [{"epoch": 1}])
    (ledger.folder / "notes.txt").write_text("mine")
    assert list(ledger.read()) == ["a", "b"]
    assert ledger.read()["a"] == record(ledger)


@pytest.mark.parametrize("content", [b'{"trial_id": "a", "sta', b"\xff\xfe"])
def test_a_damaged_record_is_named_in_one_line(ledger: Ledger, content: bytes) -> None:
    ledger.write("a", CONFIG, "running")
    path = ledger.folder / "a.json"
    path.write_bytes(content)
    with pytest.raises(LedgerError) as caught:
        ledger.read()
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("); remove it, then --resume trains the trial again")
    assert "\n" not in said


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        '{"trial_id": "a"}',
        '{"status": "done"}',
        '{"trial_id": "a", "status": "finished"}',
        '{"trial_id": "b", "status": "done"}',
    ],
)
def test_what_is_no_record_is_named(ledger: Ledger, content: str) -> None:
    ledger.write("a", CONFIG, "running")
    path = ledger.folder / "a.json"
    path.write_text(content)
    with pytest.raises(LedgerError) as caught:
        ledger.read_one("a")
    assert str(caught.value) == (
        f"{path} is not a trial's record; remove it, then --resume trains the trial again"
    )


def test_writers_wait_for_each_other(ledger: Ledger) -> None:
    ledger.write("a", CONFIG, "running")
    names = [str(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: ledger.note("a", name), names))
    assert sorted(record(ledger)["notes"]) == sorted(names)


def test_a_writer_that_died_with_the_lock_stops_nobody(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "LOCK_SECONDS", 0.3)
    ledger.folder.mkdir()
    with open(ledger.folder / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        ledger.write("a", CONFIG, "running")
        assert time.monotonic() - began >= 0.3, "it was given the time to finish"
    assert record(ledger)["status"] == "running"


def test_whether_a_trial_has_ended() -> None:
    fifo: dict[str, Any] = {"settings": {"scheduler": "fifo"}}
    asha: dict[str, Any] = {"settings": {"scheduler": "asha"}}
    bare: list[dict[str, Any]] = [{}, {"settings": {}}]
    assert not has_ended(None, fifo)
    assert not has_ended({"status": "running"}, asha)
    for plan in (fifo, asha, *bare):
        assert has_ended({"status": "done"}, plan)
        assert has_ended({"status": "failed"}, plan)
        assert has_ended({"status": "stopped", "by": "asha"}, plan)
    # nobody can have stopped it: its result was lost
    for plan in (fifo, *bare):
        assert not has_ended({"status": "stopped"}, plan)
        assert not has_ended({"status": "stopped", "by": ""}, plan)
    assert has_ended({"status": "stopped"}, asha)


def test_what_should_be_in_the_folder_and_is_not(tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = out / "checkpoints" / "whole"
    whole.mkdir(parents=True)
    manifest = {
        "format": 1,
        "weights": {"file": "w.pt", "sha256": ""},
        "config": {},
        "input": {"mean": 0, "std": 1},
    }
    (whole / "checkpoint.json").write_text(json.dumps(manifest))
    (whole / "w.pt").touch()
    records = {
        "whole": {"status": "done"},
        "gone": {"status": "done"},
        "lost": {"status": "stopped"},
        "stopped": {"status": "stopped", "by": "asha"},
        "failed": {"status": "failed"},
        "running": {"status": "running"},
    }
    assert missing(out, {}, records) == {
        "gone": (
            f"its checkpoint is missing ({out / 'checkpoints' / 'gone' / 'checkpoint.json'}); put "
            f"it back, or remove {out / 'ledger' / 'gone.json'}, then --resume trains the trial "
            "again"
        ),
        "lost": "its result was lost; --resume trains it again",
    }
