"""What is said of a machine: GPUs are facts made up here, the sentences about them are tested."""

from __future__ import annotations

from dataclasses import replace
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
from sweep.doctor.findings import Finding
from sweep.doctor.machine import Framework, GpuFacts, Machine, look

A100 = GpuFacts("NVIDIA A100-SXM4-40GB", 40.0, 0.1, "550.54", True)
V100 = GpuFacts("Tesla V100-SXM2-32GB", 32.0, 0.1, "550.54", False)
ON_GPU = Framework("2.15.0", "13.2", 1)


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


def test_wandb_never_stops_a_sweep(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    gone = replace(here, key="~/.netrc", unreachable="timed out", server="https://me:pw@w.org/x")
    (one,) = of_wandb(gone, "here")
    assert one.state == "note"
    assert "w.org does not respond (timed out), key from ~/.netrc" in one.detail
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
