"""A sweep on two nodes: how many trials it says run at once, and how many do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.command_line import QUICK, SPACE, records, run


@pytest.mark.slow
def test_one_trial_on_each_node(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    # two cores each, but memory for one of the trials, which need about 1.5 GB
    node = {"num_cpus": 2, "num_gpus": 0, "memory": 2500 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        code, text, err = run(
            *(SPACE, "--data", data, "--out", tmp_path / "run", *QUICK, "--wandb", "off"),
            *("--set", "epochs=30", "--seeds", "2", "--only", "architecture=Unet"),
            *("--address", cluster.address),
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
        )
    finally:
        cluster.shutdown()
    assert code == 0, text + err
    assert "run: 2 trials, 2 at a time" in text
    one, two = (record["attempts"][-1] for record in records(tmp_path / "run"))
    assert one["node"] != two["node"]
    assert one["started"] < two["ended"]
    assert two["started"] < one["ended"]
