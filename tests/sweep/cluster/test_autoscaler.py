"""What a fresh cluster may start is read, so that its GPUs are used without ``--gpus``.

The autoscaler and the nodes that it starts are real Ray, on this machine; the GPUs are pretended.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sweep.cluster.autoscaler import Offer, address_here, read_offer
from sweep.run import main
from tests.sweep.command_line import QUICK, SPACE, make_data, records, run
from tests.sweep.fresh_cluster import fresh_cluster

A100 = {
    "resources": {"CPU": 1, "GPU": 1, "accelerator_type:A100": 1},
    "node_config": {},
    "min_workers": 0,
    "max_workers": 2,
}


def test_the_offer_of_our_cluster_yaml() -> None:
    content = yaml.safe_load((Path(__file__).parents[3] / "cluster.yaml").read_text())
    assert read_offer(content) == Offer(cpus=32, gpus=4, gpu_name="")
    kinds = content["available_node_types"]
    kinds["gpu_worker"]["labels"] = {"ray.io/accelerator-type": "A10G"}
    kinds["cpu_worker"] = {"resources": {"CPU": 64}, "max_workers": 9}
    assert read_offer(content) == Offer(cpus=32, gpus=4, gpu_name="A10G")
    kinds["other"] = {"resources": {"CPU": 8, "GPU": 8, "accelerator_type:V100": 1}}
    assert read_offer(content) == Offer(cpus=32, gpus=32, gpu_name="V100")
    assert read_offer({}) == Offer()


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine seem to run the autoscalers of two clusters."""
    kinds = {"w": {"resources": {"CPU": 8, "GPU": 1, "accelerator_type:A10G": 1}}}
    for number, types in enumerate([kinds, {}]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({"max_workers": 4, "available_node_types": types}))
        words = [
            "python",
            "monitor.py",
            f"--gcs-address=10.1.2.3:{6379 + number}",
            f"--autoscaling-config={path}",
        ]
        (tmp_path / "proc" / str(number)).mkdir(parents=True)
        (tmp_path / "proc" / str(number) / "cmdline").write_text("\0".join(words))
    monkeypatch.setattr("sweep.cluster.autoscaler.PROCESSES", tmp_path / "proc")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.1.2.3:6379", "10.1.2.3:6379"),
        ("127.0.0.1:6379", "10.1.2.3:6379"),
        ("localhost:6380", "10.1.2.3:6380"),
        ("127.0.0.1:6381", "127.0.0.1:6381"),
        ("10.9.9.9:6379", "10.9.9.9:6379"),
        ("auto", "auto"),
        ("odd", "odd"),
    ],
)
def test_whose_autoscaler_runs_here(head: None, address: str, found: str) -> None:
    assert address_here(address) == found


def test_the_only_autoscaler_is_that_of_auto(head: None, tmp_path: Path) -> None:
    (tmp_path / "proc" / "1" / "cmdline").unlink()
    assert address_here("auto") == "10.1.2.3:6379"


def test_a_plan_counts_on_what_a_real_start_uses(
    head: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = make_data(tmp_path / "discs")
    words = ["demo", "--data", str(data), "--plan", "--only", "architecture=Linknet"]
    assert main([*words, "--address", "localhost:6379"]) == 0
    text = capsys.readouterr().out
    assert "it assumes the 4 GPUs (A10G) that its autoscaler may start" in text
    assert "GPU 3" in text, "a time for each GPU, as with --gpus 4xA10G"
    for more in (["--set", "gpus_per_trial=0"], ["--gpus", "1xA10G"]):
        assert main([*words, "--address", "localhost:6379", *more]) == 0
        text = capsys.readouterr().out
        assert "its autoscaler" not in text
        assert "GPU 1" not in text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_fresh_cluster_uses_the_gpus_that_it_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_data(tmp_path / "discs"), tmp_path / "run"
    with fresh_cluster(tmp_path, monkeypatch, {"gpu": A100}) as cluster:
        port = cluster.address.rpartition(":")[2]
        code, text, err = run(
            SPACE,
            "--data",
            data,
            "--address",
            f"127.0.0.1:{port}",
            *QUICK,
            "--plan",
            "--set",
            "architecture=Unet,FPN",
            cwd=tmp_path,
        )
        assert code == 0, text + err
        assert "it assumes the 2 GPUs (A100) that its autoscaler may start" in text
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
