"""``--only`` on a cluster, whose precision is known only when the sweep has joined it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.command_line import QUICK, SPACE, rows, run


def test_what_only_asked_for_decides_the_exit_code(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        words = (SPACE, "--data", data, "--out", tmp_path / "run", *QUICK, "--wandb", "off")
        code, text, err = run(
            *words,
            "--set",
            "encoder=tu-no_such_network",
            "--set",
            "retries=0",
            "--set",
            "architecture=Unet,Linknet",
            "--address",
            cluster.address,
            "--only",
            "architecture=Unet",
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
        )
    finally:
        cluster.shutdown()
    assert code == 1, text + err
    assert [row["status"] for row in rows(tmp_path / "run")] == ["failed"]
    assert "1 of 1 trials failed" in text
    assert "left out by --only" not in text
