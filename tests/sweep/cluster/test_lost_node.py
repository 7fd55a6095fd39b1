"""A node that is lost during a sweep: its trials move to the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.command_line import QUICK, SPACE, records, rows, start, wait_for


def test_two_nodes_one_removed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
