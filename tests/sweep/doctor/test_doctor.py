"""``python -m sweep.doctor``: what it finds, by the real command line, and what findings mean.

GPUs are facts made up here: tested is which sentence and exit code they lead to.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweep.doctor.checks import (
    compare,
    differing_gpus,
    names_of,
    of_gpus,
    of_libraries,
    of_machine,
    of_scratch,
    of_tensorflow,
    of_torch,
    of_wandb,
    requirements,
)
from sweep.doctor.findings import Finding, note, ok, problem, together, within
from sweep.doctor.folders import look_at_data, look_at_disk, look_at_out
from sweep.doctor.machine import (
    CHILD_SECONDS,
    Framework,
    GpuFacts,
    Machine,
    ask,
    gpus_here,
    look,
    why_unreachable,
)
from tests.sweep.command_line import environment, make_data
from tests.sweep.fresh_cluster import fresh_cluster
from tests.sweep.namespaces import _call as call
from tests.sweep.namespaces import add_blind_node, available, without

KEY = "0123456789abcdef0123456789abcdef01234567"
MS_RDONLY, MS_REMOUNT = 1, 32
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
A100 = GpuFacts("NVIDIA A100-SXM4-40GB", 40.0, 0.1, "550.54", True)
V100 = GpuFacts("Tesla V100-SXM2-32GB", 32.0, 0.1, "550.54", False)
ON_GPU = Framework("2.15.0", "13.2", 1)


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


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server that answers everything with 404."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()
        thread.join()


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
    assert "127.0.0.1 answers, key from WANDB_API_KEY in the environment" in wandb
    assert not any(KEY in line for line in lines)
    assert f"{data}: 10 files" in about(lines, "data")[0]
    assert "train 3, val 1, test 1" in about(lines, "data")[0]
    assert "will be made" in about(lines, "out")[0]
    assert "answers" in about(lines, "weights")[0]
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
    assert "no Ray cluster answers at '127.0.0.1:1'" in wrong[4]
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
    assert f"{tmp_path / 'none'}: no such folder; give the folder that holds images/" in data
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
def test_a_cluster_of_two_nodes(tmp_path: Path, cluster) -> None:
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
def test_a_fresh_cluster_says_what_it_may_start(tmp_path: Path, monkeypatch) -> None:
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
def test_a_node_without_the_libraries(tmp_path: Path, cluster) -> None:
    (tmp_path / "tifffile.py").write_text("raise ModuleNotFoundError('No module named tifffile')")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)})
    with joined(cluster, node) as broken:
        code, lines = doctor("--address", cluster.address, cwd=Path(__file__).parent, **NO_TOKEN)
    assert code == 2
    (line,) = [line for line in lines if line.startswith("problem")]
    assert broken in line
    assert "runs no task (" in line
    assert "No module named tifffile" in line


@pytest.mark.skipif(not available(), reason="needs root's right to hide folders")
def test_a_node_that_does_not_see_out_and_data(tmp_path: Path, cluster) -> None:
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
    assert f"does not see the run folder {out}" in wrong[0]
    assert "shared" in wrong[0].rpartition("; ")[2]
    seen = [line for line in lines if cluster.head_node.node_id[:8] in line]
    assert [line.split()[:2] for line in seen] == [["ok", "out"], ["ok", "data"]]
    assert list(out.parent.iterdir()) == []


def test_a_cluster_of_another_version(tmp_path: Path, cluster) -> None:
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
    assert "started with Ray: 2.49.1 Python: 3.11.1; here are Ray: " in line
    assert f"install ray=={ray.__version__}" in line


@pytest.fixture(scope="module")
def here() -> Machine:
    return replace(look(names_of(requirements()), trains=False), gpus=(), devices=0, pretended="")


def with_gpus(here: Machine, *gpus: GpuFacts, **changes: Any) -> Machine:
    return replace(here, **{"gpus": gpus, "torch": ON_GPU, "tensorflow": ON_GPU, **changes})


def states(findings: list[Finding]) -> list[str]:
    return [one.state for one in findings]


def test_what_gpus_mean(here: Machine) -> None:
    (one,) = of_gpus(with_gpus(here, A100, A100), "here")
    assert one.detail == "2 x NVIDIA A100-SXM4-40GB, 40.0 GiB, driver 550.54, computes in bfloat16"
    _, used = of_gpus(with_gpus(here, replace(A100, used_gb=30.0)), "here")
    assert (used.state, "30.0 GiB" in used.detail) == ("note", True)
    assert states(of_gpus(replace(here, devices=2), "here")) == ["problem"]
    assert states(of_gpus(here, "here")) == ["ok"]
    (pretended,) = of_gpus(replace(here, pretended="V100-16"), "here")
    assert (pretended.state, "SEGSWEEP_PRETEND_GPUS=V100-16" in pretended.detail) == ("note", True)
    assert differing_gpus([with_gpus(here, A100)] * 2) == []
    (differ,) = differing_gpus([with_gpus(here, A100), with_gpus(here, V100)])
    assert "precision=auto is 32" in differ.detail


@pytest.mark.parametrize(
    ("torch", "hidden", "state", "said"),
    [
        (ON_GPU, None, "ok", "computes on 1 GPU"),
        (Framework("2.15.0"), None, "problem", "is built for CPUs"),
        (Framework("2.15.0", "13.2", warning="driver too old"), None, "problem", "driver too old"),
        (Framework("2.15.0", "13.2"), "", "problem", "CUDA_VISIBLE_DEVICES=''"),
        (Framework("2.15.0", "13.2", 1, "GPU 0: no kernel image"), None, "problem", "no kernel"),
        (Framework(error="ModuleNotFoundError: No module"), None, "problem", "cannot be imported"),
    ],
)
def test_what_torch_sees(
    here: Machine, torch: Framework, hidden: str | None, state: str, said: str
) -> None:
    (one,) = of_torch(with_gpus(here, A100, torch=torch, hidden=hidden), "here")
    assert (one.state, said in one.detail) == (state, True), one
    assert bool(one.advice) == (state == "problem")


def test_what_tensorflow_sees(here: Machine) -> None:
    cases = {None: "note", ON_GPU: "ok", Framework("2.21", False): "note"}
    cases[Framework(error="ImportError: numpy")] = "problem"
    for tensorflow, state in cases.items():
        (one,) = of_tensorflow(with_gpus(here, A100, tensorflow=tensorflow), "here")
        assert one.state == state
    assert states(of_tensorflow(replace(here, tensorflow=Framework("2.21", False)), "x")) == ["ok"]


def test_libraries(here: Machine) -> None:
    assert states(of_libraries(here, "here")) == ["ok"]
    (missing,) = of_libraries(replace(here, libraries={**here.libraries, "timm": ""}), "here")
    assert (missing.state, missing.detail) == ("problem", "not installed: timm")
    (old,) = of_libraries(replace(here, libraries={**here.libraries, "ray": "2.1.0"}), "here")
    assert (old.state, "ray 2.1.0 (needed: " in old.detail) == ("note", True)


def test_in_what_a_node_differs(here: Machine) -> None:
    assert states(compare(here, here, "b")) == ["ok", "ok"]
    files = {**here.files, "sweep/trial.py": "0", "sweep/old.py": "1"}
    other = replace(here, files=files, libraries={**here.libraries, "ray": "2.1", "torch": "2.0"})
    ray, project, versions = compare(other, here, "b")
    assert (ray.state, project.state, versions.state) == ("problem", "problem", "note")
    assert "sweep/old.py, sweep/trial.py" in project.detail
    assert f"torch 2.0 (here {here.libraries['torch']})" in versions.detail
    assert states(compare(replace(here, python="3.12.1"), here, "b"))[0] == "problem"


def test_wandb_never_stops_a_sweep(here: Machine, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    gone = replace(here, key="~/.netrc", unreachable="timed out", server="https://me:pw@w.org/x")
    (one,) = of_wandb(gone, "here")
    assert one.state == "note"
    assert "w.org does not answer (timed out), key from ~/.netrc" in one.detail
    assert "pw" not in one.detail + one.advice
    assert states(of_wandb(replace(gone, unreachable=""), "here")) == ["ok"]
    (none,) = of_wandb(replace(gone, unreachable="", key=""), "here")
    assert (none.state, "wandb login" in none.advice) == ("note", True)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "switched off" in of_wandb(gone, "here")[0].detail


def test_a_full_disk_for_temporary_files(here: Machine) -> None:
    assert states(of_scratch(replace(here, scratch_free=0.01), "here")) == ["problem"]
    assert states(of_scratch(replace(here, scratch_free=0.5), "here")) == ["ok"]


def test_nothing_but_problems_has_to_be_advised(here: Machine) -> None:
    for machine in (here, with_gpus(here, A100, V100), with_gpus(here, torch=Framework(error="x"))):
        for one in of_machine(machine):
            assert one.advice or one.state != "problem"


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncase $1 in\n*memory*) echo 'NVIDIA A100, SXM4, 40960, 1024, 550.54.15'\n"
        "echo 'NVIDIA GB10, [N/A], [N/A], 580.1';;\n*) echo 8.0; echo 12.1;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus_here() == [
        GpuFacts("NVIDIA A100, SXM4", 40.0, 1.0, "550.54.15", True),
        GpuFacts("NVIDIA GB10", 0.0, 0.0, "580.1", True),
    ]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpus_here() == []


def test_processes_that_do_not_answer(monkeypatch) -> None:
    assert "No module named 'not_there'" in ask("import not_there").error
    assert ask("import os; os._exit(3)").error == "its process ended with 3"
    assert ask("import os; os.abort()").error
    monkeypatch.setattr("sweep.doctor.machine.CHILD_SECONDS", 0.2)
    assert "no answer within" in ask("import time; time.sleep(60)").error
    assert CHILD_SECONDS > 1


def test_servers_that_do_not_answer(server: str, monkeypatch) -> None:
    import socket

    assert why_unreachable(server) == ""
    assert why_unreachable("http://127.0.0.1:1") == "Connection refused"
    assert why_unreachable("nonsense")
    monkeypatch.setattr("sweep.doctor.machine.REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_folders(tmp_path: Path, monkeypatch) -> None:
    (missing,) = look_at_data(str(tmp_path / "none"))[0]
    assert (missing.state, "no such folder" in missing.detail) == ("problem", True)
    data = make_data(tmp_path / "data")
    findings, dataset = look_at_data(str(data), seconds=0.0)
    assert dataset is None
    assert (states(findings), "10 files" in findings[0].detail) == (["note"], True)
    for stem in range(4):
        (data / "masks" / f"i{stem}.tif").unlink()
    monkeypatch.setattr("sweep.doctor.folders.MOST_LINES", 2)
    findings, _ = look_at_data(str(data))
    assert states(findings) == ["problem"] * len(findings)
    assert "more problems" in findings[-1].detail
    assert states(look_at_out(data)) == ["problem", "ok"], "not a run folder"
    monkeypatch.setattr("sweep.doctor.folders.LEAST_GB", 1e9)
    assert states(look_at_disk(tmp_path / "no" / "no")) == ["problem"]


def test_a_folder_whose_server_does_not_answer(tmp_path: Path, monkeypatch) -> None:
    server = threading.Event()  # none can be had here
    monkeypatch.setattr("sweep.doctor.folders.read_plan", lambda out: server.wait(60))
    monkeypatch.setattr("sweep.doctor.folders.STORAGE_SECONDS", 0.1)
    (silent,) = look_at_out(tmp_path)
    server.set()
    assert (silent.state, "no answer" in silent.detail) == ("problem", True)


def test_what_is_found_on_many_nodes_is_one_line() -> None:
    a, b = ok("gpu", "none", "a"), ok("gpu", "none", "b")
    assert [one.where for one in together([[a], [b]])] == ["all 2 nodes"]
    c = [problem("gpu", "none", "buy", "c"), note("ray", "old", "", "c")]
    lines = together([[a, ok("ray", "new", "a")], [b, ok("ray", "new", "b")], c])
    assert [(one.what, one.where) for one in lines] == [
        ("gpu", "a, b"),
        ("gpu", "c"),
        ("ray", "a, b"),
        ("ray", "c"),
    ]


def test_within_gives_up_and_passes_errors_on() -> None:
    never = threading.Event()
    assert within(0.05, never.wait) is None
    never.set()
    assert within(5.0, lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 / 0)
