"""SIGINT, SIGTERM and SIGHUP to a real sweep: trials save their states, then it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.counted import read_steps, repeated, write_space
from tests.sweep.command_line import (
    QUICK,
    SPACE,
    STARTED,
    environment,
    family_of,
    rows,
    run,
    start,
    wait_for,
)

EPOCHS = 30


def words(data: Path, out: Path, *more: object) -> Sequence[object]:
    """Return a request that saves no state in its first ten minutes."""
    known = (SPACE, "--data", data, "--out", out, *QUICK, "--wandb", "off")
    return (*known, "--set", f"epochs={EPOCHS}", "--set", "checkpoint_seconds=600", *more)


def epochs_said(out: Path) -> int:
    """Return how many epochs history.csv has."""
    return len(rows(out, "history.csv")) if (out / "history.csv").exists() else 0


def saved(out: Path) -> dict[str, int]:
    """Return the epoch of each trial's last saved state."""
    found = {path.parent.name: path for path in out.glob("checkpoints/*/resume.json")}
    return {i: json.loads(path.read_text())["states"][0]["epoch"] for i, path in found.items()}


def assert_saved_all(out: Path) -> None:
    """No epoch that was reported has to be computed again, and no file asks for a stop."""
    last = {row["trial_id"]: int(row["epoch"]) for row in rows(out, "history.csv")}
    assert saved(out) == last
    assert not list(out.glob(".stop*"))


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(
    number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    request = words(data, out, "--set", "architecture=Unet,FPN", "--set", "concurrency=1")
    process = start(*request, cwd=tmp_path)
    wait_for(lambda: epochs_said(out) >= 2, process)
    assert saved(out) == {}
    family = family_of(process)
    process.send_signal(number)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 130, text + err
    assert "stopping: 1 trial saves at its next training step" in text
    assert "run the same command with --resume to continue" in text
    assert_saved_all(out)
    assert len(saved(out)) == 1, "the other trial has not begun"
    assert {row["status"] for row in rows(out)} == {"running", "waiting"}
    _, left = psutil.wait_procs(family, timeout=200)
    assert not left


STEPS = 6
"""Batches of an epoch of `make_data` for the networks that count."""


def counted(out: Path) -> list[tuple[str, str, str, str]]:
    """Return what history.csv says, without times."""
    names = ("trial_id", "epoch", "train_loss", "val_loss")
    return [tuple(row[name] for name in names) for row in rows(out, "history.csv")]  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_long_epoch_is_not_waited_for_and_no_step_is_repeated(
    number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    record, out, calm = tmp_path / "steps", tmp_path / "run", tmp_path / "calm"
    words = (tmp_path / "space.py", "--data", data, "--wandb", "off", "--set", "cpus_per_trial=1")

    def networks(pause: float) -> None:
        write_space(tmp_path, record, trials=2, epochs=3, pause=pause)

    networks(0.0)
    code, text, err = run(*words, "--out", calm, cwd=tmp_path)
    assert code == 0, text + err
    assert len(read_steps(record)) == 2 * 3 * STEPS
    record.unlink()
    networks(5.0)  # half a minute for an epoch
    process = start(*words, "--out", out, "--set", "concurrency=2", cwd=tmp_path)
    wait_for(
        lambda: len({step.trial for step in read_steps(record) if step.number > 1}) == 2, process
    )
    process.send_signal(number)
    began = time.monotonic()
    text, err = process.communicate(timeout=500)
    print(f"{number.name}: ended after {time.monotonic() - began:.1f} s")
    assert process.returncode == 130, text + err
    assert "stopping: 2 trials save at their next training step" in text
    before = read_steps(record)
    assert max(step.number for step in before) < STEPS, "an epoch was finished"
    states = [json.loads(path.read_text()) for path in out.glob("checkpoints/*/resume.json")]
    assert sorted(one["states"][0]["batches"] for one in states) == sorted(
        Counter(step.trial for step in before).values()
    )
    networks(0.0)
    code, text, err = run(*words, "--out", out, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert text.count("seed 0 from epoch 1, which was begun before") == 2
    steps = read_steps(record)
    assert len(steps) == len({(step.trial, step.number) for step in steps}) == 2 * 3 * STEPS
    assert counted(out) == counted(calm)
    figures = ("val_dataset_iou", "test_dataset_iou", "test_image_iou", "best_epoch")
    assert [[row[name] for name in figures] for row in rows(out)] == [
        [row[name] for name in figures] for row in rows(calm)
    ]


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_repeats_at_most_one_interval(
    data: Path, tmp_path: Path
) -> None:
    record, out = tmp_path / "steps", tmp_path / "run"
    write_space(tmp_path, record, trials=1, epochs=3, pause=0.5)
    more = ("--wandb", "off", "--set", "cpus_per_trial=1", "--set", "checkpoint_seconds=0")
    process = start(tmp_path / "space.py", "--data", data, "--out", out, *more, cwd=tmp_path)
    wait_for(lambda: any(step.number > STEPS + 1 for step in read_steps(record)), process)
    psutil.Process(read_steps(record)[-1].pid).terminate()
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert "trying again" in text
    assert "seed 0 from epoch 2" in text
    (again,) = repeated(read_steps(record), STEPS)
    assert 0 < again <= 1


@pytest.mark.slow
def test_ctrl_c_then_resume_equals_undisturbed(data: Path, tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "run"
    more = ("--set", "architecture=Unet", "--set", "cpus_per_trial=1")
    code, text, err = run(*words(data, calm, *more), cwd=tmp_path)
    assert code == 0, text + err
    process = start(*words(data, out, *more), cwd=tmp_path)
    wait_for(lambda: epochs_said(out) >= 2, process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 130, text + err
    assert_saved_all(out)
    code, text, err = run(*words(data, out, *more, "--resume"), cwd=tmp_path)
    assert code == 0, text + err
    losses = [
        [(row["epoch"], row["train_loss"], row["val_loss"]) for row in rows(one, "history.csv")]
        for one in (calm, out)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == EPOCHS


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*words(data, out, "--set", "architecture=Unet"), cwd=tmp_path)
    wait_for(lambda: epochs_said(out) >= 2, process)
    workers = [one for one in family_of(process) if one.name().startswith("ray::")]
    for one in workers:
        one.suspend()  # an epoch that does not end
    process.send_signal(signal.SIGINT)
    wait_for(lambda: list(out.glob(".stop*")), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=200)
    assert process.returncode == 130, text + err
    assert "--resume" in text + err
    for one in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()  # it is stopped, and would not notice


@pytest.mark.slow
@pytest.mark.parametrize("nohup", [False, True])
def test_the_terminal_is_closed(nohup: bool, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    request = words(data, out, "--set", "architecture=Unet")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*(["nohup"] if nohup else []), sys.executable, "-m", "sweep.run", *map(str, request)],
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # its own terminal
    )
    STARTED.append(process)
    os.close(theirs)
    os.set_blocking(ours, False)

    def trained() -> bool:
        with contextlib.suppress(OSError):
            os.read(ours, 2**16)
        return epochs_said(out) >= 2

    wait_for(trained, process)
    os.close(ours)
    code = process.wait(timeout=500)
    if nohup:
        assert code == 0
        assert [row["status"] for row in rows(out)] == ["done"]
        return
    assert code == 130
    assert_saved_all(out)
    assert [row["status"] for row in rows(out)] == ["running"]
