from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.heartbeat import FILE, SECONDS, Heartbeat, Sign, born, is_gone, last_sign, machine
from sweep.leaderboard import planned, write_tables
from sweep.ledger import Ledger
from sweep.request import RequestError
from sweep.run import main
from sweep.watch import Alive, Watched, watch
from tests.sweep.command_line import QUICK, TINY_TUNE, kill, run, start, wait_for
from tests.sweep.conftest import Finished
from trainables.config import TrialConfig
from trainables.records.files import write_json

METRICS = {
    "val_dataset_iou": 0.5,
    "val_image_iou": 0.5,
    "test_dataset_iou": 0.5,
    "test_image_iou": 0.5,
    "best_epoch": 10,
    "epochs": 10,
    "train_seconds": 60.0,
    "parameters_m": 1.0,
}


def make_run(out: Path, trials: int = 3, done: int = 1, running: int = 1) -> list[str]:
    """Write a run folder as a sweep leaves it in the middle; return its trial_ids."""
    configs = [TrialConfig(encoder="resnet18", epochs=10, seed=seed) for seed in range(trials)]
    ids = [config.trial_id("f") for config in configs]
    listed = [{"trial_id": i, "config": c.model_dump(mode="json")} for i, c in zip(ids, configs)]
    plan: dict[str, Any] = {
        "format": 1,
        "recipe": 2,
        "key": {"fingerprint": "f"},
        "data": {"path": "/d", "options": {}},
        "commands": ["python -m sweep.run demo"],
        "created": "",
        "trials": listed,
        "settings": {},
    }
    ledger = Ledger(out)
    for trial_id, config in zip(ids[:done], configs):
        ledger.write(trial_id, config, "done", metrics=METRICS)
        checkpoint = out / "checkpoints" / trial_id
        checkpoint.mkdir(parents=True)
    for trial_id, config in zip(ids[done : done + running], configs[done:]):
        ledger.write_start(trial_id, config, "node")
        rows = [
            {"epoch": n, "train_loss": 1 / n, "val_dataset_iou": iou, "seconds": 2.0}
            for n, iou in ((1, 0.25), (2, 0.75), (3, None))
        ]
        ledger.write_history(trial_id, rows)
    write_json(out / "plan.json", plan)
    assert planned(plan, {}).keys() == set(ids)
    write_tables(out, plan, ledger.read())
    return ids


def sign_of(out: Path, **values: Any) -> None:
    """Write a sign of life of this process."""
    now = time.time()
    sign = Sign(os.uname().nodename, os.getpid(), machine(), now, now, 1)
    write_json(out / FILE, vars(replace(sign, **values)))


def contents(out: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")}


def watched(out: Path) -> tuple[int, str]:
    screen = StringIO()
    code = watch(out, Console(file=screen, width=100))
    return code, screen.getvalue()


def test_states_are_those_of_the_run(tmp_path: Path) -> None:
    done, running, waiting = make_run(tmp_path)
    first, second, third = Watched(tmp_path).states(None)
    assert (first.trial_id, first.status, first.epoch, first.epochs) == (done, "done", 10, 10)
    assert first.name == "U-Net, ResNet-18, 2-class, seed 0"
    assert (second.trial_id, second.status, second.epoch, second.epochs) == (
        running,
        "running",
        3,
        10,
    )
    # the best so far, the last loss, and 2 s for each of three epochs
    assert (second.val_dataset_iou, second.train_loss, second.seconds) == (0.75, 1 / 3, 6.0)
    assert (third.trial_id, third.status) == (waiting, "waiting")


def test_trials_that_were_not_asked_for_are_not_shown(tmp_path: Path) -> None:
    _, running, _ = make_run(tmp_path)
    sign_of(tmp_path, asked=[running], running=[])
    (state,) = Watched(tmp_path).states(last_sign(tmp_path))
    # interrupted before, and not begun again
    assert (state.trial_id, state.status) == (running, "waiting")


def test_before_the_first_table_all_trials_wait(tmp_path: Path) -> None:
    ids = make_run(tmp_path, done=0, running=0)
    (tmp_path / "leaderboard.csv").unlink()
    states = Watched(tmp_path).states(None)
    assert [(s.trial_id, s.status, s.epochs) for s in states] == [(i, "waiting", 10) for i in ids]


def test_an_interrupted_run_is_not_running(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = contents(tmp_path)
    code, text = watched(tmp_path)
    assert code == 130
    assert contents(tmp_path) == before
    assert text.splitlines()[-2:] == [
        "not running: 2 trials have not ended; run the same command with --resume to continue:",
        "  python -m sweep.run demo --resume",
    ]


def test_the_code_of_a_run_that_no_node_could_finish(tmp_path: Path) -> None:
    make_run(tmp_path)
    sign_of(tmp_path, code=1)
    assert watched(tmp_path)[0] == 1


def test_a_finished_run_shows_its_leaderboard(finished: Finished) -> None:
    out, code, text, _ = finished
    before = contents(out)
    ended, shown, err = run("--watch", out, cwd=out.parent)
    assert (ended, err) == (code, "")
    assert contents(out) == before
    # what the sweep itself printed after its last epoch
    assert shown.startswith(" ")
    assert f"\n{shown}this took " in text


@pytest.mark.parametrize("there", ["a file", "another folder"])
def test_what_is_no_run_is_refused(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    if there == "a file":
        out.write_text("")
    else:
        out.mkdir()
        (out / "photos").mkdir()
    assert main(["--watch", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --watch {out}: ")
    assert str(out) in line


def test_watch_takes_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--watch", str(tmp_path), "--resume", "--data", "x"]) == 2
    err = capsys.readouterr().err
    assert err == "error: --watch OUT takes nothing else; remove --data, --resume\n"


def test_an_address_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--watch", "gs://bucket/run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --watch gs://bucket/run: this kind of address is not supported")
    assert err.count("\n") == 1


def test_where_nothing_was_written_it_waits_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("sweep.watch.time.sleep", lambda seconds: None)

    def clock() -> float:
        nonlocal now
        now += 5
        return now

    screen = StringIO()
    with pytest.raises(RequestError, match="no sweep has started there within 60 s"):
        watch(tmp_path / "later", Console(file=screen, width=300), clock)
    (line,) = screen.getvalue().splitlines()
    assert line.endswith("later yet; waiting for a sweep to start")
    assert not (tmp_path / "later").exists()


def test_a_sweep_that_was_refused_after_it_locked_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError), Heartbeat(tmp_path):
        raise RequestError("no such weights")
    code, text = watched(tmp_path)
    assert code == 2
    assert text.startswith("not running: the sweep that was started here ended before its first")


KILLED = """
import sys, time
from pathlib import Path
from sweep.heartbeat import Heartbeat
with Heartbeat(Path(sys.argv[1])) as heart:
    heart.say(title="a title")
    heart.beat()
    print("x", flush=True)
    time.sleep(600)
"""


def test_a_killed_driver_is_noticed(tmp_path: Path) -> None:
    make_run(tmp_path)
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as driver:
        try:
            assert driver.stdout is not None
            driver.stdout.readline()
            sign = last_sign(tmp_path)
            assert sign is not None
            assert (sign.pid, sign.title, sign.beat) == (driver.pid, "a title", 2)
            assert not is_gone(sign)
            # the clock may have been set since
            assert not is_gone(replace(sign, started=sign.started - 7200))
            # elsewhere its number means nothing
            assert not is_gone(replace(sign, machine="another", pid=2**22 - 1))
        finally:
            driver.kill()
    assert is_gone(sign)
    assert not is_gone(replace(sign, machine=""))
    code, text = watched(tmp_path)
    assert code == 130
    assert f"not running (process {driver.pid} on {os.uname().nodename}, last sign of" in text


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_was_set_does_not_change_how_long_a_sweep_runs(
    hours: int, tmp_path: Path
) -> None:
    make_run(tmp_path)
    started = time.time() + 3600 * hours
    sign_of(tmp_path, started=started, seconds=3600.0, born=born(os.getpid()))
    process = start("--watch", tmp_path, cwd=tmp_path)
    assert process.stdout is not None
    _title, line = (process.stdout.readline() for _ in range(2))
    assert line.startswith("1:00:"), line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_pid_that_another_process_has_got_is_not_the_driver() -> None:
    sign = Sign("h", os.getpid(), machine(), 1e9, 1e9, 1)
    assert is_gone(sign)
    assert not is_gone(replace(sign, started=time.time()))


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"pid": "x"}'])
def test_a_damaged_sign_is_none(damage: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(damage)
    assert last_sign(tmp_path) is None


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize("hours", [-2, 0, 2])
def test_clocks_of_two_machines_may_differ(hours: int, tmp_path: Path) -> None:
    clock, there = Clock(), time.time() + 3600 * hours
    alive = Alive(Watched(tmp_path), clock)
    assert not alive.look()
    for beat in range(1, 4):
        sign_of(tmp_path, machine="", time=there, started=there - 60, beat=beat)
        assert alive.look()
        clock.time += SECONDS
        there += SECONDS
    assert alive.look()
    assert alive.age() == pytest.approx(SECONDS)
    clock.time += 100
    assert alive.look()
    assert "it may have lost OUT, or have been killed" in alive.text()
    clock.time += 300
    assert not alive.look()


def test_an_old_sign_from_elsewhere_gets_one_more_chance(tmp_path: Path) -> None:
    clock, then = Clock(), time.time() - 7200
    sign_of(tmp_path, machine="", time=then, started=then)
    alive = Alive(Watched(tmp_path), clock)
    assert alive.look()
    clock.time += SECONDS + 6
    assert not alive.look()


def test_the_last_epoch_is_timed_by_one_clock(tmp_path: Path) -> None:
    sign_of(tmp_path, time=1000.0, epoch_seconds=30.0, machine="")
    clock = Clock()
    alive = Alive(Watched(tmp_path), clock)
    alive.look()
    alive._first_age = 0.0
    clock.time += 5
    assert alive.text().endswith("sign of life 0:05 ago, last epoch 0:35 ago")


def test_a_refresh_of_1000_trials_is_cheap(tmp_path: Path) -> None:
    make_run(tmp_path, trials=1000, done=500, running=8)
    sign_of(tmp_path)
    reader = Watched(tmp_path)
    sign = reader.sign()
    assert len(reader.states(sign)) == 1000
    began = time.process_time()
    for _ in range(20):
        reader.states(reader.sign())
    assert (time.process_time() - began) / 20 < 0.02  # measured: 0.001


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Path]:
    """Run folder of a sweep whose driver is this process."""
    make_run(tmp_path)
    with Heartbeat(tmp_path) as heart:
        heart.say(title="3 trials", note="a node was lost")
        heart.beat()
        yield tmp_path


def test_ctrl_c_ends_only_the_watching(driver: Path) -> None:
    process = start("--watch", driver, cwd=driver)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0] == "3 trials\n"
    assert "1 done, 1 running, 1 waiting" in lines[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped watching; the sweep is not affected\n")


def test_a_terminal_shows_the_process(driver: Path) -> None:
    screen = StringIO()
    console = Console(file=screen, width=80, height=24, force_terminal=True)

    def later() -> float:
        if "seed 1" in screen.getvalue():
            raise KeyboardInterrupt
        return time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        watch(driver, console, later)
    text = screen.getvalue()
    assert f"process {os.getpid()} on {os.uname().nodename}, sign of life 0:0" in text
    assert "last message: a node was lost" in text


@pytest.mark.slow
def test_watching_a_real_sweep_until_its_end_and_after_a_kill(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(architecture='Unet'))\n"
    )
    words = ("one.py", "--data", data, "--out", "r", *QUICK, *TINY_TUNE, "--set", "epochs=40")
    watching = start("--watch", "r", cwd=tmp_path)
    sweep = start(*words, cwd=tmp_path)
    out = tmp_path / "r"
    history = out / "history.csv"
    wait_for(lambda: history.is_file() and len(history.read_text()) > 200, sweep)
    sign = last_sign(out)
    assert sign is not None
    assert sign.pid == sweep.pid
    kill(sweep)
    text, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (130, "")
    assert "nothing has been written to" in text.splitlines()[0]
    assert "0 done, 1 " in text
    assert text.splitlines()[-1].endswith("epochs=40 --resume")
    sweep = start(*words, "--resume", cwd=tmp_path)
    wait_for(lambda: (now := last_sign(out)) is not None and now.pid == sweep.pid, sweep)
    watching = start("--watch", "r", cwd=tmp_path)
    printed, _ = sweep.communicate(timeout=500)
    text, err = watching.communicate(timeout=60)
    assert (sweep.returncode, watching.returncode, err) == (0, 0, "")
    assert printed.split("this took")[0].splitlines()[-4:] == text.splitlines()[-6:-2]
    assert json.loads((out / FILE).read_text())["code"] == 0
