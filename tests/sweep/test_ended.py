"""What stays of a trial in the driver's memory, and in Ray Tune's files, after its end."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune.experiment.trial import Trial

from sweep.ended import forget_metrics, metrics_so_far
from tests.sweep.conftest import Finished
from trainables.config import EpochRecord, TrialConfig

MANY = 50


def trial(number: int, storage: StorageContext) -> Trial:
    config = {"trial": {"config": TrialConfig(seed=number).model_dump(mode="json")}}
    made = Trial(
        "f",
        config=config,
        evaluated_params=copy.deepcopy(config),
        trial_id=f"t{number}",
        storage=storage,
        stub=True,
    )
    made.create_placement_group_factory()
    for epoch in (1, 2):
        names = (*EpochRecord.__dataclass_fields__, "score", "scheduler_epoch")
        row: dict[str, Any] = dict.fromkeys(names, 0.5 + epoch)
        made.update_last_result(
            {**row, "config": copy.deepcopy(config), "training_iteration": epoch, "done": False}
        )
    return made


@pytest.fixture
def storage(tmp_path_factory: pytest.TempPathFactory) -> StorageContext:
    return StorageContext(str(tmp_path_factory.mktemp("storage")), "run")


def test_little_of_an_ended_trial_stays(storage: StorageContext) -> None:
    def kilobytes(forget: bool) -> float:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        made = [trial(number, storage) for number in range(MANY)]
        for one in made:
            if forget:
                forget_metrics(one)
            one.get_json_state()  # Tune keeps this, too
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / MANY / 1024

    trial(0, storage).get_json_state()  # what is made once does not count
    tracemalloc.start()
    try:
        plain, slim = kilobytes(forget=False), kilobytes(forget=True)
    finally:
        tracemalloc.stop()
    assert slim < 15
    assert slim < plain / 3


def test_tune_can_still_ask_an_ended_trial(storage: StorageContext) -> None:
    one = trial(0, storage)
    one.set_status(Trial.TERMINATED)
    forget_metrics(one)
    assert one.last_result == {"trial_id": "t0", "done": False, "training_iteration": 2}
    assert one.is_finished()
    assert {*one.metric_analysis} == {"score", "scheduler_epoch"}, "what schedulers were told"
    assert one.metric_analysis["score"]["last"] == 2.5
    state, metadata = one.get_json_state()
    again = Trial.from_json_state(state, stub=True)
    again.restore_run_metadata(metadata)
    assert (again.trial_id, again.status) == ("t0", Trial.TERMINATED)


def test_a_sweep_leaves_a_small_state_of_tune(finished: Finished) -> None:
    out, *_ = finished
    states = list((out / "tune").glob("*/experiment_state-*.json"))
    assert states
    trials = [one for path in states for one in json.loads(path.read_text())["trial_data"]]
    assert trials
    assert max(len(config) + len(metadata) for config, metadata in trials) < 8000
    assert not any("val_dataset_iou" in metadata for _, metadata in trials)
    assert "Failed to fetch metrics" not in (out / "sweep.log").read_text()


def test_the_metrics_of_a_trial_that_was_stopped() -> None:
    def epoch(number: int, iou: float | None) -> dict[str, Any]:
        scores = {"val_dataset_iou": iou, "val_image_iou": iou}
        return {"epoch": number, "seconds": 2.0, **scores}

    assert metrics_so_far({}) == metrics_so_far({1: epoch(1, None)}) == {}
    assert metrics_so_far({1: epoch(1, 0.0)})["best_epoch"] == 1
    assert metrics_so_far({1: epoch(1, 0.5), 2: epoch(2, None), 3: epoch(3, 0.25)}) == {
        "val_dataset_iou": 0.5,
        "val_image_iou": 0.5,
        "best_epoch": 1,
        "epochs": 3,
        "train_seconds": 6.0,
    }
