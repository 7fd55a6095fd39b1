"""One run computes in one precision, whatever machines it meets.

GPUs here are pretended (Ray is told that a CPU machine has them): which nodes trials may use is
real, what they compute on is not. A CPU without bfloat16 is one on which oneDNN is limited by its
environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.cluster.nodes import choose_nodes, label_selector
from sweep.ledger import Ledger
from sweep.limits import Limits
from sweep.precision import Precision, Processor, decide, gpu_computes_bf16
from sweep.run import main
from sweep.trial import Assignment, unfit
from tests.sweep.command_line import (
    QUICK,
    SPACE,
    kept_precision,
    nodes_of,
    precisions,
    records,
    rows,
    run,
    start,
    wait_for,
)
from trainables.checkpoint import load
from trainables.config import TrialConfig
from trainables.machine.hardware import Gpu, cpu_computes_bf16, local_gpus

NO_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
WITH_CPU = pytest.mark.skipif(not cpu_computes_bf16(), reason="needs a CPU with bfloat16")
A100, V100 = Processor("A100", True, "a", 1), Processor("V100", False, "v", 1)
UNKNOWN, CPU, OLD_CPU = Processor("X1", None), Processor("CPU", True), Processor("CPU", False, "o")


def flags(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"processor\t: 0\nflags\t\t: fpu {line}\n\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["avx512f avx512_bf16"], True),
        (["amx_bf16"], True),
        (["avx512f"], False),
        ([], False),
        (["avx512_bf16", "avx512f"], False),
        (["not_avx512_bf16"], False),
    ],
)
def test_cpu_flags(
    lines: list[str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert cpu_computes_bf16(flags(tmp_path / "cpuinfo", *lines)) is expected


def test_limited_cpus_and_other_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cpu_computes_bf16(tmp_path / "missing")  # macOS
    path = flags(tmp_path / "cpuinfo", "avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni")
    assert not cpu_computes_bf16(path)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert cpu_computes_bf16(path)


def nvidia_smi(folder: Path, text: str) -> Path:
    """Put a program that answers as nvidia-smi does into a folder."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    path.chmod(0o755)
    return folder


def test_gpus_by_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "NVIDIA RTX 6000 Ada Generation, 8.9\nQuadro RTX 6000, 7.5\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert local_gpus() == [
        Gpu("NVIDIA RTX 6000 Ada Generation", (8, 9)),
        Gpu("Quadro RTX 6000", (7, 5)),
    ]
    nvidia_smi(tmp_path, "NVIDIA H100 80GB HBM3, [N/A]\n")
    assert local_gpus() == []


@pytest.mark.parametrize(
    ("processors", "on_gpus", "expected"),
    [
        ([A100], True, ("bf16", True)),
        ([A100, V100], True, ("32", False)),
        ([V100], True, ("32", False)),
        ([A100, UNKNOWN], True, ("32", False)),
        ([], True, ("32", False)),
        ([CPU], False, ("bf16", False)),
        ([CPU, OLD_CPU], False, ("32", False)),
        ([Processor("CPU", None)], False, ("32", False)),
    ],
)
def test_auto(processors: list[Processor], on_gpus: bool, expected: tuple[str, bool]) -> None:
    made = decide(processors, on_gpus)
    assert (made.auto, made.tf32) == expected
    assert len(made.why.splitlines()) == 1


def test_names() -> None:
    names = ("Tesla V100S-PCIE-32GB", "Tesla T4", "NVIDIA A10G", "NVIDIA GeForce RTX 4090", "GTX")
    assert [gpu_computes_bf16(name) for name in names] == [False, False, True, True, None]


BF16, FULL = TrialConfig(precision="bf16"), TrialConfig(precision="32")


@pytest.mark.parametrize(
    ("precision", "config", "processors", "on_gpus", "avoid"),
    [
        (Precision("bf16", True, ""), BF16, [A100], True, frozenset()),
        (Precision("bf16", True, ""), BF16, [A100, V100], True, frozenset("v")),
        (Precision("bf16", True, ""), FULL, [A100, V100], True, frozenset("v")),  # TF32
        (Precision("32", False, ""), FULL, [A100, V100], True, None),
        (Precision("32", False, ""), BF16, [A100, V100], True, frozenset("v")),
        (Precision("bf16", False, ""), BF16, [CPU, OLD_CPU], False, frozenset("o")),
        (Precision("bf16", False, ""), FULL, [CPU, OLD_CPU], False, None),
        (Precision("bf16", True, ""), BF16, [OLD_CPU], False, None),
    ],  # emulated
)
def test_nodes(
    precision: Precision,
    config: TrialConfig,
    processors: list[Processor],
    on_gpus: bool,
    avoid: frozenset[str] | None,
) -> None:
    nodes = choose_nodes(precision, [config], processors, on_gpus)
    assert nodes.avoid == avoid
    assert nodes.problem == ""
    assert bool(nodes.note) == any(p.bf16 is False for p in processors) * (
        bool(avoid) or processors == [OLD_CPU]
    )


def test_gpus_that_cannot_are_refused() -> None:
    problem = choose_nodes(Precision("bf16", True, ""), [BF16], [V100], on_gpus=True).problem
    assert "V100 cannot compute in precision=bf16" in problem
    assert "--out" in problem


@pytest.mark.parametrize(
    ("gpu", "tf32", "expected"), [(1.0, False, "0"), (1.0, True, None), (0.0, False, None)]
)
def test_float32_is_the_same_on_old_and_new_gpus(
    gpu: float, tf32: bool, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # so that it is put back afterwards
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    precision = Precision("32", tf32, "").to_dict()
    runtime = {"out": str(tmp_path), "precision": precision, "refuse": True, "round": "1"}
    assert not unfit(Assignment("a", FULL, Limits(gpu), "node", runtime))
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == expected
    assert Ledger(tmp_path).read() == {}


def test_selector_is_one_that_ray_takes() -> None:
    from ray.util.placement_group import validate_placement_group

    selector = label_selector({"b" * 56, "a" * 56}, on_gpu=True)
    validate_placement_group([{"GPU": 1}], bundle_label_selector=[selector])
    assert selector["ray.io/accelerator-type"].startswith("!in(V100,")
    assert label_selector((), on_gpu=False) == {}


def test_plan_says_it_and_a_wrong_request_is_refused(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ("--data", str(data), "--out", str(tmp_path / "new"), "--plan", *QUICK)

    def plan(*more: str) -> tuple[int, str, str]:
        code = main([str(SPACE), *words, "--set", "architecture=Linknet", *more])
        return (code, *capsys.readouterr())

    nvidia_smi(tmp_path, "Tesla V100-SXM2-32GB, 7.0\nNVIDIA A100-SXM4-40GB, 8.0\n")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        code, text, err = plan("--gpus", "2")
    assert code == 0, err
    assert "precision=auto is 32 in this run: Tesla V100-SXM2-32GB and NVIDIA A100" in text
    _, text, _ = plan("--gpus", "2xA100")
    assert "precision=auto is bf16 in this run: A100 can compute" in text
    code, _, err = plan("--gpus", "2xV100-32", "--set", "precision=bf16")
    assert code == 2
    assert err.startswith("error: V100 cannot compute in precision=bf16")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("--gpus", "1xA100"), (), "bf16"),
        ((), ("--gpus", "1xA100"), "32"),
    ],
)
@pytest.mark.slow
def test_a_run_keeps_its_precision_on_other_machines(
    data: Path, tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...], expected: str
) -> None:
    out = tmp_path / "run"
    words = (SPACE, "--data", data, "--out", out, *QUICK, "--set", "epochs=1", "--wandb", "off")
    one = (*words, "--set", "architecture=Linknet")
    two = (*words, "--set", "architecture=Linknet,FPN")
    code, text, err = run(*one, *first, cwd=tmp_path, **NO_BF16)
    assert code == 0, text + err
    assert f"precision=auto is {expected}" in text
    assert kept_precision(out) == expected
    assert precisions(out) == {expected}
    code, text, err = run(*two, "--plan", *second, cwd=tmp_path, **NO_BF16)
    assert code == 0, err
    assert all(f" {row['trial_id']} " in f" {text} ".replace("\n", " \n ") for row in rows(out))
    code, text, err = run(*two, *second, cwd=tmp_path, **NO_BF16)
    assert code == 0, text + err
    assert "1 trials" in text
    assert ("is emulated" in text) == (expected == "bf16")
    assert kept_precision(out) == expected
    assert precisions(out) == {expected}
    assert {load(out / row["checkpoint"]).config.precision for row in rows(out)} == {expected}
    # a finished run is answered on any machine
    code, text, err = run(*two, "--gpus", "1xV100", cwd=tmp_path)
    assert code == 0, text + err
    assert "nothing to do" in text


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


def add_gpu(cluster: Any, name: str) -> str:
    labels = {"ray.io/accelerator-type": name}
    return str(cluster.add_node(num_cpus=1, num_gpus=1, labels=labels).node_id)


def request(data: Path, out: Path, address: str, epochs: int, *more: str) -> tuple[object, ...]:
    return (
        SPACE,
        "--data",
        data,
        "--out",
        out,
        "--address",
        address,
        *QUICK,
        "--set",
        "architecture=UnetPlusPlus,Linknet",
        "--set",
        f"epochs={epochs}",
        "--set",
        "gpus_per_trial=1",
        "--wandb",
        "off",
        *more,
    )


def test_gpu_types_of_a_cluster(data: Path, tmp_path: Path, cluster: Any) -> None:
    able, out = add_gpu(cluster, "A100"), tmp_path / "able"
    words = request(data, out, cluster.address, 6)
    process = start(*words, cwd=tmp_path, RAY_AUTH_MODE="disabled")
    wait_for(lambda: nodes_of(out), process)
    add_gpu(cluster, "V100")
    assert len(records(out)) < 2, "no trial waited any more"
    text, err = process.communicate(timeout=400)
    assert process.returncode == 0, text + err
    assert "precision=auto is bf16: A100" in text or "precision=auto is bf16 in" in text
    assert precisions(out) == {"bf16"}
    assert nodes_of(out) == {able}


@WITH_CPU
@pytest.mark.slow
def test_a_cpu_that_joins_late_without_bf16_gets_no_trial(
    data: Path, tmp_path: Path, cluster: Any
) -> None:
    able, out = cluster.add_node(num_cpus=1).node_id, tmp_path / "cpus"
    words = request(data, out, cluster.address, 6, "--set", "gpus_per_trial=0")
    process = start(*words, cwd=tmp_path, RAY_AUTH_MODE="disabled")
    wait_for(lambda: nodes_of(out), process)
    late = cluster.add_node(num_cpus=1, env_vars=NO_BF16).node_id
    assert len(records(out)) < 2, "no trial waited any more"
    text, err = process.communicate(timeout=400)
    assert process.returncode == 0, text + err
    assert "gets no trial: its CPU does not compute in bfloat16" in text
    assert kept_precision(out) == "bf16"
    assert nodes_of(out) == {able}
    assert {len(record["attempts"]) for record in records(out)} == {1}
    # a run that starts on both computes on both, and alike
    out = tmp_path / "both"
    words = request(data, out, cluster.address, 1, "--set", "gpus_per_trial=0")
    code, text, err = run(*words, cwd=tmp_path, RAY_AUTH_MODE="disabled")
    assert code == 0, text + err
    assert precisions(out) == {"32"}
    assert nodes_of(out) == {able, late}
