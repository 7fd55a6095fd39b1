from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sweep.difference import data_lines, setting_lines
from sweep.extending import Shorter, work_lines
from tests.trainables.records.test_progress import left
from trainables.config import TrialConfig
from trainables.data.splits import DataOptions
from trainables.records.files import write_json


def config(**fields: Any) -> TrialConfig:
    return TrialConfig(**{"encoder": "resnet18", "epochs": 3, **fields})


def plan(*configs: TrialConfig) -> dict[str, Any]:
    return {
        "trials": [
            {"trial_id": c.trial_id("f"), "config": c.model_dump(mode="json")} for c in configs
        ]
    }


def lines_for(todo: TrialConfig, *recorded: TrialConfig, out: Path) -> list[str]:
    trial_id = todo.trial_id("f")
    return work_lines([trial_id], {trial_id: todo}, plan(*recorded), out)


def test_a_first_run_says_nothing(tmp_path: Path) -> None:
    assert work_lines(["t"], {"t": config()}, None, tmp_path) == []


def test_new_trials(tmp_path: Path) -> None:
    added = config(seed=1)
    (line,) = lines_for(added, config(), out=tmp_path)
    assert line == f"1 new, not in plan.json: {added.trial_id('f')}"


def test_interrupted_trials_are_continued(tmp_path: Path) -> None:
    begun, waiting = config(), config(seed=1)
    ids = [begun.trial_id("f"), waiting.trial_id("f")]
    rows = [{"epoch": 1}, {"epoch": 2}]
    write_json(tmp_path / "checkpoints" / ids[0] / "resume.json", {"history": rows})
    assert work_lines(ids, {}, plan(begun, waiting), tmp_path) == [
        f"1 continued from their saved states: {ids[0]} (epoch 2)",
        f"1 from their first epoch: {ids[1]}",
    ]
    stopped = {"history": rows, "states": [{"epoch": 2, "batches": 5}, {"epoch": 2}]}
    write_json(tmp_path / "checkpoints" / ids[0] / "resume.json", stopped)
    assert work_lines(ids[:1], {}, plan(begun, waiting), tmp_path) == [
        f"1 continued from their saved states: {ids[0]} (within epoch 3)"
    ]


def test_results_that_were_not_recorded_are_not_trained_again(tmp_path: Path) -> None:
    """--plan said that they begin at their first epoch, and they did not."""
    trial_id = config().trial_id("f")
    folder = left(tmp_path / "checkpoints" / trial_id)
    write_json(folder / "resume.json", {"history": [{"epoch": 2}]})
    assert work_lines([trial_id], {}, plan(config()), tmp_path) == [
        f"1 continued from their saved states: {trial_id} (epoch 2)"
    ], "without its checkpoint it does not count"
    (folder / "weights.pt").touch()
    files = {"weights": {"file": "weights.pt", "sha256": "a"}, "config": {}}
    write_json(folder / "checkpoint.json", {"format": 1, "input": {"mean": 0, "std": 1}, **files})
    assert work_lines([trial_id], {}, plan(config()), tmp_path) == [
        f"1 with a result that only has to be recorded: {trial_id}"
    ]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"lr_schedule": "cosine"}, "the learning rate of lr_schedule=cosine depends on"),
        ({"lr_schedule": "constant", "early_stopping": 5}, "early_stopping may have ended"),
        ({"lr_schedule": "constant"}, "the last states were not kept (keep_last_state=true"),
    ],
)
def test_more_epochs_are_trained_anew_and_why(
    fields: dict[str, Any], why: str, tmp_path: Path
) -> None:
    longer = config(**fields, epochs=5)
    (line,) = lines_for(longer, config(**fields), out=tmp_path)
    assert line.startswith(f"1 with more epochs, trained anew from the first one, because {why}")
    assert line.endswith(longer.trial_id("f"))


KEPT = {"lr_schedule": "constant"}


@pytest.mark.parametrize(
    ("fields", "scheduler", "continued"),
    [
        (KEPT, "fifo", True),
        (KEPT, "asha", False),
        ({**KEPT, "validate_every": 3}, "fifo", True),
        ({**KEPT, "validate_every": 2}, "fifo", False),
        ({**KEPT, "early_stopping": 9}, "fifo", False),
        ({}, "fifo", False),
    ],
)
def test_what_is_continued(
    fields: dict[str, Any], scheduler: str, continued: bool, tmp_path: Path
) -> None:
    shorter, longer = config(**fields), config(**fields, epochs=5)
    recorded = plan(config(**fields, epochs=1), shorter)
    last = tmp_path / "checkpoints" / shorter.trial_id("f") / "last"
    last.mkdir(parents=True)
    (last / "resume.json").write_text("{}")
    found = Shorter(recorded["trials"]).continued(longer.model_dump(), tmp_path, scheduler)
    assert found == (shorter.trial_id("f") if continued else None)
    trial_id = longer.trial_id("f")
    (line,) = work_lines([trial_id], {trial_id: longer}, recorded, tmp_path, scheduler)
    assert line.startswith("1 with more epochs, continued from") is continued


def test_shorter_trials_by_hand() -> None:
    three, four, other = config(), config(epochs=4), config(epochs=4, seed=1)
    found = Shorter(plan(three, four, other)["trials"])
    ids = [four.trial_id("f"), three.trial_id("f")]
    assert found.of(config(epochs=9).model_dump(mode="json")) == ids
    assert found.of(config(epochs=4).model_dump(mode="json")) == ids[1:]
    assert found.of(config().model_dump(mode="json")) == []
    assert found.of(config(epochs=9, seed=2).model_dump(mode="json")) == []


def test_1000_trials_are_compared_in_a_moment(tmp_path: Path) -> None:
    old = [config(seed=seed) for seed in range(1000)]
    new = {c.trial_id("f"): c for c in (config(seed=seed, epochs=5) for seed in range(1000))}
    recorded = plan(*old)
    began = time.process_time()
    (line,) = work_lines(list(new), new, recorded, tmp_path)
    assert time.process_time() - began < 2  # measured: 0.1
    assert line.startswith("1000 with more epochs")
    assert line.endswith("and 997 more")


def test_settings_are_compared_by_their_values() -> None:
    def dumped(**fields: Any) -> dict[str, Any]:
        return config(**fields).model_dump(mode="json")

    before = [dumped(architecture=name) for name in ("Unet", "FPN")]
    assert setting_lines([dumped(architecture="PAN", epochs=2)], before) == [
        "architecture: Unet, FPN in plan.json, PAN in this command",
        "epochs: 3 in plan.json, 2 in this command",
    ]
    # nothing new in any setting
    crossed = [dumped(), dumped(architecture="FPN", seed=1)]
    assert setting_lines([dumped(architecture="FPN")], crossed) == [
        "architecture: Unet, FPN in plan.json, FPN in this command",
        "seed: 0, 1 in plan.json, 0 in this command",
    ]
    # what an old run did not record was the default
    del before[0]["lr_schedule"], before[1]["lr_schedule"]
    both = [dumped(architecture=name, lr_schedule="constant") for name in ("Unet", "FPN")]
    assert setting_lines(both, before) == [
        "lr_schedule: cosine in plan.json, constant in this command"
    ]
    # further seeds alone would continue the run; what is not asked for is why this does not
    assert setting_lines([dumped(), dumped(seed=1)], [dumped(), dumped(architecture="FPN")]) == [
        "seed: 0 in plan.json, 0, 1 in this command",
        "architecture: Unet, FPN in plan.json, Unet in this command",
    ]


def test_data_are_compared() -> None:
    options = DataOptions()
    recorded = {"path": "/a", "options": options.model_dump(mode="json")}
    assert data_lines("/b", options, recorded) == ["data: /a in plan.json, /b in this command"]
    assert data_lines("/a", DataOptions(val_fraction=0.3), recorded) == [
        "val_fraction: 0.2 in plan.json, 0.3 in this command"
    ]
    (line,) = data_lines("/a", options, recorded)
    assert line.endswith("files or dataset.yaml have changed")
