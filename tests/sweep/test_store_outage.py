"""Whole sweeps in an object store: across an outage, and with more epochs later."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import BUCKET, client, keys_of, serving, store_environment
from tests.sweep.command_line import QUICK, SPACE, TINY_TUNE, make_data, rows, run, start, wait_for

OUTAGE_SECONDS = 70.0


def local_copy(address: str, out: str, to: Path) -> Path:
    """Copy a run out of the store."""
    prefix = out.removeprefix(f"s3://{BUCKET}/") + "/"
    for name in keys_of(address, prefix):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        client(address).download_file(BUCKET, prefix + name, str(to / name))
    return to


def results(out: Path) -> tuple[list[Any], list[Any]]:
    """Return the figures of all trials, and of all their epochs."""
    figures = ("trial_id", "status", "val_dataset_iou", "test_dataset_iou", "best_epoch", "epochs")
    epochs = ("trial_id", "epoch", "train_loss", "val_loss", "val_dataset_iou")
    board = [[row[name] for name in figures] for row in rows(out)]
    return board, [[row[name] for name in epochs] for row in rows(out, "history.csv")]


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "ledger").glob("*.json"))]


@pytest.mark.slow
def test_a_sweep_across_an_outage(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data"), f"s3://{BUCKET}/outage/run"
    words: list[Any] = [SPACE, "--data", data, *QUICK, *TINY_TUNE, "--seeds", "2"]
    words += ["--set", "architecture=Unet,FPN", "--set", "epochs=6"]
    words += ["--set", "checkpoint_seconds=0"]
    with serving() as address:
        client(address).create_bucket(Bucket=BUCKET)
        environment = store_environment(address, tmp_path / "cache")
        driver = start(*words, "--out", out, cwd=tmp_path, **environment)
        wait_for(lambda: any("resume-00002" in name for name in keys_of(address, "outage")), driver)
    # the server has stopped; what it holds is kept until the next one
    began = time.monotonic()
    while time.monotonic() < began + OUTAGE_SECONDS:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.5)
    with serving(int(address.rpartition(":")[2])):
        text, err = driver.communicate(timeout=500)
        assert driver.returncode == 0, text + err
        got = local_copy(address, out, tmp_path / "got")
    assert "trying again for 10 minutes" in text
    assert [(r["status"], len(r["attempts"])) for r in records(got)] == [("done", 1)] * 4
    code, text, err = run(*words, "--out", tmp_path / "disk", cwd=tmp_path)
    assert code == 0, text + err
    assert results(got) == results(tmp_path / "disk")


@pytest.mark.slow
def test_more_epochs_continue_from_a_state_in_the_store(tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data"), f"s3://{BUCKET}/longer/run"
    words: list[Any] = [SPACE, "--data", data, *QUICK, *TINY_TUNE, "--set", "architecture=Unet"]
    words += ["--set", "lr_schedule=constant", "--set", "keep_last_state=true"]

    def twice(out: object, *caches: dict[str, str]) -> None:
        for epochs, environment in zip((2, 4), caches, strict=True):
            more = ("--out", out, "--set", f"epochs={epochs}")
            code, text, err = run(*words, *more, cwd=tmp_path, **environment)
            assert code == 0, text + err
            assert ("1 with more epochs, continued from shorter ones" in text) == (epochs == 4)

    with serving() as address:
        client(address).create_bucket(Bucket=BUCKET)
        # the second command is given on a machine that has none of the first one's files
        twice(out, *(store_environment(address, tmp_path / name) for name in "ab"))
        got = local_copy(address, out, tmp_path / "got")
    twice(tmp_path / "disk", {}, {})
    assert results(got) == results(tmp_path / "disk")
    assert [row["epochs"] for row in rows(got)].count("4") == 1
    kept = [path for path in got.glob("checkpoints/*/last/*") if path.is_file()]
    assert sorted(path.name for path in kept if path.suffix == ".json") == ["resume.json"] * 2
    # the longer trial did not train its first epochs again
    seconds = {(r["trial_id"], r["epoch"]): r["seconds"] for r in rows(got, "history.csv")}
    short, long = sorted(records(got), key=lambda record: record["config"]["epochs"])
    for epoch in "12":
        assert seconds[short["trial_id"], epoch] == seconds[long["trial_id"], epoch]
