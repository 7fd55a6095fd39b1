"""The real command line on small data: run, repeat, extend, kill, resume, share, spread."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from sweep.run import main
from tests.sweep.command_line import (
    QUICK,
    SPACE,
    STARTED,
    TINY_TUNE,
    environment,
    make_data,
    records,
    rows,
    run,
    start,
    wait_for,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    """A sweep that a failed test leaves behind would slow down all that follow."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


@pytest.fixture(scope="module")
def finished(sweep_of_cells) -> tuple[Path, int, str, str]:
    """The session's undisturbed run, with one trial that fails."""
    return sweep_of_cells.out, sweep_of_cells.code, sweep_of_cells.text, sweep_of_cells.err


SHARE_ONE_GPU = (
    "--gpus",
    "1",
    "--set",
    "gpus_per_trial=0.5",
    "--set",
    "cpus_per_trial=0.5",
)


def test_failed_trials_do_not_end_the_sweep(finished) -> None:
    out, code, text, err = finished
    assert code == 1, text + err
    table = rows(out)
    assert [row["status"] for row in table] == ["done"] * 4 + ["failed"]
    for row in table[4:]:
        assert "no_such_network" in row["error"]
        assert row["trial_id"] in text
    assert err == ""


def test_tables_of_a_run(finished) -> None:
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


def test_the_next_command_can_be_pasted(finished) -> None:
    out, _, text, _ = finished
    (line,) = (line for line in text.splitlines() if "analysis.run" in line)
    python, *words = shlex.split(line)
    assert words == ["-m", "analysis.run", "run"]
    assert (out.parent / words[-1]).samefile(out)
    assert (out.parent / python).samefile(sys.executable)


def test_counts_of_every_image(finished) -> None:
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


def test_the_leaderboard_shows_all_settings(finished) -> None:
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


def test_the_ceiling_is_stated_beside_the_leaderboard(finished) -> None:
    out, _, text, _ = finished
    (star,) = [float(row["ceiling_iou"]) for row in rows(out) if row["task"] == "stardist"]
    assert 0.8 < star < 1
    line = f"A perfect network would reach validation IoU {star:.4f} with 32 rays."
    assert text.splitlines().count(line) == 1
    assert text.count("A perfect network") == 1, "others reach 1"


def test_trials_share_a_gpu(finished) -> None:
    out, *_ = finished
    spans = sorted(
        (r["attempts"][-1]["started"], r["attempts"][-1]["ended"])
        for r in records(out)
        if r["status"] == "done"
    )
    assert len(spans) == 4
    others = [sum(one < begin < end - 0.1 for one, end in spans) for begin, _ in spans]
    assert max(others) == 1, "two trials with half a GPU each overlap, a third must wait"


def test_schedulers_and_searches_hear_of_validation_only(finished) -> None:
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


def test_screen_is_quiet(finished) -> None:
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


def test_wandb_offline_log_holds_the_numbers(finished) -> None:
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


def test_tensorboard_log_holds_the_numbers(finished) -> None:
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


def test_finished_run_answers_at_once_without_torch(finished, sweep_of_cells) -> None:
    out, *_ = finished
    before = (out / "ledger").stat().st_mtime_ns, (out / "plan.json").read_bytes()
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--out", str(out)]
    code = (
        "import sys; from sweep.run import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'ray', 'lightning', 'tensorflow'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env=environment(),
    )
    assert done.returncode == 1, done.stderr
    assert "nothing to do" in done.stdout
    assert before == ((out / "ledger").stat().st_mtime_ns, (out / "plan.json").read_bytes())


def test_a_finished_run_gets_its_tables_again(finished, sweep_of_cells, tmp_path: Path) -> None:
    """A driver that is killed after the last trial has not written them."""
    out, names = tmp_path / "run", ("leaderboard", "candidates", "history", "per_image")
    shutil.copytree(finished[0], out)
    for name in names:
        (out / f"{name}.csv").unlink()
    code, text, err = run(
        sweep_of_cells.space, "--data", sweep_of_cells.data, "--out", out, cwd=tmp_path
    )
    assert code == 1, text + err
    assert "nothing to do" in text
    for name in names:
        assert (out / f"{name}.csv").read_bytes() == (finished[0] / f"{name}.csv").read_bytes()


def test_other_plans_are_refused(finished, sweep_of_cells) -> None:
    out, *_ = finished
    code, _, err = run(
        sweep_of_cells.space,
        "--data",
        sweep_of_cells.data,
        "--out",
        out,
        "--set",
        "epochs=3",
        cwd=out.parent,
    )
    assert code == 2
    assert "another run" in err
    assert "epochs was 6, now 3" in err
    assert len(err.strip().splitlines()) == 1


def as_before_tokens(out: Path) -> None:
    """Make a run folder what a version wrote whose W&B ids were the trials' own."""
    plan = json.loads((out / "plan.json").read_text())
    del plan["run_token"], plan["wandb_group"]
    (out / "plan.json").write_text(json.dumps(plan))
    for path in (out / "ledger").glob("*.json"):
        record = json.loads(path.read_text())
        record["wandb_id"] = record["trial_id"]
        path.write_text(json.dumps(record))


def test_extended_grid_runs_only_new_trials(finished, sweep_of_cells, tmp_path: Path) -> None:
    out, space = tmp_path / "run", tmp_path / "space.py"
    shutil.copytree(finished[0], out)
    as_before_tokens(out)
    space.write_text(
        sweep_of_cells.space.read_text()
        + "MORE = {'encoder': ['mobilenet_v2', 'tu-none'], 'architecture': ['Linknet']}\n"
        "SPACE = SearchSpace(trials=(*SPACE.trials, *grid(MORE, **SHARED)))\n"
    )
    before = {r["trial_id"]: r for r in records(out) if r["status"] == "done"}
    code, text, err = run(
        space, "--data", sweep_of_cells.data, "--out", out, "--wandb", "offline", cwd=tmp_path
    )
    assert code == 1, text + err
    assert "2 trials" in text
    after = {r["trial_id"]: r for r in records(out) if r["status"] == "done"}
    assert len(before) == 4
    assert len(after) == 5
    assert all(after[trial_id] == record for trial_id, record in before.items())
    # what was reported under the trials' own ids keeps them; what is new has the run's token
    plan = json.loads((out / "plan.json").read_text())
    assert plan["wandb_group"] == "run"
    (new,) = after.keys() - before.keys()
    ids = {row["trial_id"]: row["wandb_id"] for row in rows(out)}
    assert {ids[i] for i in before} == before.keys()
    assert ids[new] == f"{new}-{plan['run_token']}"


def refusal(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command line says that refuses a request, in this process."""
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    return line


def test_only_runs_a_part_and_removes_nothing(
    finished, sweep_of_cells, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    whole = [r for r in records(out) if r["config"]["task"] == "semantic2"]
    lost = {r["config"]["architecture"]: r["trial_id"] for r in whole if r["status"] == "done"}
    for trial_id in lost.values():
        (out / "ledger" / f"{trial_id}.json").unlink()
    before = json.loads((out / "plan.json").read_text())
    kept = records(out)
    words = (
        sweep_of_cells.space,
        "--data",
        sweep_of_cells.data,
        "--out",
        out,
        "--wandb",
        "off",
        "--only",
        "architecture=fpn",
    )
    assert "unfinished run (1 of 1 trials have not ended)" in refusal(words, capsys)
    code, text, err = run(*words, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert "run: 1 trials, " in text
    assert "1 trials of this folder were left out by --only" in text
    state = {row["trial_id"]: row["status"] for row in rows(out)}
    assert (state[lost["FPN"]], state[lost["Unet"]]) == ("done", "waiting")
    plan = json.loads((out / "plan.json").read_text())
    assert plan["trials"] == before["trials"]
    # a copy of a run folder is another sweep
    assert plan["run_token"] != before["run_token"]
    assert plan["wandb_group"] == f"run-{plan['run_token']}"
    assert plan["copy_of"] == str(finished[0])
    assert [r for r in records(out) if r["trial_id"] != lost["FPN"]] == kept
    # what was left out is still there for the next request
    assert "1 of 5 trials have not ended" in refusal(words[:-2], capsys)


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def damage(folder: Path) -> tuple[str, str]:
    """Truncate the newest saved state of a trial; return trial_id and the file's name."""
    name = json.loads((folder / "resume.json").read_text())["states"][0]["state"]
    os.truncate(folder / name, 1000)
    return folder.name, name


def test_resumed_after_sigint_and_kill_equals_undisturbed(
    finished, sweep_of_cells, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    calm, rough, space = finished[0], tmp_path / "rough", tmp_path / "space.py"
    space.write_text(sweep_of_cells.space.read_text() + "SPACE = SearchSpace(trials=NETWORKS)\n")
    request = (
        space,
        "--data",
        sweep_of_cells.data,
        *SHARE_ONE_GPU,
        "--set",
        "checkpoint_seconds=0",
        "--wandb",
        "off",
    )

    def checkpoints() -> int:
        return len(list(rough.glob("checkpoints/*/resume.json")))

    process = start(*request, "--out", rough, cwd=tmp_path)
    wait_for(checkpoints, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 130, out + err
    assert "--resume" in out + err
    assert {row["status"] for row in rows(rough)} & {"running", "waiting"}

    assert "--resume" in refusal((*request, "--out", rough), capsys)

    done_before = sum(r["status"] == "done" for r in records(rough))
    process = start(*request, "--out", rough, "--resume", cwd=tmp_path)

    def stopped_with_a_state() -> bool:
        """Stop the workers where they are: a trial that ended now would take its state along."""
        if sum(r["status"] == "done" for r in records(rough)) <= done_before or not checkpoints():
            return False
        workers = [one for one in family_of(process) if one.name().startswith("ray::")]
        for one in workers:
            one.suspend()
        if checkpoints():
            return True
        for one in workers:
            one.resume()
        return False

    wait_for(stopped_with_a_state, process)
    family = family_of(process)
    process.kill()
    for one in family:
        if one.name().startswith("ray::"):  # they are stopped, and would not notice
            one.kill()
    process.communicate(timeout=500)
    psutil.wait_procs(family, timeout=500)
    damaged = [damage(path.parent) for path in rough.glob("checkpoints/*/resume.json")]

    code, text, err = run(*request, "--out", rough, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert damaged
    log = (rough / "sweep.log").read_text()
    notes = {r["trial_id"]: r["notes"] for r in records(rough) if "notes" in r}
    for trial_id, name in damaged:
        (note,) = notes[trial_id]
        assert name in note
        assert note in text
        assert f"{trial_id}: {note}" in log
    names = (
        "trial_id",
        "status",
        "val_dataset_iou",
        "val_image_iou",
        "test_dataset_iou",
        "test_image_iou",
        "best_epoch",
        "epochs",
    )
    ended = {row["trial_id"] for row in rows(rough)}
    assert [{n: r[n] for n in names} for r in rows(rough)] == [
        {n: r[n] for n in names} for r in rows(calm) if r["trial_id"] in ended
    ]
    losses = [
        {
            (r["trial_id"], r["epoch"]): r["train_loss"]
            for r in rows(o, "history.csv")
            if r["trial_id"] in ended
        }
        for o in (calm, rough)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 18


def test_two_nodes_one_removed(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=1, num_gpus=1)
        out = tmp_path / "spread"
        process = start(
            SPACE,
            "--data",
            data,
            "--out",
            out,
            "--address",
            cluster.address,
            "--set",
            "architecture=Unet,FPN,Linknet,UnetPlusPlus",
            *QUICK,
            "--set",
            "epochs=8",
            "--set",
            "checkpoint_seconds=0",
            "--wandb",
            "off",
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
        )

        def nodes() -> set[str]:
            return {a["node"] for r in records(out) for a in r["attempts"]}

        def second_has_checkpoint() -> bool:
            ids = [
                r["trial_id"]
                for r in records(out)
                if r["status"] == "running" and r["attempts"][-1]["node"] == second.node_id
            ]
            return any((out / "checkpoints" / i / "resume.json").exists() for i in ids)

        wait_for(lambda: len(nodes()) == 2 and second_has_checkpoint(), process)
        cluster.remove_node(second, allow_graceful=False)
        text, err = process.communicate(timeout=400)
        assert process.returncode == 0, text + err
        assert [row["status"] for row in rows(out)] == ["done"] * 4
        assert any(len(r["attempts"]) > 1 for r in records(out)), "a trial was moved"
        moved = [r for r in records(out) if len(r["attempts"]) > 1]
        assert all(r["attempts"][-1]["node"] != second.node_id for r in moved)
        assert len(rows(out, "history.csv")) == 4 * 8
    finally:
        cluster.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_out_of_memory_is_tried_again_larger_and_then_fails_alone(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "short"
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "encoder=mobilenet_v2,vgg19",
        "--set",
        "epochs=1",
        "--set",
        "crop_size=64",
        "--set",
        "batch_size=4",
        "--set",
        "memory_per_trial=0.2",
        "--set",
        "most_memory_per_trial=0.4",
        cwd=tmp_path,
    )
    assert code == 1, text + err
    small, large = rows(out)
    assert (small["encoder"], small["status"]) == ("mobilenet_v2", "done")
    assert (large["encoder"], large["status"]) == ("vgg19", "failed")
    assert "out of memory" in large["error"]
    assert "micro-batches of 2" in large["error"]
    told = {
        r["config"]["encoder"]: r["out_of_memory"] for r in records(out) if "out_of_memory" in r
    }
    assert len(told["mobilenet_v2"]) >= 1, "the limit was not felt"
    assert "will be tried again with" in text


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_ctrl_c_leaves_trials_that_ran_out_of_memory_for_resume(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "short"
    process = start(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "encoder=mobilenet_v2",
        "--seeds",
        "2",
        "--set",
        "epochs=2",
        "--set",
        "crop_size=64",
        "--set",
        "batch_size=4",
        "--set",
        "concurrency=1",
        "--set",
        "memory_per_trial=0.2",
        "--set",
        "most_memory_per_trial=0.4",
        cwd=tmp_path,
    )
    # once the second trial has begun, the sweep knows what became of the first
    wait_for(lambda: len(records(out)) == 2 and any(r.get("retry") for r in records(out)), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 130, text + err
    assert "--resume" in text + err
    (short, *_) = [r for r in records(out) if r.get("retry")]
    assert (short["status"], len(short["attempts"])) == ("running", 1)
    assert "will be tried again with" in text
