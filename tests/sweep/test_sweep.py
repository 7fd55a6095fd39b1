"""What a finished sweep leaves behind: tables, the screen's text, logs of W&B and TensorBoard."""

from __future__ import annotations

import json
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.sweep.command_line import records, rows
from tests.sweep.conftest import Finished


def test_failed_trials_do_not_end_the_sweep(finished: Finished) -> None:
    out, code, text, err = finished
    assert code == 1, text + err
    table = rows(out)
    assert [row["status"] for row in table] == ["done"] * 4 + ["failed"]
    for row in table[4:]:
        assert "no_such_network" in row["error"]
        assert row["trial_id"] in text
    assert err == ""


def test_tables_of_a_run(finished: Finished) -> None:
    out, *_ = finished
    done = [row for row in rows(out) if row["status"] == "done"]
    token = json.loads((out / "plan.json").read_text())["run_token"]
    ious = [float(row["val_dataset_iou"]) for row in done]
    assert ious == sorted(ious, reverse=True)
    for row in done:
        assert 0 <= float(row["test_dataset_iou"]) <= 1
        assert (out / row["checkpoint"] / "checkpoint.json").is_file()
        assert row["epochs"] == "6"
        assert row["wandb_id"] == f"{row['trial_id']}-{token}"
    history = rows(out, "history.csv")
    assert {(r["trial_id"], r["epoch"]) for r in history} == {
        (row["trial_id"], epoch) for row in done for epoch in "123456"
    }
    assert len(rows(out, "candidates.csv")) == 5
    plan = json.loads((out / "plan.json").read_text())
    assert len(plan["trials"]) == 5
    assert set(plan["data"]["split"]) == {"train", "val", "test"}


def test_the_next_command_can_be_pasted(finished: Finished) -> None:
    out, _, text, _ = finished
    (line,) = (line for line in text.splitlines() if "analysis.run" in line)
    python, *words = shlex.split(line)
    assert words == ["-m", "analysis.run", "run"]
    assert (out.parent / words[-1]).samefile(out)
    assert (out.parent / python).samefile(sys.executable)


def test_counts_of_every_image(finished: Finished) -> None:
    out, *_ = finished
    table = rows(out, "per_image.csv")
    assert list(table[0]) == ["trial_id", "split", "image", "group", "intersection", "union"]
    done = [row for row in rows(out) if row["status"] == "done"]
    assert {row["trial_id"] for row in table} == {row["trial_id"] for row in done}
    split = json.loads((out / "plan.json").read_text())["data"]["split"]
    for row in done:
        for name in ("val", "test"):
            mine = [r for r in table if (r["trial_id"], r["split"]) == (row["trial_id"], name)]
            assert [r["image"] for r in mine] == split[name]
            pairs = [(int(r["intersection"]), int(r["union"])) for r in mine]
            dataset = sum(i for i, _ in pairs) / sum(u for _, u in pairs)
            assert dataset == pytest.approx(float(row[f"{name}_dataset_iou"]), abs=1e-12)
            image = sum(i / u if u else 1 for i, u in pairs) / len(pairs)
            assert image == pytest.approx(float(row[f"{name}_image_iou"]), abs=1e-12)


def test_the_leaderboard_shows_all_settings(finished: Finished) -> None:
    out, *_ = finished
    used = {
        "semantic2": {"gap": "0"},
        "semantic3": {"boundary": "outline"},
        "stardist": {"rays": "32", "grid": "2"},
    }
    for row in rows(out):
        for name in ("gap", "boundary", "rays", "grid"):
            assert row[name] == used[row["task"]].get(name, "")
        assert (row["crop_size"], row["planned_epochs"]) == ("64", "6")
        assert row["candidate"].startswith(f"{row['task']}-{row['architecture']}-")
        if row["status"] == "done":
            assert row["inference"] in ("whole", "tiles of 64")
            assert (row["ceiling_iou"] == "1.0") == (row["task"] != "stardist")


def test_the_ceiling_is_stated_beside_the_leaderboard(finished: Finished) -> None:
    out, _, text, _ = finished
    (star,) = [float(row["ceiling_iou"]) for row in rows(out) if row["task"] == "stardist"]
    assert 0.8 < star < 1
    line = f"A perfect network would reach validation IoU {star:.4f} with 32 rays."
    assert text.splitlines().count(line) == 1
    assert text.count("A perfect network") == 1, "others reach 1"


def test_trials_share_a_gpu(finished: Finished) -> None:
    out, *_ = finished
    spans = sorted(
        (r["attempts"][-1]["started"], r["attempts"][-1]["ended"])
        for r in records(out)
        if r["status"] == "done"
    )
    assert len(spans) == 4
    others = [sum(one < begin < end - 0.1 for one, end in spans) for begin, _ in spans]
    assert max(others) == 1, "two trials with half a GPU each overlap, a third must wait"


def test_schedulers_and_searches_hear_of_validation_only(finished: Finished) -> None:
    out, *_ = finished
    ious: dict[str, list[float]] = {}
    for line in rows(out, "history.csv"):
        ious.setdefault(line["trial_id"], []).append(float(line["val_dataset_iou"]))
    # the best so far, and the last epoch is not for a scheduler to stop: only the test is missing
    best = [np.maximum.accumulate(values) for values in ious.values()]
    expected = sorted((b[0], b[-1], b.mean(), 5, 0) for b in best)
    (path,) = out.glob("tune/*/experiment_state-*.json")
    heard = []
    for _, state in json.loads(path.read_text())["trial_data"]:
        seen = json.loads(state)["metric_analysis"]
        if "score" in seen:
            score, epoch = seen["score"], seen["scheduler_epoch"]
            heard.append((*(score[n] for n in ("min", "max", "avg")), epoch["max"], epoch["last"]))
    assert len(heard) == 4
    np.testing.assert_allclose(sorted(heard), expected, rtol=1e-6)


def test_screen_is_quiet(finished: Finished) -> None:
    _, _, text, _ = finished
    for noise in ("WARNING", "Traceback", "ray::", "wandb:", "GPU available"):
        assert noise not in text


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read a .wandb file: LevelDB's log format behind a header of seven bytes."""
    content, block, place, parts = path.read_bytes(), 32768, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # records' headers never cross a block's end
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline_log_holds_the_numbers(finished: Finished) -> None:
    from wandb.proto import wandb_internal_pb2

    out, *_ = finished
    row = next(row for row in rows(out) if row["status"] == "done")
    (path,) = out.glob(f"wandb/offline-run-*-{row['wandb_id']}/*.wandb")
    seen, run_record = [], None
    for content in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "run":
            run_record = record.run
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            seen.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    assert run_record is not None
    plan = json.loads((out / "plan.json").read_text())
    assert run_record.run_id == row["wandb_id"] == f"{row['trial_id']}-{plan['run_token']}"
    assert run_record.run_group == plan["wandb_group"] == f"run-{plan['run_token']}"
    assert run_record.job_type == row["candidate"]
    assert sorted(run_record.tags) == sorted([row["task"], row["architecture"], row["encoder"]])
    epochs = {line["epoch"]: line for line in seen if "train_loss" in line}
    for line in rows(out, "history.csv"):
        if line["trial_id"] == row["trial_id"]:
            logged = epochs[int(line["epoch"])]
            for name in ("train_loss", "val_loss", "val_dataset_iou", "val_image_iou"):
                assert logged[name] == pytest.approx(float(line[name]), rel=1e-6)
    assert any("overlays" in key for line in seen for key in line)
    assert list(path.parent.glob("files/media/images/*.png"))


def test_tensorboard_log_holds_the_numbers(finished: Finished) -> None:
    out, *_ = finished
    row = next(row for row in rows(out) if row["status"] == "done")
    # in a process of its own, where TensorBoard is kept from importing TensorFlow (10 s)
    code = (
        "import json, sys, types\n"
        "sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf')\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]).Reload().Scalars('train_loss')\n"
        "print(json.dumps({event.step: event.value for event in events}))"
    )
    folder = out / "tensorboard" / row["trial_id"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    values = {int(k): v for k, v in json.loads(done.stdout.splitlines()[-1]).items()}
    for line in rows(out, "history.csv"):
        if line["trial_id"] == row["trial_id"]:
            assert values[int(line["epoch"])] == pytest.approx(float(line["train_loss"]), rel=1e-5)
