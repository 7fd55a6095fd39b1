"""Every call into ``torch.cuda`` that segsweep makes, against `cuda_stub`: a rehearsal, no GPU."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sweep.trial import _is_transient, _release_memory
from tests.trainables.cuda_stub import CALLS, Gpu, install
from trainables import memory
from trainables.config import TrialConfig
from trainables.epochs import EpochEnd
from trainables.errors import HostMemoryShort, NoGpu, OutOfMemory
from trainables.predict import computes_bf16, resolve_device, why_no_gpu

ROOT = Path(__file__).parents[2]
PACKAGES = ("sweep", "trainables", "search_spaces", "analysis")


def calls_of(source: str) -> Iterator[str]:
    """Yield the names below ``torch.cuda`` that a file uses, also in programs that it holds as
    text; ``import`` where it gives the module another name.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("torch.cuda"):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"torch\.cuda\.(\w+)", node.value)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.startswith("torch.cuda") or (
                module == "torch" and any(one.name == "cuda" for one in node.names)
            ):
                yield "import"
        elif isinstance(node, ast.Import) and any(
            one.name.startswith("torch.cuda") for one in node.names
        ):
            yield "import"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.cuda.synchronize()", ["synchronize"]),
        ("x = 'torch.cuda.init()'", ["init"]),
        ("from torch import cuda", ["import"]),
        ("import torch.cuda as c", ["import"]),
        ("from torch.cuda import init", ["import"]),
        ("module.torch.cuda.x", ["x"]),
        ("import torch\nx.to('cuda')", []),
    ],
)
def test_calls_are_found(source: str, expected: list[str]) -> None:
    assert list(calls_of(source)) == expected


def test_every_call_that_is_made_has_been_rehearsed() -> None:
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    files += (ROOT / "benchmarks").glob("*.py")
    made = {name: path for path in files for name in calls_of(path.read_text(encoding="utf-8"))}
    assert {"set_per_process_memory_fraction", "get_device_properties"} <= set(made)
    new = {f"{path.name}: {name}" for name, path in made.items() if name not in CALLS}
    assert not new, "read what torch's source takes and refuses, and add it to cuda_stub.py"


def test_the_stub_answers_every_call(gpu: Gpu) -> None:
    device = torch.device("cuda:0")
    torch.cuda.init()  # type: ignore[no-untyped-call]
    arguments = {
        "set_per_process_memory_fraction": (0.5, device),
        "init": (),
        "is_available": (),
        "device_count": (),
        "empty_cache": (),
        "is_bf16_supported": (),
        "is_initialized": (),
        "set_rng_state": (torch.Generator().get_state(), device),
    }
    found = {name: getattr(torch.cuda, name)(*arguments.get(name, (device,))) for name in CALLS}
    assert found["is_available"] is found["is_bf16_supported"] is found["is_initialized"] is True
    assert found["device_count"] == 1
    assert found["get_device_capability"] == (8, 0)
    assert found["get_device_properties"].total_memory == found["mem_get_info"][1] == gpu.total
    assert gpu.emptied == gpu.resets == 1


def test_a_state_within_an_epoch_has_the_gpus_random_numbers(gpu: Gpu) -> None:
    """Dropout on a GPU draws from the GPU's own generator."""
    torch.cuda.init()  # type: ignore[no-untyped-call]
    (generator,) = torch.cuda.default_generators
    losses: list[torch.Tensor] = []
    module: Any = SimpleNamespace(
        device=resolve_device("cuda"), losses=lambda: torch.ones(2), restore_losses=losses.append
    )
    progress: Any = SimpleNamespace(pause=lambda save, batches: None)
    trainer: Any = SimpleNamespace(save_checkpoint=None)
    batches: Any = SimpleNamespace(splits=1)
    end = EpochEnd(TrialConfig(), [], batches, "32", progress, (None, None))
    end._pause(trainer, module)
    drawn = torch.rand(3, generator=generator)
    assert not torch.rand(3, generator=generator).equal(drawn)
    end._continue(module)
    assert torch.rand(3, generator=generator).equal(drawn)
    assert [one.tolist() for one in losses] == [[1, 1]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return install(monkeypatch)


def test_the_stub_refuses_what_torch_refuses(gpu: Gpu) -> None:
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_per_process_memory_fraction(1.0, torch.device("cuda"))
    with pytest.raises(TypeError, match="float"):
        torch.cuda.set_per_process_memory_fraction(1, torch.device("cuda:0"))
    with pytest.raises(ValueError, match="Invalid fraction"):
        torch.cuda.set_per_process_memory_fraction(1.5, 0)
    with pytest.raises(RuntimeError, match="Invalid device"):
        torch.cuda.set_per_process_memory_fraction(1.0, 1)


def test_nothing_can_be_reset_before_cuda_has_started(gpu: Gpu) -> None:
    with pytest.raises(RuntimeError, match="did you call init"):
        torch.cuda.reset_peak_memory_stats(torch.device("cuda:0"))
    memory.reset_peak(resolve_device("cuda"))
    assert gpu.resets == 1


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_has_a_number(gpu: Gpu, name: str) -> None:
    assert resolve_device(name) == torch.device("cuda", 0)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_share_is_enforced_without_the_context(gpu: Gpu) -> None:
    device = resolve_device("cuda")
    with memory.limited(device, gpu_fraction=0.5):
        assert gpu.fraction == pytest.approx(0.5 - memory.CONTEXT_MB / 16_000)
    with memory.limited(device):
        assert gpu.fraction == 1.0, "the worker's last trial had less"


def test_whose_memory_was_short(gpu: Gpu) -> None:
    device = resolve_device("cuda")
    with pytest.raises(OutOfMemory, match="CUDNN"), memory.limited(device, gpu_fraction=0.5):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")
    with pytest.raises(HostMemoryShort, match="node"), memory.limited(device, gpu_fraction=0.5):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 2 GB")
    with pytest.raises(OutOfMemory), memory.limited(torch.device("cpu"), memory_gb=1):
        raise MemoryError


def test_peaks(gpu: Gpu) -> None:
    device = resolve_device("cuda")
    assert memory.peak_mb(device) == 0, "CUDA has not started"
    memory.reset_peak(device)
    gpu.peak = 300 * 2**20
    assert memory.peak_mb(device) == 300


def test_bfloat16_by_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 0), False), ((8, 6), True), ((9, 0), True)):
        with monkeypatch.context() as patch:
            install(patch, Gpu(capability=capability))
            assert computes_bf16(resolve_device("cuda")) is expected


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SEGSWEEP_PRETEND_GPUS", "0")
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(NoGpu, match="torch sees no GPU here"):
        resolve_device("cuda")
    monkeypatch.setenv("SEGSWEEP_PRETEND_GPUS", "V100-16")
    assert resolve_device("cuda") == torch.device("cpu"), "a rehearsal"


def test_a_worker_whose_cuda_is_lost_says_so(gpu: Gpu) -> None:
    """Its further trials would all fail, and be recorded as failed for good."""
    error = RuntimeError("the validation loss is no number")
    assert not _is_transient(error), "CUDA was not started"
    torch.cuda.init()  # type: ignore[no-untyped-call]
    assert not _is_transient(error)
    assert _is_transient(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    gpu.broken = "CUDA error: an illegal memory access was encountered"
    assert _is_transient(error)
    _release_memory()  # raises nothing, which would hide the error


def test_why_a_gpu_cannot_be_used(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*_: object, device: torch.device) -> torch.Tensor:
        if gpu.broken:
            raise RuntimeError(gpu.broken)
        return torch.zeros(2)

    monkeypatch.setattr("trainables.predict.torch.ones", ones)
    assert why_no_gpu() is None
    gpu.broken = "CUDA error: out of memory\nCompile with"
    assert why_no_gpu() is None, "others hold its memory for now"
    gpu.broken = (
        "CUDA error: no kernel image is available for execution on the device\nCompile with"
    )
    assert why_no_gpu() == "CUDA error: no kernel image is available for execution on the device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU here" in str(why_no_gpu())
