"""A cluster whose GPUs differ: the smallest decides, or the type that is asked for.

GPUs are pretended: each node's environment says which one, and measuring and training is done on
the CPU. Who is measured where, what trials get and where they run is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.command_line import QUICK, SPACE, records, run
from trainables.machine.hardware import PRETEND


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def add(cluster: Any, kind: str, memory_gb: int) -> str:
    node = cluster.add_node(
        num_cpus=2,
        num_gpus=1,
        labels={"ray.io/accelerator-type": kind},
        env_vars={PRETEND: f"{kind}-{memory_gb}"},
    )
    return str(node.node_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "kind", "share"),
    [
        (("--set", "precision=32"), "V100", (0.3, 1)),
        (("--gpus", "1xA100", "--set", "precision=bf16"), "A100", (0.12, 0.13)),
    ],
)
def test_kinds(
    data: Path,
    tmp_path: Path,
    cluster: Any,
    more: tuple[str, ...],
    kind: str,
    share: tuple[float, float],
) -> None:
    # the larger one first, so that it is not the smallest by chance of the order
    nodes = {"A100": add(cluster, "A100", 40), "V100": add(cluster, "V100", 2)}
    out = tmp_path / "run"
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        "--address",
        cluster.address,
        *QUICK,
        *more,
        "--set",
        "architecture=Linknet,FPN",
        "--set",
        "epochs=1",
        "--wandb",
        "off",
        cwd=tmp_path,
        RAY_AUTH_MODE="disabled",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert code == 0, text + err
    assert "not measured" not in text
    kept = json.loads((tmp_path / "cache" / "segsweep" / "footprints.json").read_text())
    measured = [key for key, fields in kept.items() if fields["measured"]]
    assert len(measured) == 2
    assert all(f" | {kind} | " in key for key in measured)
    low, high = share
    given = [one["limits"]["gpu"] for record in records(out) for one in record["attempts"]]
    assert len(given) >= 2
    assert all(low < one < high for one in given), given
    if kind == "A100":  # asked for: others get no trial
        assert "note: V100 is not the requested A100 and gets no trial" in text
        ran = {one["node"] for record in records(out) for one in record["attempts"]}
        assert ran == {nodes["A100"]}
