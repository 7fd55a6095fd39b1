"""W&B online, with the real client and the real sweep, against a server of this machine.

What W&B's own server does beyond the protocol is not tested here: see docs/wandb.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from command_line import QUICK, SPACE, STARTED, make_data, rows, run, start, wait_for
from wandb_server import Run, WandbServer, wandb_server

EPOCHS = 12
WORDS = (*QUICK, "--set", f"epochs={EPOCHS}", "--set", "checkpoint_seconds=0", "--wandb", "online")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """The server, empty; nothing that belongs to whoever runs the tests."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with wandb_server() as made:
        yield made
        assert made.wrong == []


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


def kill(process: Any) -> None:
    """Kill the driver; wait for all that it had started to go."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=500)
    psutil.wait_procs(family, timeout=500)


def resumable_epochs(out: Path) -> list[int]:
    found = (json.loads(path.read_text()) for path in out.glob("checkpoints/*/resume.json"))
    return [state["epoch"] for state in found]


def assert_equals_the_run_folder(held: dict[str, Run], out: Path, ignore: str = "") -> None:
    """Every trial has one run, whose rows are those of history.csv, each once and in order."""
    board = rows(out)
    assert set(held) == {row["wandb_id"] for row in board}
    for row in board:
        run = held[row["wandb_id"]]
        expected = [
            {k: float(v) for k, v in line.items() if v and k not in ("trial_id", ignore)}
            for line in rows(out, "history.csv")
            if line["trial_id"] == row["trial_id"]
        ]
        epochs = [line for line in run.history if "train_loss" in line]
        assert [line["epoch"] for line in epochs] == list(range(1, int(row["epochs"]) + 1))
        assert [line["_step"] for line in epochs] == [line["epoch"] for line in epochs]
        told = [{k: v for k, v in line.items() if k not in ("_step", ignore)} for line in epochs]
        assert told == expected
        for name in ("val_dataset_iou", "test_dataset_iou", "test_image_iou", "best_epoch"):
            assert math.isclose(run.summary[name], float(row[name]), rel_tol=1e-12)
        assert run.exit_code == 0


def assert_is_described(held: dict[str, Run], out: Path) -> None:
    plan = json.loads((out / "plan.json").read_text())
    configs = {trial["trial_id"]: trial["config"] for trial in plan["trials"]}
    for row in rows(out):
        run, config = held[row["wandb_id"]], configs[row["trial_id"]]
        assert row["wandb_id"] == f"{row['trial_id']}-{plan['run_token']}"
        assert run.path[1:] == ("segsweep", row["wandb_id"])
        assert run.display_name == row["trial_id"].rsplit("-", 1)[0]
        assert (run.group, run.job_type) == (plan["wandb_group"], row["candidate"])
        assert {row["task"], row["architecture"], row["encoder"]} <= set(run.tags)
        assert {k: v for k, v in run.config.items() if k in config} == config
        assert run.config["trial_id"] == row["trial_id"]


def test_a_killed_and_resumed_sweep_is_told_once(
    data: Path, tmp_path: Path, server: WandbServer
) -> None:
    out = tmp_path / "killed"
    request = (SPACE, "--data", data, "--out", out, "--set", "architecture=Unet,FPN", *WORDS)
    process = start(*request, cwd=tmp_path, **server.environment)
    wait_for(lambda: max(resumable_epochs(out), default=0) >= 4, process)
    kill(process)
    assert server.runs, "nothing had been told before"
    code, text, err = run(*request, "--resume", cwd=tmp_path, **server.environment)
    assert code == 0, text + err
    assert_is_described(server.runs, out)
    # an epoch that had to be trained again keeps the seconds of the first time
    assert_equals_the_run_folder(server.runs, out, ignore="seconds")
    assert not list(out.glob("wandb/offline-run-*"))
