"""What becomes of trials when Ray Tune itself gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from sweep.recorder import MOST_ATTEMPTS, Recorder
from sweep.tuner import _fit_on
from sweep.view import View
from trainables.config import TrialConfig


def recorder(out: Path, configs: dict[str, TrialConfig]) -> Recorder:
    plan: dict[str, Any] = {
        "trials": [{"trial_id": i, "config": c.model_dump(mode="json")} for i, c in configs.items()]
    }
    runtime = {"round": "1", "tracking": {"mode": "off"}, "fingerprint": "f"}
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

    _fit_on(fit, list("abcd"), made)
    assert seen == [["a", "b", "c", "d"], ["b", "c", "d"]]


def test_a_trial_that_always_brings_it_down_has_failed(tmp_path: Path) -> None:
    configs = {"a": TrialConfig()}
    made = recorder(tmp_path, configs)

    def fit(todo: list[str]) -> None:
        made.ledger.write_start("a", configs["a"], "node")
        raise ray.exceptions.OutOfMemoryError("1 worker was killed")

    _fit_on(fit, ["a"], made)
    record = made.ledger.read_one("a")
    assert record is not None
    assert record["status"] == "failed"
    assert "1 worker was killed" in record["error"]
    assert len(record["attempts"]) == MOST_ATTEMPTS + 1
