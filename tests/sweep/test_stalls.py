"""Trials that wait while none runs: the user is told what they wait for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.stalls import Stall, why_none_runs
from tests.sweep.command_line import QUICK, SPACE, make_data, records, start, wait_for

ONE = {"CPU": 1.0, "GPU": 0.5}


def test_said_once_until_a_trial_has_run() -> None:
    said: list[str] = []
    stall = Stall(said.append, lambda: [{"CPU": 8.0}], seconds=0.0)
    for _ in range(4):
        stall.look(False, [ONE, ONE])
    (line,) = said
    assert line.startswith(
        "no trial is running, 2 are waiting: no node that may run one has 1 CPU, 0.5 GPU; trials "
        "start when such a node joins"
    )
    stall.look(True, [ONE])
    stall.look(False, [])  # nothing waits
    assert len(said) == 1
    for _ in range(4):
        stall.look(False, [ONE])
    assert len(said) == 2


def test_not_before_its_time() -> None:
    said: list[str] = []
    stall = Stall(said.append, list, seconds=1000.0)
    for _ in range(3):
        stall.look(False, [ONE])
    assert not said


def test_the_smallest_trial_decides() -> None:
    memory = {"CPU": 1.0, "memory": 3 * 2.0**30}
    assert "has 1 CPU, 3 GB of memory;" in why_none_runs([memory], [{"CPU": 4.0}])
    assert "busy with other work" in why_none_runs([{"CPU": 4.0}, {"CPU": 1.0}], [{"CPU": 2.0}])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that trains nothing."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=arguments)
    yield made
    made.shutdown()


@pytest.mark.slow
def test_all_nodes_leave_and_one_comes_back(tmp_path: Path, cluster: Any) -> None:
    data, out = make_data(tmp_path / "discs"), tmp_path / "run"
    first = cluster.add_node(num_cpus=1)
    process = start(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        "--address",
        cluster.address,
        *QUICK,
        "--wandb",
        "off",
        "--set",
        "architecture=Unet",
        "--set",
        "epochs=30",
        "--set",
        "checkpoint_seconds=0",
        cwd=tmp_path,
        RAY_AUTH_MODE="disabled",
    )
    wait_for(lambda: list((out / "checkpoints").glob("*/resume.json")), process, 500)
    cluster.remove_node(first, allow_graceful=False)
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    line = next(line for line in told if "no trial is running" in line)
    assert "1 is waiting: no node that may run one has 1 CPU;" in line
    cluster.add_node(num_cpus=1)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    # written after the screen, so read at the end
    assert line.strip() in (out / "sweep.log").read_text()
    (record,) = records(out)
    assert record["status"] == "done"
    assert len(record["attempts"]) == 2
