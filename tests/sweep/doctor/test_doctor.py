"""``python -m sweep.doctor`` by the real command line, on this machine and on clusters."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.command_line import environment, make_data
from tests.sweep.fresh_cluster import fresh_cluster
from tests.sweep.namespaces import _call as call
from tests.sweep.namespaces import add_blind_node, available, without

KEY = "0123456789abcdef0123456789abcdef01234567"
MS_RDONLY, MS_REMOUNT = 1, 32
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


def doctor(*words: object, cwd: Path, **extra: str) -> tuple[int, list[str]]:
    """Run the command line; return its exit code and the table's lines without the head."""
    done = subprocess.run(
        [sys.executable, "-m", "sweep.doctor", *map(str, words)],
        cwd=cwd,
        env=environment(SEGSWEEP_PRETEND_GPUS="", **extra),
        text=True,
        capture_output=True,
        timeout=500,
    )
    assert done.stderr == ""
    head, *lines, ending = done.stdout.splitlines()
    assert head.split() == ["what", "where", "finding"]
    wrong = [line for line in lines if line.startswith("problem")]
    assert all("; " in line for line in wrong), "a problem says what to do"
    assert done.returncode == (2 if wrong else 0)
    assert ("nothing" in ending) == (not wrong)
    assert all(line.split()[0] in ("ok", "note", "problem") for line in lines)
    return done.returncode, lines


def about(lines: list[str], what: str) -> list[str]:
    return [line for line in lines if line.split(maxsplit=1)[1].startswith(what)]


def test_this_machine(tmp_path: Path, server: str) -> None:
    data, out = make_data(tmp_path / "data [1]"), tmp_path / "runs" / "one"
    code, lines = doctor(
        "--data",
        data,
        "--out",
        out,
        cwd=tmp_path,
        WANDB_API_KEY=KEY,
        WANDB_BASE_URL=server,
        HF_ENDPOINT=server,
    )
    assert code == 0, "\n".join(lines)
    subjects = (
        "project",
        "python",
        "libraries",
        "gpu",
        "torch",
        "tensorflow",
        "wandb",
        "temporary files",
        "data",
        "out",
        "disk",
        "weights",
    )
    assert all(about(lines, subject) for subject in subjects), lines
    import torch

    assert f"{torch.__version__}, built for" in about(lines, "torch")[0]
    (wandb,) = about(lines, "wandb")
    assert "127.0.0.1 responds, key from WANDB_API_KEY in the environment" in wandb
    assert not any(KEY in line for line in lines)
    assert f"{data}: 10 files" in about(lines, "data")[0]
    assert "train 3, val 1, test 1" in about(lines, "data")[0]
    assert "will be created" in about(lines, "out")[0]
    assert "responds" in about(lines, "weights")[0]
    assert not out.parent.exists(), "it changes nothing"


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (data / "masks" / "i0.tif").unlink()
    (data / "images" / "x.bmp").write_bytes(b"")
    (tmp_path / "file").touch()
    code, lines = doctor(
        "--data",
        data,
        "--out",
        tmp_path / "file" / "run",
        "--address",
        "127.0.0.1:1",
        cwd=tmp_path,
        WANDB_MODE="perhaps",
    )
    assert code == 2
    wrong = [line for line in lines if line.startswith("problem")]
    subjects = ["wandb", "data", "data", "out", "cluster"]
    assert [line.split()[1] for line in wrong] == subjects, "\n".join(lines)
    assert "WANDB_MODE=perhaps" in wrong[0]
    assert "images/x.bmp: not a TIFF or PNG file" in wrong[1]
    assert "images/i0.tif: no mask" in wrong[2]
    assert f"{tmp_path / 'file'}" in wrong[3]
    assert "no Ray cluster responds at '127.0.0.1:1'" in wrong[4]
    assert about(lines, "python"), "this machine is looked at all the same"


def test_an_installation_without_libraries(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-S", "-m", "sweep.doctor"],  # without site-packages
        cwd=tmp_path,
        env=environment(PYTHONPATH=root),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("problem  libraries  here  not installed: ")
    assert "make setup" in line


def read_only(folder: Path, function: Callable[[], Any]) -> Any:
    """Call a function where a folder cannot be written to, by root neither."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        return function()

    def inside() -> Any:
        again = ctypes.c_ulong(MS_REMOUNT | MS_RDONLY)
        call("mount", b"none", os.fsencode(folder), None, again, None)
        return function()

    return without([folder], inside)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not available(), reason="root may write everywhere")
def test_a_read_only_out_and_no_data(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    words = ("--data", tmp_path / "none", "--out", runs / "one")
    code, lines = read_only(runs, lambda: doctor(*words, cwd=tmp_path))
    assert code == 2
    wrong = [line for line in lines if line.startswith("problem")]
    (data,), (out,) = about(wrong, "data"), about(wrong, "out")
    assert f"{tmp_path / 'none'}: no such folder; give the folder that contains images/" in data
    assert "cannot be written to" in out
    assert str(runs) in out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node; what a test adds it takes away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()


@contextmanager
def joined(cluster: Any, node: Any) -> Iterator[str]:
    """Give the beginning of a node's id, and take the node away at the end."""
    try:
        yield node.node_id[:8]
    finally:
        cluster.remove_node(node)


@pytest.mark.slow
def test_a_cluster_of_two_nodes(tmp_path: Path, cluster: Any) -> None:
    data, out = make_data(tmp_path / "data"), tmp_path / "runs" / "one"
    words = ("--address", cluster.address, "--data", data, "--out", out)
    with joined(cluster, cluster.add_node(num_cpus=1)):
        code, lines = doctor(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 0, "\n".join(lines)
    both = [line for line in lines if " all 2 nodes " in line]
    for subject in ("node", "ray", "project", "libraries", "gpu", "torch", "tensorflow", "wandb"):
        assert about(both, subject), lines
    assert "as here" in about(both, "ray")[0]
    assert "the same " in about(both, "project")[0]
    assert about(both, "data")[0].endswith("the same files as here")
    assert about(both, "out")[0].endswith("can be written to")
    assert not out.parent.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_fresh_cluster_says_what_it_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = {"CPU": 8, "GPU": 1, "accelerator_type:A100": 1}
    types = {"gpu": {"resources": resources, "node_config": {}, "max_workers": 2}}
    with fresh_cluster(tmp_path, monkeypatch, types) as cluster:
        code, lines = doctor(
            "--address", cluster.address, "--out", tmp_path / "run", cwd=tmp_path, **NO_TOKEN
        )
    assert code == 0, "\n".join(lines)
    (line,) = about(lines, "autoscaler")
    assert line.endswith("may start 16 CPUs, 2 GPUs (A100) when trials wait")
    assert about(lines, "node")[0].endswith("offers 0 CPUs, 0 GPUs: gets no trial")


@pytest.mark.slow
def test_a_node_without_the_libraries(tmp_path: Path, cluster: Any) -> None:
    (tmp_path / "tifffile.py").write_text("raise ModuleNotFoundError('No module named tifffile')")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)})
    with joined(cluster, node) as broken:
        code, lines = doctor("--address", cluster.address, cwd=Path(__file__).parent, **NO_TOKEN)
    assert code == 2
    (line,) = [line for line in lines if line.startswith("problem")]
    assert broken in line
    assert "cannot run a task (" in line
    assert "No module named tifffile" in line


@pytest.mark.skipif(not available(), reason="needs root's right to hide folders")
def test_a_node_that_does_not_see_out_and_data(tmp_path: Path, cluster: Any) -> None:
    data, out = make_data(tmp_path / "data"), tmp_path / "runs" / "one"
    out.parent.mkdir()
    node = add_blind_node(cluster, out.parent, data, num_cpus=1)
    words = ("--address", cluster.address, "--data", data, "--out", out)
    with joined(cluster, node) as blind:
        code, lines = doctor(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 2
    wrong = [line for line in lines if line.startswith("problem")]
    assert [line.split()[1] for line in wrong] == ["out", "data"], "\n".join(lines)
    assert all(blind in line for line in wrong)
    assert f"cannot find the run folder {out}" in wrong[0]
    assert "shared" in wrong[0].rpartition("; ")[2]
    seen = [line for line in lines if cluster.head_node.node_id[:8] in line]
    assert [line.split()[:2] for line in seen] == [["ok", "out"], ["ok", "data"]]
    assert list(out.parent.iterdir()) == []


def test_a_cluster_of_another_version(tmp_path: Path, cluster: Any) -> None:
    import ray
    from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER

    told = {"ray_version": "2.49.1", "python_version": "3.11.1", "ray_init_cluster": False}
    store, place = cluster.head_node.get_gcs_client(), {"namespace": KV_NAMESPACE_CLUSTER}
    true = store.internal_kv_get(CLUSTER_METADATA_KEY, **place)
    store.internal_kv_put(CLUSTER_METADATA_KEY, json.dumps(told).encode(), True, **place)
    try:
        code, lines = doctor("--address", cluster.address, cwd=tmp_path, **NO_TOKEN)
    finally:
        store.internal_kv_put(CLUSTER_METADATA_KEY, true, True, **place)
    assert code == 2
    (line,) = [line for line in lines if line.startswith("problem")]
    assert "started with Ray: 2.49.1 Python: 3.11.1; this machine has Ray: " in line
    assert f"install ray=={ray.__version__}" in line
