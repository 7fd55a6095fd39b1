"""What becomes of trials that end in another way than by their own record."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from rich.console import Console

from sweep import leaderboard
from sweep.background import Pace
from sweep.ledger import Ledger
from sweep.limits import Limits
from sweep.recorder import MOST_ATTEMPTS, Recorder
from sweep.tuner import MOST_RESTARTS, GivenUp, keep_fitting, keep_searching
from sweep.view import View
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.records.attempts import Attempt as Begun
from trainables.records.patience import WAITS
from trainables.records.resumable import Form, Progress


def recorder(out: Path, configs: dict[str, TrialConfig], **more: Any) -> Recorder:
    plan: dict[str, Any] = {
        "trials": [{"trial_id": i, "config": c.model_dump(mode="json")} for i, c in configs.items()]
    }
    runtime = {"round": "1", "tracking": {"mode": "off"}, "fingerprint": "f", **more}
    return Recorder(out, plan, runtime, View(Console(quiet=True), "t", 1))


def test_the_sweep_goes_on_without_those_that_ended(tmp_path: Path) -> None:
    configs = {name: TrialConfig(seed=n) for n, name in enumerate("abcd")}
    made = recorder(tmp_path, configs)
    seen: list[list[str]] = []

    def fit(todo: list[str]) -> None:
        seen.append(todo)
        if len(seen) == 1:
            made.ledger.write("a", configs["a"], "done", metrics={})
            made.ledger.write_start("b", configs["b"], "node")
            raise ray.exceptions.OutOfMemoryError("1 worker was killed")
        for name in todo:
            made.ledger.write(name, configs[name], "done", metrics={})

    keep_fitting(fit, list("abcd"), made)
    assert seen == [["a", "b", "c", "d"], ["b", "c", "d"]]


def test_a_search_goes_on_with_what_was_begun_and_what_is_left_to_draw(tmp_path: Path) -> None:
    configs = {name: TrialConfig(seed=n) for n, name in enumerate("abc")}
    made = recorder(tmp_path, {})  # its plan lists no trial
    seen: list[list[str]] = []

    def fit(waiting: list[str]) -> None:
        seen.append(waiting)
        if len(seen) == 1:
            for name in "ab":
                made._state(name, configs[name])
                made.ledger.write_start(name, configs[name], "node")
            made.ledger.write("a", configs["a"], "done", metrics={})
            raise ray.exceptions.OutOfMemoryError("1 worker was killed")
        if len(seen) == 2:
            made.ledger.write("b", configs["b"], "done", metrics={})
            raise ray.exceptions.OutOfMemoryError("1 worker was killed")

    keep_fitting(fit, [], made, lambda: 3 - len(made.ledger.read()))
    assert seen == [[], ["b"], []]


def test_a_search_is_not_over_before_all_is_drawn(tmp_path: Path) -> None:
    made, seen = recorder(tmp_path, {}), []

    def search(waiting: list[str]) -> None:
        seen.append(waiting)
        if len(seen) < 3:
            made.ledger.write(str(len(seen)), TrialConfig(), "done", metrics={})

    keep_searching(search, ["a"], made, lambda: 4 - len(made.ledger.read()))
    assert seen == [["a"], [], []], "until nothing new comes"


def test_a_trial_that_always_brings_it_down_has_failed(tmp_path: Path) -> None:
    configs = {"a": TrialConfig()}
    made = recorder(tmp_path, configs)

    def fit(todo: list[str]) -> None:
        made.ledger.write_start("a", configs["a"], "node")
        raise ray.exceptions.OutOfMemoryError("1 worker was killed")

    keep_fitting(fit, ["a"], made)
    record = made.ledger.read_one("a")
    assert record is not None
    assert record["status"] == "failed"
    assert "1 worker was killed" in record["error"]
    assert len(record["attempts"]) == MOST_ATTEMPTS + 1


def test_a_trial_that_was_preempted_often_has_not_failed(tmp_path: Path) -> None:
    """On spot machines and at time limits of a queue, every restart is a further attempt: a trial
    with nine of them had failed as soon as Ray Tune gave up once, for whatever reason.
    """
    configs = {"a": TrialConfig()}
    for _ in range(MOST_ATTEMPTS + 4):
        Ledger(tmp_path).write_start("a", configs["a"], "node")
    made, calls = recorder(tmp_path, configs), list[list[str]]()

    def fit(todo: list[str]) -> None:
        calls.append(todo)
        if len(calls) == 1:
            raise ray.exceptions.OutOfMemoryError("1 worker was killed")

    keep_fitting(fit, ["a"], made)
    assert calls == [["a"], ["a"]]
    record = made.ledger.read_one("a")
    assert record is not None
    assert record["status"] == "running"


def test_a_tune_that_always_gives_up_is_said_in_one_line(tmp_path: Path) -> None:
    """As when every start of its actors fails: no trial has begun, so none is at fault."""
    made, calls = recorder(tmp_path, {"a": TrialConfig()}), list[list[str]]()

    def fit(todo: list[str]) -> None:
        calls.append(todo)
        raise ray.exceptions.OutOfMemoryError("1 worker was killed\nand more lines")

    with pytest.raises(GivenUp, match=r"^Ray Tune gave up 21 times \(.*: 1 worker was killed\)$"):
        keep_fitting(fit, ["a"], made)
    assert calls == [["a"]] * (MOST_RESTARTS + 1)


class Attempt:
    """What Ray Tune tells a callback of a trial, as far as the recorder reads it."""

    def __init__(self, config: TrialConfig) -> None:
        self.settings = {"config": config.model_dump(mode="json"), "limits": Limits().to_dict()}
        self.run_metadata = SimpleNamespace(num_failures=2, last_result={}, metric_analysis={})
        self.temporary_state = SimpleNamespace(ray_actor=None)

    @property
    def config(self) -> dict[str, Any]:
        return {"trial": self.settings}

    @config.setter
    def config(self, emptied: dict[str, Any]) -> None:
        """Stay, as the tests let the same trial end again."""

    def invalidate_json_state(self) -> None:
        pass

    def get_error(self) -> Exception:
        return RuntimeError("its worker died")

    get_pickled_error = get_error


def test_only_a_scheduler_stops_trials(tmp_path: Path) -> None:
    config = TrialConfig()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}, retries=1), Attempt(config)
    epoch = {
        "epoch": 1,
        "train_loss": 1.0,
        "val_dataset_iou": 0.5,
        "val_image_iou": 0.5,
        "val_loss": 1.0,
        "seconds": 1.0,
        "score": 0.5,
    }
    for expected in ("waiting", "failed"):
        made.on_trial_start(0, [], trial)
        made.on_trial_result(0, [], trial, epoch)
        made.on_trial_complete(0, [], trial)
        assert made.states[trial_id].status == expected
        assert made.to_try_again() == ([trial_id] if expected == "waiting" else [])
    record = made.ledger.read_one(trial_id)
    assert record is not None
    assert record["status"] == "failed"
    assert "its result is not in the run folder (2 times)" in record["error"]
    made.on_trial_start(0, [], trial)
    made.on_trial_result(0, [], trial, {**epoch, "done": True})
    states = tmp_path / "checkpoints" / trial_id
    states.mkdir(parents=True)
    for name in ("resume.json", "resume-00001.ckpt", "best-00001.pt"):
        (states / name).touch()
    made.on_trial_complete(0, [], trial)
    record = made.ledger.read_one(trial_id)
    assert record is not None
    assert record["status"] == "stopped"
    assert not list(states.iterdir()), "it never goes on"
    assert record["metrics"]["val_dataset_iou"] == 0.5


def test_epochs_that_a_killed_driver_did_not_write_down_are_taken_from_the_saved_state(
    tmp_path: Path,
) -> None:
    config = TrialConfig()
    trial_id = config.trial_id("f")
    attempt = Begun.begin(tmp_path / "checkpoints" / trial_id)
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
    progress = Progress(attempt, form, RunOptions(checkpoint_seconds=0), print)
    for epoch in range(1, 5):
        progress.add(EpochRecord(epoch, 1 / epoch, 1.0, epoch / 10, epoch / 10, 1.0), bytes)
    progress.save_if_due(lambda path: path.write_bytes(b""))
    Ledger(tmp_path).write_history(trial_id, progress.history.rows()[:2])
    made, trial = recorder(tmp_path, {trial_id: config}), Attempt(config)
    assert [row["epoch"] for row in made.past(trial_id)] == [1, 2, 3, 4]
    made.on_trial_start(0, [], trial)
    fifth = EpochRecord(5, 0.2, 1.0, 0.5, 0.5, 1.0).to_dict()
    made.on_trial_result(0, [], trial, {**fifth, "score": 0.5, "done": True})
    made.on_trial_complete(0, [], trial)
    rows = made.ledger.read_history(trial_id)
    assert [(row["epoch"], row["val_dataset_iou"]) for row in rows] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
        (5, 0.5),
    ]


def test_epochs_of_a_trial_that_failed_in_its_worker_are_kept(tmp_path: Path) -> None:
    """Those since the last table were lost, and history.csv ended before the failure."""
    config = TrialConfig()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}), Attempt(config)
    made.on_trial_start(0, [], trial)
    for epoch in (1, 2):
        row = EpochRecord(epoch, 1.0, 1.0, 0.5, 0.5, 1.0).to_dict()
        made.on_trial_result(0, [], trial, {**row, "score": 0.5})
    made.ledger.write(trial_id, config, "failed", error="training loss became nan in epoch 3")
    made.on_trial_complete(0, [], trial)
    made.write_tables()
    with open(tmp_path / "history.csv", newline="") as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2"]


def test_an_iou_of_zero_is_an_iou(tmp_path: Path) -> None:
    """Schedulers stop just these trials."""
    config = TrialConfig()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}, scheduler="asha"), Attempt(config)
    made.on_trial_start(0, [], trial)
    rows = [EpochRecord(1, 1.0, 1.0, 0.0, 0.0, 1.0), EpochRecord(2, 1.0, None, None, None, 1.5)]
    for row in rows:
        made.on_trial_result(0, [], trial, {**row.to_dict(), "score": 0.0, "done": row.epoch == 2})
    made.on_trial_complete(0, [], trial)
    record = made.ledger.read_one(trial_id)
    assert record is not None
    assert record["metrics"] == {
        "val_dataset_iou": 0.0,
        "val_image_iou": 0.0,
        "best_epoch": 1,
        "epochs": 2,
        "train_seconds": 2.5,
    }


@pytest.mark.parametrize(
    ("within", "said"),
    [(False, "seed 0 from epoch 4\n"), (True, "seed 0 from epoch 4, which was begun before\n")],
)
def test_the_start_line_says_where_a_trial_continues(
    within: bool, said: str, tmp_path: Path
) -> None:
    config = TrialConfig()
    trial_id = config.trial_id("f")
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
    attempt = Begun.begin(tmp_path / "checkpoints" / trial_id)
    progress = Progress(attempt, form, RunOptions(checkpoint_seconds=0), print)
    made, trial = recorder(tmp_path, {trial_id: config}), Attempt(config)
    made.view = View(Console(file=io.StringIO(), width=200), "t", 1)
    made.on_trial_start(0, [], trial)
    made.view.update(list(made.states.values()))
    assert made.view.console.file.getvalue().endswith("seed 0\n")  # type: ignore[attr-defined]
    for epoch in range(1, 4):
        progress.add(EpochRecord(epoch, 1 / epoch, 1.0, epoch / 10, epoch / 10, 1.0), bytes)
    progress.save(lambda path: path.write_bytes(b""), batches=7 * within)
    # after --resume
    made = recorder(tmp_path, {trial_id: config})
    made.view = View(Console(file=io.StringIO(), width=200), "t", 1)
    made.on_trial_start(0, [], trial)
    made.view.update(list(made.states.values()))
    assert made.view.console.file.getvalue().endswith(said)  # type: ignore[attr-defined]


def test_an_old_record_is_no_result(tmp_path: Path) -> None:
    config = TrialConfig()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}, retries=1), Attempt(config)
    made.ledger.write(trial_id, config, "failed", error="an earlier reason")
    made.on_trial_start(0, [], trial)
    made.on_trial_complete(0, [], trial)
    assert made.to_try_again() == [trial_id]
    made.on_trial_start(0, [], trial)
    made.ledger.write(trial_id, config, "failed", error="this reason")
    made.on_trial_complete(0, [], trial)
    assert made.to_try_again() == []
    assert made.states[trial_id].error == "this reason"


def test_done_stays_done(tmp_path: Path) -> None:
    config = TrialConfig()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}, retries=0), Attempt(config)
    made.on_trial_start(0, [], trial)
    made.ledger.write(trial_id, config, "done", metrics={"val_dataset_iou": 0.5})
    before = made.ledger.read_one(trial_id)
    # its worker dies before Ray Tune hears of it
    made.on_trial_error(0, [], trial)
    assert made.states[trial_id].status == "done"
    # a node that was taken for lost comes back
    made.ledger.write_start(trial_id, config, "other")
    made.ledger.write_shortage(trial_id, config, "short", Limits().to_dict())
    made.ledger.write(trial_id, config, "failed", error="late")
    made.ledger.write(trial_id, config, "done", metrics={"val_dataset_iou": 0.1})
    assert made.ledger.read_one(trial_id) == before


def test_done_stays_done_whoever_writes_at_that_moment(tmp_path: Path) -> None:
    config, ledger = TrialConfig(), Ledger(tmp_path)
    barrier = threading.Barrier(2)

    def write(status: Any) -> None:
        for number in range(40):
            barrier.wait(60)
            ledger.write(str(number), config, status)

    threads = [threading.Thread(target=write, args=(status,)) for status in ("done", "failed")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record["status"] for record in ledger.read().values()} == {"done"}
    assert len(ledger.read()) == 40


def test_a_trial_that_waits_for_the_disk_is_not_taken_for_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ended = TrialConfig(), list[str]()
    trial_id = config.trial_id("f")
    made, trial = recorder(tmp_path, {trial_id: config}, hang_seconds=10.0), Attempt(config)
    trial.temporary_state = SimpleNamespace(ray_actor="actor")
    monkeypatch.setattr(ray, "kill", ended.append)
    now = [0.0]
    made.hanging.clock = lambda: now[0]
    made.ledger.write_start(trial_id, config, "node")
    made.on_trial_start(0, [], trial)

    def wait() -> None:
        for _ in range(6):
            now[0] += 50.0
            made._end_hanging([trial])

    made.ledger.note(trial_id, f"resume-00002.ckpt cannot be written: {WAITS} every 10 seconds")
    wait()
    assert ended == []
    made.ledger.note(trial_id, "resume-00002.ckpt was written after 7200 seconds")
    wait()
    assert ended == ["actor"]


def report(made: Recorder, trial: Any, epoch: int) -> None:
    record = EpochRecord(epoch, 0.5, 0.5, 0.5, 0.5, 1.0)
    made.on_trial_result(0, [], trial, {**record.to_dict(), "score": 0.5})


def test_tables_are_written_beside_the_thread_that_trials_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig()
    made = recorder(tmp_path, {config.trial_id("f"): config})
    trial, go_on, real = Attempt(config), threading.Event(), leaderboard.write_history
    held: list[bool] = []

    def slow(*arguments: Any) -> None:
        held.append(go_on.wait(10))
        real(*arguments)

    monkeypatch.setattr("sweep.recorder.write_history", slow)
    made.on_trial_start(0, [], trial)
    report(made, trial, 1)
    made.on_step_end(0, [])
    report(made, trial, 2)  # reported while history.csv is being written
    made.on_step_end(0, [])
    go_on.set()
    made.write_tables()  # as at the end, and after Ctrl-C
    assert held == [True, True], "the trial waited for history.csv"
    with open(tmp_path / "history.csv") as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2"]


def test_what_fails_beside_is_raised_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recorder(tmp_path, {"a": TrialConfig()})

    def wrong(*_: Any) -> None:
        raise ValueError("not a table")  # a full disk is waited for

    monkeypatch.setattr("sweep.recorder.write_history", wrong)
    made.on_step_end(0, [])
    with pytest.raises(ValueError, match="not a table"):
        made.write_tables()


def test_work_takes_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sweep.background.time.monotonic", lambda: now)

    def work() -> None:
        nonlocal now
        now += 1 / 16

    pace, begun = Pace(0.0, share=1 / 64), []
    while now < 10:
        if pace.due():
            begun.append(now)
            pace.start(work)
            pace.wait()
        now += 1 / 16
    assert begun == [0.0, 4.0, 8.0], "a sixteenth of a second is its share of four seconds"


def test_progress_makes_up_for_losses(tmp_path: Path) -> None:
    config = TrialConfig()
    made = recorder(tmp_path, {config.trial_id("f"): config})
    trial = Attempt(config)
    made.on_trial_start(0, [], trial)
    report(made, trial, 1)
    assert trial.run_metadata.num_failures == 0
    report(made, trial, 2)
    trial.run_metadata.num_failures = 1  # lost
    made.on_trial_start(0, [], trial)
    for epoch in (1, 2):  # what it does again is no progress
        report(made, trial, epoch)
        assert trial.run_metadata.num_failures == 1
    report(made, trial, 3)
    assert trial.run_metadata.num_failures == 0
