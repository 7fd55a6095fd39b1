"""W&B online, with the real client and the real sweep, against a server of this machine.

What W&B's own server does beyond the protocol is not tested here: see docs/wandb.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.sweep.command_line import QUICK, SPACE, kill, rows, run, start, wait_for
from tests.sweep.wandb_server import KEY, Run, WandbServer, wandb_server

EPOCHS = 6
WORDS = (
    *QUICK,
    "--set",
    f"epochs={EPOCHS}",
    "--set",
    "checkpoint_seconds=0",
    "--wandb",
    "online",
    "--set",
    "architecture=Linknet,FPN",
    "--set",
    "artifacts=true",
)
ONE_AT_A_TIME = ("--gpus", "1", "--set", "gpus_per_trial=1", "--set", "cpus_per_trial=1")
"""Or what Ray takes for a GPU."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """The server, empty; nothing that belongs to whoever runs the tests, nor to this process."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    with wandb_server() as made:
        yield made
        assert made.wrong == []


def resumable_epochs(out: Path) -> list[int]:
    found = (json.loads(path.read_text()) for path in out.glob("checkpoints/*/resume.json"))
    return [content["states"][0]["epoch"] for content in found]


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


def assert_has_checkpoints(server: WandbServer, out: Path) -> None:
    """Every trial's checkpoint is there once, as it lies in the run folder."""
    board = rows(out)
    assert all(one.committed for one in server.artifacts)
    held = {one.name: one for one in server.artifacts}
    assert len(held) == len(server.artifacts)
    assert set(held) == {f"checkpoint-{row['wandb_id']}" for row in board}
    for row in board:
        artifact, folder = held[f"checkpoint-{row['wandb_id']}"], out / row["checkpoint"]
        assert (artifact.run, artifact.type) == (row["wandb_id"], "model")
        assert "best" in artifact.aliases
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        assert set(artifact.files) == set(files)
        assert all(data == files[name].read_bytes() for name, data in artifact.files.items())
        (manifest,) = artifact.manifest.values()
        for name, entry in json.loads(manifest)["contents"].items():
            assert Path(entry["local_path"]) == files[name], "it was copied first"


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
    request = (SPACE, "--data", data, "--out", out, *WORDS, *ONE_AT_A_TIME)
    process = start(*request, cwd=tmp_path, **server.environment)
    wait_for(lambda: max(resumable_epochs(out), default=0) >= 3, process)
    assert not [words for words in all_arguments() if KEY in words]
    kill(process)
    assert server.runs, "nothing had been told before"
    code, text, err = run(*request, "--resume", cwd=tmp_path, **server.environment)
    assert code == 0, text + err
    assert_is_described(server.runs, out)
    # an epoch that had to be trained again keeps the seconds of the first time
    assert_equals_the_run_folder(server.runs, out, ignore="seconds")
    assert not list(out.glob("wandb/offline-run-*"))
    assert_has_checkpoints(server, out)
    assert not [path for path in out.rglob("*") if path.is_file() and holds(path, KEY)]


def all_arguments() -> list[str]:
    """Return the command line of every process of this machine, as every user can read it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(path.read_bytes().decode(errors="replace"))
    assert any("sweep.run" in words for words in found)
    return found


def holds(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()


ATTEMPT = """
import json, logging, os, signal, sys, time
from sweep.tracking import Tracker, TrackingOptions
from trainables.config import EpochRecord

folder, mode, past, epochs, end = json.loads(sys.argv[1])
logging.basicConfig(stream=sys.stdout, format="%(message)s")
made = TrackingOptions(mode=mode, group="demo", folder=folder, token="token")
with Tracker(made, "a", {"task": "semantic2"}, resumed=past > 0) as tracker:
    records = [EpochRecord(e, 1 / e, None, None, None, 0.5) for e in range(1, epochs + 1)]
    tracker.past(records[:past])
    for record in records[past:]:
        tracker.epoch(record)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.finish({"best_epoch": epochs}, failed=end == "failed")
"""


def attempt(
    server: WandbServer,
    folder: Path,
    past: int,
    epochs: int,
    end: str = "done",
    mode: str = "online",
    **environment: str,
) -> str:
    """Tell of one attempt at a trial from a process of its own; return what it logs."""
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, json.dumps([str(folder), mode, past, epochs, end])],
        env={**os.environ, **server.environment, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    return done.stdout


def epochs_of(run: Run) -> list[int]:
    return [row["epoch"] for row in run.history]


def sync(server: WandbServer, out: Path, *words: str) -> None:
    """Upload as docs/wandb.md says."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--yes", *words],
        cwd=out,
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_epochs_that_the_server_has_are_not_told_again(tmp_path: Path, server: WandbServer) -> None:
    attempt(server, tmp_path, past=0, epochs=5, end="failed")
    (run,) = server.runs.values()
    assert (epochs_of(run), run.exit_code) == ([1, 2, 3, 4, 5], 1)
    # the state that was saved is older than what was told
    attempt(server, tmp_path, past=3, epochs=7)
    assert server.runs == {"a-token": run}
    assert (epochs_of(run), run.exit_code) == ([1, 2, 3, 4, 5, 6, 7], 0)
    assert [row["_step"] for row in run.history] == epochs_of(run)
    assert run.summary["best_epoch"] == 7
    assert run.tags == ["semantic2", "resumed"]


def read_by_sync(out: Path) -> list[str]:
    """Names of the folders that `wandb sync` would upload."""
    files = out.glob("wandb/offline-run-*/*.wandb")
    return [f.parent.name for f in files if not f.with_suffix(".wandb.synced").exists()]


@pytest.mark.slow
def test_interrupted_offline_attempts_are_uploaded_once(
    tmp_path: Path, server: WandbServer
) -> None:
    attempt(server, tmp_path, past=0, epochs=5, end="failed", mode="offline")
    attempt(server, tmp_path, past=3, epochs=6, end="killed", mode="offline")
    attempt(server, tmp_path, past=4, epochs=7, mode="offline")
    assert len(read_by_sync(tmp_path)) == 1
    sync(server, tmp_path)
    (run,) = server.runs.values()
    assert epochs_of(run) == [1, 2, 3, 4, 5, 6, 7]
    assert (run.exit_code, run.summary["best_epoch"]) == (0, 7)
    assert read_by_sync(tmp_path) == []


@pytest.mark.slow
def test_attempts_online_and_offline_are_never_mixed_up(
    tmp_path: Path, server: WandbServer
) -> None:
    attempt(server, tmp_path, past=0, epochs=5, end="failed", mode="online")
    attempt(server, tmp_path, past=3, epochs=6, mode="offline")
    # what the server has is not known offline: nothing that could repeat it is left to upload
    assert read_by_sync(tmp_path) == []
    other = tmp_path / "other"
    attempt(server, other, past=0, epochs=5, end="failed", mode="offline")
    attempt(server, other, past=3, epochs=7, mode="online")
    assert read_by_sync(other) == []
    (run,) = server.runs.values()
    assert epochs_of(run) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["error", "silence", "revoked", "down"])
def test_a_server_that_fails_on_the_way_costs_nothing(
    trouble: Literal["error", "silence", "revoked", "down"],
    data: Path,
    tmp_path: Path,
    server: WandbServer,
) -> None:
    out = tmp_path / "cut"
    process = start(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *WORDS,
        *ONE_AT_A_TIME,
        cwd=tmp_path,
        WANDB_INIT_TIMEOUT="5",
        WANDB_FINISH_TIMEOUT="5",
        **server.environment,
    )
    wait_for(lambda: resumable_epochs(out), process)
    if trouble == "down":
        server.shutdown()
        server.server_close()
    else:
        server.trouble = trouble
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    said = [line for line in (out / "sweep.log").read_text().splitlines() if "W&B" in line]
    # with a revoked key W&B can still be reached, so that the next trial finds out anew
    assert len(said) == (2 if trouble == "revoked" else 1), said
    assert f"python -m sweep.wandb_upload {out}" in said[0]
    assert "wandb" not in (text + err).lower()
    assert [row["status"] for row in rows(out)] == ["done", "done"]
    if trouble == "down":
        with wandb_server() as another:
            tell_later(another, out)
            assert another.wrong == []
    else:
        server.trouble = None
        tell_later(server, out)


def tell_later(server: WandbServer, out: Path) -> None:
    """Give a server what it lacks of a sweep, twice; look at what it has then."""
    command = (sys.executable, "-m", "sweep.wandb_upload", str(out))
    for _ in range(2):
        done = subprocess.run(
            command,
            env={**os.environ, **server.environment},
            capture_output=True,
            text=True,
            timeout=500,
            cwd=out.parent,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert "2 of 2 ended trials" in done.stdout
        assert_equals_the_run_folder(server.runs, out)
        assert_is_described(server.runs, out)
        assert_has_checkpoints(server, out)


@pytest.mark.slow
def test_an_offline_sweep_is_uploaded_as_it_was(
    data: Path, tmp_path: Path, server: WandbServer
) -> None:
    out = tmp_path / "offline"
    words = [word if word != "online" else "offline" for word in WORDS]
    request = (SPACE, "--data", data, "--out", out, *words, *ONE_AT_A_TIME)
    process = start(*request, cwd=tmp_path)
    wait_for(lambda: max(resumable_epochs(out), default=0) >= 3, process)
    kill(process)
    code, text, err = run(*request, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert server.runs == {}
    sync(server, out)
    assert_equals_the_run_folder(server.runs, out)
    assert_is_described(server.runs, out)
    tell_later(server, out)
