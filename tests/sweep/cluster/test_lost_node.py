"""A node that is lost during a sweep: its trials move to the other one.

The nodes seem to have unlike GPUs: all trials compute in what both can, wherever they run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.sweep.command_line import (
    QUICK,
    SPACE,
    kept_precision,
    nodes_of,
    precisions,
    records,
    rows,
    start,
    wait_for,
)


def test_two_nodes_one_removed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    def node(gpu: str) -> dict[str, Any]:
        return {"num_cpus": 1, "num_gpus": 1, "labels": {"ray.io/accelerator-type": gpu}}

    head = {**node("A100"), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(**node("V100"))
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
            "architecture=Unet,UnetPlusPlus",
            *QUICK,
            "--set",
            "gpus_per_trial=1",
            "--set",
            "epochs=8",
            "--set",
            "checkpoint_seconds=0",
            "--wandb",
            "off",
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
        )

        def second_has_checkpoint() -> bool:
            ids = [
                r["trial_id"]
                for r in records(out)
                if r["status"] == "running" and r["attempts"][-1]["node"] == second.node_id
            ]
            return any((out / "checkpoints" / i / "resume.json").exists() for i in ids)

        wait_for(lambda: len(nodes_of(out)) == 2 and second_has_checkpoint(), process)
        cluster.remove_node(second, allow_graceful=False)
        text, err = process.communicate(timeout=400)
        assert process.returncode == 0, text + err
        assert [row["status"] for row in rows(out)] == ["done"] * 2
        assert any(len(r["attempts"]) > 1 for r in records(out)), "a trial was moved"
        moved = [r for r in records(out) if len(r["attempts"]) > 1]
        assert all(r["attempts"][-1]["node"] != second.node_id for r in moved)
        assert len(rows(out, "history.csv")) == 2 * 8
        assert nodes_of(out) == {cluster.head_node.node_id, second.node_id}
        assert precisions(out) == {kept_precision(out)} == {"32"}
    finally:
        cluster.shutdown()
