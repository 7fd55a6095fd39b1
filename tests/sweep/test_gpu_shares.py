"""Which device a trial computes on: its share of a GPU says so, not what torch finds.

No GPU is needed. In the first test torch says that there is one, in the workers of a real sweep.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.patching import patch_when_imported
from tests.sweep.command_line import QUICK, SPACE, records, rows, run
from trainables.config import RunOptions, TrialConfig
from trainables.data.dataset import open_dataset
from trainables.errors import NoGpu
from trainables.machine.hardware import PRETEND, Pretended, count_gpus, pretended_gpu
from trainables.stardist.client import train_stardist

TORCH_SEES_A_GPU = """
import os

def patch(module):
    visible = lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    module.torch.cuda.is_available = visible
"""
ONE = (*QUICK, "--set", "epochs=1", "--set", "architecture=Linknet", "--wandb", "off")


@pytest.mark.slow
def test_a_trial_without_a_share_runs_on_the_cpu(data: Path, tmp_path: Path) -> None:
    patch_when_imported(tmp_path, "trainables.predict", TORCH_SEES_A_GPU)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        tmp_path / "run",
        *ONE,
        "--set",
        "gpus_per_trial=0",
        cwd=tmp_path,
        PYTHONPATH=paths,
        **{PRETEND: "0"},
    )
    assert code == 0, text + err
    assert [row["status"] for row in rows(tmp_path / "run")] == ["done"]


@pytest.mark.slow
def test_a_node_whose_gpu_torch_cannot_use_gets_no_trial(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GPU would be free again at once, and draw one waiting trial after the other."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        without = cluster.add_node(num_cpus=1, num_gpus=1, env_vars={PRETEND: "0"}).node_id
        words = (
            SPACE,
            "--data",
            data,
            "--out",
            tmp_path / "run",
            *ONE[:-4],
            "--set",
            "architecture=Linknet,FPN",
            "--wandb",
            "off",
            "--address",
            cluster.address,
            "--set",
            "gpus_per_trial=0.5",
            "--set",
            "retries=0",
        )
        extra = {"RAY_AUTH_MODE": "disabled", PRETEND: "0"}
        code, text, err = run(*words, cwd=tmp_path, **extra)
        assert code == 1, text + err
        (line,) = (one for one in text.splitlines() if "gets no trial on a GPU" in one)
        assert without[:8] in line
        assert "torch sees no GPU here; check nvidia-smi" in line
        assert "no node is left that has a GPU that torch can use" in text
        good = cluster.add_node(num_cpus=1, num_gpus=1, env_vars={PRETEND: "1"}).node_id
        code, text, err = run(*words, "--resume", cwd=tmp_path, **extra)
    finally:
        cluster.shutdown()
    assert code == 0, text + err
    found = records(tmp_path / "run")
    assert [record["status"] for record in found] == ["done", "done"]
    assert {one["node"] for record in found for one in record["attempts"]} == {good}
    assert {len(record["attempts"]) for record in found} == {1}, "a refusal is no attempt"


NODE_IS_SHORT = """
import os

def patch(module):
    train = module.train
    def short(*arguments, options, **more):
        from trainables.errors import HostMemoryShort
        told = os.environ["TOLD"]
        with open(told, "a") as handle:
            handle.write(options.model_dump_json() + "\\n")
        with open(told) as handle:
            if len(handle.readlines()) <= int(os.environ["TIMES"]):
                raise HostMemoryShort("the node's memory ran out (for this test)")
        return train(*arguments, options=options, **more)
    module.train = short
"""


@pytest.mark.slow
@pytest.mark.parametrize(("times", "status"), [(1, "done"), (9, "failed")])
def test_a_nodes_memory_is_short(data: Path, tmp_path: Path, times: int, status: str) -> None:
    patch_when_imported(tmp_path, "trainables.train", NODE_IS_SHORT)
    told = tmp_path / "told.jsonl"
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        tmp_path / "run",
        *ONE,
        "--gpus",
        "1",
        "--set",
        "gpus_per_trial=0.5",
        cwd=tmp_path,
        PYTHONPATH=paths,
        TOLD=str(told),
        TIMES=str(times),
        **{PRETEND: "1"},
    )
    assert code == (0 if status == "done" else 1), text + err
    options = [json.loads(line) for line in told.read_text().splitlines()]
    assert len(options) == 2, "alone on the node there is nothing more to try"
    assert {(one["gpu_fraction"], one["micro_batch"]) for one in options} == {(0.5, None)}
    (record,) = records(tmp_path / "run")
    assert record["status"] == status
    assert "the node's memory ran out" in record["out_of_memory"][0]
    assert "will be tried again with 0.5 GPU, " in text
    if status == "failed":
        assert "GB of the node: train it on a node with more memory" in record["error"]


OFFICIAL = """
from search_spaces import SearchSpace, grid
SPACE = SearchSpace(trials=grid(
    task="stardist", architecture="StarDist", crop_size=64, batch_size=4, epochs=1, rays=16,
    augmentation="none",
))
"""


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_official_stardist_beside_gpus(data: Path, tmp_path: Path, share: float) -> None:
    (tmp_path / "space.py").write_text(OFFICIAL)
    code, text, err = run(
        "space.py",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--gpus",
        "1",
        "--wandb",
        "off",
        "--set",
        "gpus_per_trial=0.25",
        "--set",
        "stardist_cpus=2",
        "--set",
        f"stardist_gpus={share}",
        cwd=tmp_path,
        **{PRETEND: "1"},
    )
    assert code == 0, text + err
    (record,) = records(tmp_path / "run")
    (attempt,) = record["attempts"]
    assert attempt["limits"]["gpu"] == share
    assert attempt["limits"]["cpus"] == (None if share else 2.0)


@pytest.mark.slow
def test_a_share_without_a_gpu_for_tensorflow(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRETEND, "0")
    config = TrialConfig(task="stardist", architecture="StarDist", crop_size=64, epochs=1)
    options = RunOptions(device="cuda", gpu_fraction=0.5)
    with pytest.raises(NoGpu, match="TensorFlow sees none here"):
        train_stardist(config, open_dataset(data), tmp_path / "t", options=options)


def test_gpus_that_are_not_here_are_refused(data: Path, tmp_path: Path) -> None:
    words = (SPACE, "--data", data, "--out", tmp_path / "run", *ONE, "--gpus", "97")
    code, _, err = run(*words, cwd=tmp_path, **{PRETEND: "0"})
    assert code == 2
    assert err.startswith("error: --gpus 97: this machine has ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run" / "plan.json").exists()


def test_gpus_that_are_hidden_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(Path, "glob", lambda *_: [])  # as under WSL: no files of devices
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert count_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert count_gpus() == 1
    for visible in ("", "-1", "-1,0", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert count_gpus() == 2
    # the driver does not answer, though there are files of devices
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/dev/nvidia0")])
    assert count_gpus() == 1, "nvidia-smi lists those of other containers, too"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert count_gpus() == 0
    program.unlink()
    assert count_gpus() == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        ("0", None),
        ("1", Pretended("", None)),
        ("V100", Pretended("V100", None)),
        ("V100-16", Pretended("V100", 16)),
        ("A100-79.5", Pretended("A100", 79.5)),
    ],
)
def test_pretended_gpus(
    value: str, expected: Pretended | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRETEND, value)
    assert pretended_gpu() == expected


RAY_COUNTS_A_GPU = """
def patch(module):
    manager = module.AppleGPUAcceleratorManager
    manager.get_current_node_num_accelerators = staticmethod(lambda: 1)
"""


@pytest.mark.slow
def test_a_gpu_that_torch_cannot_use_is_no_gpu(data: Path, tmp_path: Path) -> None:
    """Ray counts GPUs of Apple, AMD and Intel; a trial with a share of one would find none."""
    patch_when_imported(tmp_path, "ray._private.accelerators.apple_gpu", RAY_COUNTS_A_GPU)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        tmp_path / "run",
        *ONE,
        cwd=tmp_path,
        PYTHONPATH=paths,
        **{PRETEND: "0"},
    )
    assert code == 0, text + err
    assert [row["status"] for row in rows(tmp_path / "run")] == ["done"]
