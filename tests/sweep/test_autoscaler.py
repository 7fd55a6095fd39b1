"""What a fresh cluster may start is read, so that its GPUs are used without ``--gpus``.

The autoscaler and the nodes that it starts are real Ray, on this machine; the GPUs are pretended.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from sweep.cluster.autoscaler import Offer, read_offer

sys.path.insert(0, str(Path(__file__).parent))

from command_line import QUICK, SPACE, make_data, records, run
from fresh_cluster import fresh_cluster

A100 = {
    "resources": {"CPU": 1, "GPU": 1, "accelerator_type:A100": 1},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 2,
}


def test_the_offer_of_our_cluster_yaml() -> None:
    content = yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text())
    assert read_offer(content) == Offer(cpus=32, gpus=4, gpu_name="")
    kinds = content["available_node_types"]
    kinds["gpu_worker"]["labels"] = {"ray.io/accelerator-type": "A10G"}
    kinds["cpu_worker"] = {"resources": {"CPU": 64}, "max_workers": 9}
    assert read_offer(content) == Offer(cpus=32, gpus=4, gpu_name="A10G")
    kinds["other"] = {"resources": {"CPU": 8, "GPU": 8, "accelerator_type:V100": 1}}
    assert read_offer(content) == Offer(cpus=32, gpus=32, gpu_name="V100")
    assert read_offer({}) == Offer()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_fresh_cluster_uses_the_gpus_that_it_may_start(tmp_path: Path, monkeypatch) -> None:
    data, out = make_data(tmp_path / "discs"), tmp_path / "run"
    with fresh_cluster(tmp_path, monkeypatch, {"gpu": A100}) as cluster:
        code, text, err = run(
            SPACE,
            "--data",
            data,
            "--out",
            out,
            "--address",
            cluster.address,
            *QUICK,
            "--set",
            "architecture=Unet,FPN",
            "--set",
            "epochs=1",
            "--wandb",
            "off",
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
        )
    assert code == 0, text + err
    assert "the cluster may start up to 2 GPUs (A100)" in text
    assert "precision=auto is bf16 in this run: A100 can compute in bfloat16" in text
    assert "2 trials, 2 at a time" in text
    nodes = {attempt["node"] for record in records(out) for attempt in record["attempts"]}
    assert nodes
    assert all(node.startswith("fffff") for node in nodes), "the autoscaler names its nodes so"
