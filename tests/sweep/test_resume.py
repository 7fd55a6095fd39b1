"""A finished sweep is asked again, extended, run in part; another is killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from sweep.run import main
from tests.conftest import SHARE_ONE_GPU, Swept
from tests.sweep.command_line import (
    environment,
    family_of,
    kept_precision,
    precisions,
    records,
    rows,
    run,
    start,
    wait_for,
)
from tests.sweep.conftest import Finished


def test_finished_run_answers_at_once_without_torch(
    finished: Finished, sweep_of_cells: Swept
) -> None:
    out, *_ = finished
    before = (out / "ledger").stat().st_mtime_ns, (out / "plan.json").read_bytes()
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--out", str(out)]
    words += ["--gpus", "1xA100"]  # a finished run is answered on any machine
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


def test_a_finished_run_gets_its_tables_again(
    finished: Finished, sweep_of_cells: Swept, tmp_path: Path
) -> None:
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


@pytest.mark.slow
def test_a_plan_from_an_older_copy_gets_its_trials_back(
    finished: Finished, sweep_of_cells: Swept, tmp_path: Path
) -> None:
    """A damaged plan.json is to be restored from a copy, which may lack trials that were added
    later and have ended: there was nothing to run, and Ray Tune ended with a traceback.
    """
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    plan = json.loads((out / "plan.json").read_text())
    lost = next(one["trial_id"] for one in records(out) if one["status"] == "done")
    fewer = [trial for trial in plan["trials"] if trial["trial_id"] != lost]
    (out / "plan.json").write_text(json.dumps({**plan, "trials": fewer}))
    words = [sweep_of_cells.space, "--data", sweep_of_cells.data, "--out", out, *SHARE_ONE_GPU]
    code, text, err = run(*words, "--wandb", "off", cwd=tmp_path)
    assert code == 1, text + err  # one trial has failed before
    assert "Traceback" not in err
    again = json.loads((out / "plan.json").read_text())["trials"]
    assert {trial["trial_id"] for trial in again} == {trial["trial_id"] for trial in plan["trials"]}
    assert sorted(rows(out), key=str) == sorted(rows(finished[0]), key=str)


def test_other_plans_are_refused(finished: Finished, sweep_of_cells: Swept) -> None:
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
    assert err.splitlines()[1:] == ["  epochs: 6 in plan.json, 3 in this command"]


def as_before_tokens(out: Path) -> None:
    """Make a run folder what a version wrote whose W&B ids were the trials' own."""
    plan = json.loads((out / "plan.json").read_text())
    del plan["run_token"], plan["wandb_group"]
    (out / "plan.json").write_text(json.dumps(plan))
    for path in (out / "ledger").glob("*.json"):
        record = json.loads(path.read_text())
        record["wandb_id"] = record["trial_id"]
        path.write_text(json.dumps(record))


def test_extended_grid_runs_only_new_trials(
    finished: Finished, sweep_of_cells: Swept, tmp_path: Path
) -> None:
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
        space,
        "--data",
        sweep_of_cells.data,
        "--out",
        out,
        "--wandb",
        "offline",
        "--gpus",
        "1xA100",
        cwd=tmp_path,
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
    # and it computes as the others did, also on a GPU that could compute in bfloat16
    assert precisions(out) == {kept_precision(out)} == {kept_precision(finished[0])}


def refusal(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command line says that refuses a request, in this process."""
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    return line


def test_only_runs_a_part_and_removes_nothing(
    finished: Finished,
    sweep_of_cells: Swept,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
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


def damage(folder: Path) -> tuple[str, str]:
    """Truncate the newest saved state of a trial; return trial_id and the file's name."""
    name = json.loads((folder / "resume.json").read_text())["states"][0]["state"]
    os.truncate(folder / name, 1000)
    return folder.name, name


def test_resumed_after_sigint_and_kill_equals_undisturbed(
    finished: Finished,
    sweep_of_cells: Swept,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
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
