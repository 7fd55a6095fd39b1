"""Tracking with the real W&B client, offline, and TensorBoard; read back from their files."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep import tracking
from sweep.request import RequestError
from sweep.tracking import Tracker, TrackingOptions, files_of, run_id, wandb_mode
from trainables.config import EpochRecord, TrialConfig

CONFIG = TrialConfig(architecture="FPN", encoder="resnet18", epochs=3)
TRIAL = "semantic2-FPN-resnet18-s0-0123456789"


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no settings: nothing that belongs to whoever runs the tests."""
    for name in [
        name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "_unreachable_until", 0.0)


def options(out: Path, **changes: Any) -> TrackingOptions:
    return TrackingOptions(**{"mode": "offline", "group": "demo", "folder": str(out), **changes})


def record(epoch: int, iou: float | None = None) -> EpochRecord:
    return EpochRecord(epoch, 1 / epoch, iou, iou, iou, 0.25)


def config() -> dict[str, Any]:
    return CONFIG.model_dump(mode="json")


def log_records(path: Path) -> Iterator[Any]:
    """Read a .wandb file: protobuf records in LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, block, place, parts = path.read_bytes(), 32768, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # a record's header never crosses the end of a block
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(parts)
            yield message
            parts = b""


def offline_log(folder: Path) -> dict[str, Any]:
    """Return run record, configuration, history rows, summary, metrics and exit code."""
    (path,) = folder.glob("*.wandb")
    # W&B's own process writes the file, a moment after the run was finished
    end = time.monotonic() + 100
    while "exit" not in (found := _contents(path)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _contents(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"history": [], "summary": {}, "steps": {}}
    for message in log_records(path):
        kind = message.WhichOneof("record_type")
        if kind == "run":
            found["run"] = message.run
            found["config"] = {u.key: json.loads(u.value_json) for u in message.run.config.update}
        elif kind == "history":
            found["history"].append(
                {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json)
                    for i in message.history.item
                }
            )
        elif kind == "summary":
            for item in message.summary.update:
                found["summary"][item.key or "/".join(item.nested_key)] = json.loads(
                    item.value_json
                )
        elif kind == "metric":
            found["steps"][message.metric.name or message.metric.glob_name] = (
                message.metric.step_metric
            )
        elif kind == "exit":
            found["exit"] = message.exit.exit_code
    return found


def runs(out: Path) -> list[Path]:
    files = sorted(out.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in files]


def test_offline_run_holds_what_was_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    picture = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    with Tracker(options(out), TRIAL, config(), parameters_m=11.5) as tracker:
        assert tracker.wandb_id == TRIAL
        tracker.epoch(record(1))
        tracker.epoch(record(2, 0.5), score=0.75)
        tracker.overlays([("image 0", picture), ("image 1", picture[:, ::-1])])
        tracker.finish({"val_dataset_iou": 0.5, "test_dataset_iou": None}, checkpoint="nowhere")
    (folder,) = runs(out)
    seen = offline_log(folder)
    run = seen["run"]
    assert (run.run_id, run.project, run.run_group) == (TRIAL, "segsweep", "demo")
    assert (run.job_type, sorted(run.tags)) == ("semantic2", ["FPN", "resnet18", "semantic2"])
    for name, value in {**config(), "parameters_m": 11.5}.items():
        assert seen["config"][name] == value
    assert seen["steps"]["*"] == "epoch"
    first, second, pictures = seen["history"]
    assert {k: v for k, v in first.items() if k[0] != "_"} == {
        "epoch": 1,
        "train_loss": 1.0,
        "seconds": 0.25,
    }
    assert (second["epoch"], second["val_dataset_iou"], second["score"]) == (2, 0.5, 0.75)
    assert pictures["epoch"] == 2
    assert seen["exit"] == 0
    assert seen["summary"]["val_dataset_iou"] == 0.5
    assert "test_dataset_iou" not in seen["summary"]
    from PIL import Image

    files = sorted(folder.glob("files/media/images/**/*.png"))
    assert len(files) == 2
    assert any(np.array_equal(np.asarray(Image.open(f)), picture) for f in files)
    assert capfd.readouterr() == ("", "")


def test_resumed_trial_keeps_its_run(tmp_path: Path) -> None:
    first = Tracker(options(tmp_path), TRIAL, config())
    first.epoch(record(1))
    first.epoch(record(2))
    first.__exit__(OSError, OSError("lost"), None)
    with Tracker(options(tmp_path), TRIAL, config(), resumed=True) as second:
        second.past([record(1)])
        second.epoch(record(2, 0.5))
        second.epoch(record(3))
    folders = runs(tmp_path)
    before, after = map(offline_log, folders)
    assert first.wandb_id == second.wandb_id == before["run"].run_id == after["run"].run_id
    assert (before["exit"], after["exit"]) == (1, 0)
    assert "resumed" in after["run"].tags
    # the second folder is the whole run, and the only one that `wandb sync` takes
    assert [(row["epoch"], row["_step"]) for row in after["history"]] == [(1, 1), (2, 2), (3, 3)]
    assert after["history"][1]["val_dataset_iou"] == 0.5
    assert before["run"].resume == after["run"].resume == 0
    assert [bool(list(folder.glob("*.wandb.synced"))) for folder in folders] == [True, False]


def test_equal_trials_of_two_sweeps_are_two_runs(tmp_path: Path) -> None:
    shown = {**config(), "candidate": CONFIG.candidate_key()}
    seen = []
    for token, known in (("5e1f00d2", ""), ("0badcafe", ""), ("0badcafe", TRIAL)):
        out = tmp_path / f"{token}{known}"
        made = options(out, token=token, group=f"demo-{token}")
        with Tracker(made, TRIAL, shown, known_id=known) as tracker:
            tracker.epoch(record(1))
        (folder,) = runs(out)
        run = offline_log(folder)["run"]
        assert tracker.wandb_id == run.run_id
        assert run.job_type == CONFIG.candidate_key()
        seen.append((run.run_id, run.run_group))
    assert seen == [
        (f"{TRIAL}-5e1f00d2", "demo-5e1f00d2"),
        (f"{TRIAL}-0badcafe", "demo-0badcafe"),
        # it had reported before runs had tokens
        (TRIAL, "demo-0badcafe"),
    ]


def test_long_names_keep_what_tells_them_apart() -> None:
    one, other = (
        TrialConfig(architecture="DeepLabV3Plus", encoder="tu-" + "x" * 60, epochs=n)
        for n in (1, 2)
    )
    short = [tracking._short(config.candidate_key()) for config in (one, other)]
    assert [len(text) for text in short] == [64, 64]
    assert len(set(short)) == 2


def test_the_group_of_a_long_folder_name_ends_in_the_token(tmp_path: Path) -> None:
    with Tracker(options(tmp_path, group=f"{'x' * 200}-5e1f00d2"), TRIAL, config()):
        pass
    (folder,) = runs(tmp_path)
    group = offline_log(folder)["run"].run_group
    assert len(group) == 128
    assert group.endswith("-5e1f00d2")


def test_many_trials_in_one_process(tmp_path: Path) -> None:
    for number in range(5):
        with Tracker(options(tmp_path), f"{TRIAL}{number}", config()) as tracker:
            tracker.epoch(record(1, number / 10))
    logs = [offline_log(path) for path in runs(tmp_path)]
    assert {log["run"].run_id: log["history"][0]["val_dataset_iou"] for log in logs} == {
        f"{TRIAL}{number}": number / 10 for number in range(5)
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == tracking.logger.name]


def use(tracker: Tracker) -> None:
    tracker.epoch(record(1, 0.5))
    tracker.overlays([("a", np.zeros((4, 4, 3), np.uint8))])
    tracker.finish({"val_dataset_iou": 0.5})


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_failing_start_is_one_warning(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "out"
    with caplog.at_level(logging.WARNING, "sweep"):
        tracker = Tracker(options(folder, mode=mode, tensorboard=True), TRIAL, config())
        use(tracker)
    assert tracker.wandb_id == ""
    assert [text.split(" for trial")[0] for text in warnings(caplog)] == (
        ["W&B is written offline"] * (mode == "online") + ["W&B is off", "TensorBoard is off"]
    )


def test_failure_on_the_way_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(options(tmp_path), TRIAL, config())
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "sweep"):
        patch.setattr(type(tracker._run), "log", lambda *_, **__: 1 / 0)
        use(tracker)
    assert warnings(caplog) == [f"W&B is off for trial {TRIAL}: division by zero"]
    with Tracker(options(tmp_path / "next"), TRIAL, config()) as again:
        assert again.wandb_id == TRIAL


def test_trial_outlives_the_service(tmp_path: Path) -> None:
    code = (
        "import logging, os, signal, subprocess, sys\n"
        "from sweep.tracking import Tracker, TrackingOptions\n"
        "from trainables.config import EpochRecord\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "made = TrackingOptions(mode='offline', group='g', folder=sys.argv[1])\n"
        "tracker = Tracker(made, 'a', {})\n"
        "children = f'/proc/self/task/{os.getpid()}/children'\n"
        "for pid in map(int, open(children).read().split()): os.kill(pid, signal.SIGKILL)\n"
        "for e in range(1, 20): tracker.epoch(EpochRecord(e, 1.0, None, None, None, 0.1))\n"
        "tracker.finish({'x': 1.0})\n"
        "tracker = Tracker(made, 'b', {})\n"
        "tracker.epoch(EpochRecord(1, 1.0, None, None, None, 0.1))\n"
        "tracker.finish({})\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    assert last == "alive"
    assert len(said) <= 1
    assert done.stderr == ""
    log = offline_log(next(path for path in runs(tmp_path) if path.name.endswith("-b")))
    assert [row["epoch"] for row in log["history"]] == [1]


def test_silent_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that accepts connections and never answers: offline after the time limit."""
    import wandb

    init, modes = wandb.init, []

    def noted(**options: Any) -> Any:
        modes.append(options["mode"])
        return init(**options)

    monkeypatch.setattr(wandb, "init", noted)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(tracking, "INIT_TIMEOUT_SECONDS", 1.0)
        with caplog.at_level(logging.WARNING, "sweep"):
            use(Tracker(options(tmp_path, mode="online"), TRIAL, config()))
            assert modes == ["online", "offline"]
            use(Tracker(options(tmp_path, mode="online"), TRIAL + "b", config()))
    assert modes == ["online", "offline", "offline"], "the next trial does not try again at once"
    assert [text.split(" for trial")[0] for text in warnings(caplog)] == ["W&B is written offline"]
    assert len(runs(tmp_path)) == 2


def test_off_never_imports_wandb(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from sweep.tracking import Tracker, TrackingOptions, wandb_mode\n"
        "from trainables.config import EpochRecord\n"
        "wandb_mode(None)\n"
        "made = TrackingOptions(mode='off', group='g', folder=sys.argv[1])\n"
        "with Tracker(made, 't', {}) as tracker:\n"
        "    tracker.epoch(EpochRecord(1, 1.0, None, None, None, 0.1))\n"
        "assert tracker.wandb_id == ''\n"
        "assert not {'wandb', 'tensorboardX', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2]
    )
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_what_was_logged(tmp_path: Path) -> None:
    made = options(tmp_path, mode="off", tensorboard=True)
    with Tracker(made, TRIAL, config()) as tracker:
        for epoch in (1, 2, 3):
            tracker.epoch(record(epoch, 0.1 * epoch))
        tracker.overlays([("image 0", np.zeros((8, 9, 3), np.uint8))])
    with Tracker(made, TRIAL, config(), resumed=True) as tracker:
        tracker.epoch(record(3, 0.9))
    # in a process of its own, where TensorBoard is kept from importing TensorFlow (10 s)
    code = (
        "import json, sys, types\n"
        "sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]).Reload()\n"
        "tags = events.Tags()\n"
        "rows = {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags['scalars']}\n"
        "print(json.dumps([rows, tags['images']]))"
    )
    folder = tmp_path / "tensorboard" / TRIAL
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    rows, pictures = json.loads(done.stdout.splitlines()[-1])
    assert [step for step, _ in rows["val_dataset_iou"]] == [1, 2, 3]
    assert [v for _, v in rows["val_dataset_iou"]] == pytest.approx([0.1, 0.2, 0.9])
    assert len(pictures) == 1
    assert list(folder.parent.iterdir()) == [folder]


def test_mode_follows_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_mode(None) == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    assert wandb_mode(None) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode(None) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert wandb_mode(None) == "online"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nmode = offline\n")
    assert wandb_mode(None) == "offline"
    for value, mode in [("online", "online"), ("dryrun", "offline"), ("disabled", "off")]:
        monkeypatch.setenv("WANDB_MODE", value)
        assert wandb_mode(None) == mode
    assert wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(RequestError, match=r"WANDB_MODE=sometimes: choose"):
        wandb_mode(None)


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(["", "5e1f00d2"]))
def test_run_ids_are_valid_and_distinct(one: str, other: str, token: str) -> None:
    for text in (one, other):
        made = run_id(text, token)
        assert made == run_id(text, token)
        assert 0 < len(made) <= 128
        assert not set(made) & set(":;,#?/' \\%")
    assert (run_id(one, token) == run_id(other, token)) == (one == other)


def test_trial_ids_are_run_ids() -> None:
    assert run_id(TRIAL) == TRIAL


def test_the_state_that_is_kept_is_no_part_of_the_uploaded_checkpoint(tmp_path: Path) -> None:
    """With keep_last_state=true, five times as much as the checkpoint was uploaded."""
    own = ["checkpoint.json", "result.json", "weights.pt"]
    (tmp_path / "last").mkdir()
    for name in (*own, "attempt.json", "last/resume.json", "last/resume-00002.ckpt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in files_of(tmp_path)] == own
