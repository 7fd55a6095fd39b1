"""Searches and early stopping by the real command line: repeats, kills, resumes."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sweep.search.searcher import JOURNAL, STUDY
from tests.sweep.command_line import (
    QUICK,
    SPACE,
    TINY_TUNE,
    kill,
    records,
    rows,
    run,
    start,
    wait_for,
)


def study(out: Path) -> list[optuna.trial.FrozenTrial]:
    """Return what optuna-dashboard shows."""
    backend = optuna.storages.journal.JournalFileBackend(str(out / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    trials: list[optuna.trial.FrozenTrial]
    trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    return trials


def agree(out: Path) -> None:
    """Assert that the study holds every trial's result, and no trial was begun twice."""
    told: dict[str, set[tuple[TrialState, float | None]]] = {}
    for trial in study(out):
        told.setdefault(trial.user_attrs["trial_id"], set()).add((trial.state, trial.value))
    states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for row in rows(out):
        assert told.pop(row["trial_id"]) == {(states[row["status"]], float(row["val_dataset_iou"]))}
    assert not told


DISCRETE = """
from optuna.distributions import CategoricalDistribution, IntDistribution
from search_spaces import SearchSpace, grid
SPACE = SearchSpace(
    trials=grid(architecture="Linknet", encoder="mobilenet_v2", crop_size=64, epochs=2),
    dimensions={"batch_size": IntDistribution(4, 8, step=4),
                "augmentation": CategoricalDistribution(["none", "light"]),
                "learning_rate": [1e-3, 5e-3]},
    settings={"search": "optuna", "samples": 9},
)
"""


@pytest.mark.slow
def test_equal_draws_run_once_and_a_killed_search_goes_on(data: Path, tmp_path: Path) -> None:
    out, space = tmp_path / "search", tmp_path / "space.py"
    space.write_text(DISCRETE)
    words = (space, "--data", data, "--out", out, *TINY_TUNE, "--set", "augmentation=none")
    process = start(*words, cwd=tmp_path)
    wait_for(lambda: any(r["status"] == "done" for r in records(out)), process)
    kill(process)
    before = {r["trial_id"]: r for r in records(out) if r["status"] == "done"}

    code, _, err = run(space, *words[1:-2], "--resume", cwd=tmp_path)
    assert code == 2
    assert "draws augmentation from different values" in err
    code, text, err = run(*words, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    after = {r["trial_id"]: r for r in records(out)}
    # four combinations, however many were wanted, each of them once
    assert len(after) == len(rows(out)) == 4
    assert len({(r["batch_size"], r["learning_rate"]) for r in rows(out)}) == 4
    assert all(after[trial_id] == record for trial_id, record in before.items())
    assert {r["augmentation"] for r in rows(out)} == {"none"}
    agree(out)
    code, text, err = run(*words, cwd=tmp_path)
    assert code == 0, text + err
    assert "nothing to do" in text


@pytest.mark.slow
def test_asha_and_optuna(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    words = (
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *QUICK,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "epochs=4",
        "--set",
        "search=optuna",
        "--set",
        "scheduler=asha",
        "--set",
        "grace_epochs=1",
        "--set",
        "batch_size=4",
    )
    code, text, err = run(*words, "--set", "samples=5", cwd=tmp_path)
    assert code == 0, text + err
    table = rows(out)
    assert len(table) == len({row["trial_id"] for row in table}) == 5, text
    assert len({row["learning_rate"] for row in table}) == 5
    assert {row["status"] for row in table} <= {"done", "stopped"}
    for row in table:
        # who reaches the last epoch is tested; who is stopped early keeps what is known
        assert (row["status"] == "done") == (row["epochs"] == "4")
        assert bool(row["test_dataset_iou"]) == (row["status"] == "done")
        assert row["val_dataset_iou"]
    assert any(row["status"] == "done" for row in table)
    stopped = [row["trial_id"] for row in table if row["status"] == "stopped"]
    assert stopped, "ASHA stopped nobody"
    left = [path.name for i in stopped for path in (out / "checkpoints" / i).iterdir()]
    assert set(left) <= {"attempt.json"}, "states that never serve again"
    agree(out)
    first = {row["trial_id"]: row for row in table}
    code, text, err = run(*words, "--set", "samples=7", "--resume", cwd=tmp_path)
    assert code == 0, text + err
    again = {row["trial_id"]: row for row in rows(out)}
    assert len(again) == 7
    assert {i: again[i] for i in first} == first
    agree(out)


@pytest.mark.slow
def test_a_resumed_run_stops_who_falls_behind_those_that_have_ended(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "asha"
    words = (
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *QUICK,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "epochs=8",
        "--set",
        "scheduler=asha",
        "--set",
        "grace_epochs=6",
    )
    code, text, err = run(*words, "--set", "learning_rate=0.01", cwd=tmp_path)
    assert code == 0, text + err
    (good,) = rows(out)
    assert good["status"] == "done"
    code, text, err = run(*words, "--set", "learning_rate=0.01,0.0000001", cwd=tmp_path)
    assert code == 0, text + err
    (bad,) = [row for row in rows(out) if row["trial_id"] != good["trial_id"]]
    sixth = {
        row["trial_id"]: float(row["val_dataset_iou"])
        for row in rows(out, "history.csv")
        if row["epoch"] == "6"
    }
    assert sixth[bad["trial_id"]] < sixth[good["trial_id"]]
    assert (bad["status"], bad["epochs"]) == ("stopped", "6")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_who_ran_out_of_memory_is_tried_again_under_the_scheduler(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "short"
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *QUICK,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "epochs=8",
        "--set",
        "scheduler=asha",
        "--set",
        "grace_epochs=6",
        "--set",
        "learning_rate=0.01,0.0000001",
        "--set",
        "concurrency=1",
        "--set",
        "memory_per_trial=0.2",
        "--set",
        "most_memory_per_trial=0.4",
        cwd=tmp_path,
    )
    assert code == 0, text + err
    assert all(r["out_of_memory"] for r in records(out)), "the limit was not felt"
    statuses = {float(row["learning_rate"]): row["status"] for row in rows(out)}
    assert statuses == {0.01: "done", 1e-7: "stopped"}
