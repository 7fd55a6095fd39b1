"""A GPU as far as torch's own Python goes: what lies below it, in C++ and the driver, is replaced.

torch's functions check their arguments in Python and then call ``torch._C``. Only these calls and
the driver are stood in for here, each refusing what the real one refuses, so that what torch
refuses is refused here by the same lines. `CALLS` lists the functions of ``torch.cuda`` that this
was checked for; `tests/trainables/test_cuda_calls.py` finds those that segsweep calls and is not
satisfied with others.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

CALLS = frozenset(
    {
        "device_count",
        "empty_cache",
        "get_device_capability",
        "get_device_properties",
        "get_rng_state",
        "init",
        "is_available",
        "is_bf16_supported",
        "is_initialized",
        "max_memory_allocated",
        "max_memory_reserved",
        "mem_get_info",
        "reset_peak_memory_stats",
        "set_per_process_memory_fraction",
        "set_rng_state",
        "synchronize",
    }
)
"""Names below ``torch.cuda`` that the stub answers as a GPU would."""


class Gpu:
    """State of the one pretended GPU, ``cuda:0``.

    Parameters
    ----------
    total_mb : int
        Its memory in MiB.
    capability : (int, int)
        CUDA compute capability.
    """

    def __init__(self, total_mb: int = 16_000, capability: tuple[int, int] = (8, 0)) -> None:
        self.total, self.capability = total_mb * 2**20, capability
        self.fraction: float | None = None
        """What was set last; None: nothing."""
        self.resets = self.emptied = 0
        self.broken = ""
        """What every call to the driver ends with after an error that CUDA does not get over."""
        self.peak = 0
        """Bytes that the allocator answers as its peak."""

    def _valid(self, device: Any, before_start: bool = False) -> None:
        # c10/cuda/CUDACachingAllocator.cpp, assertValidDevice: there is no allocator before init()
        if not before_start and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise RuntimeError(f"Allocator not initialized for device {device}: did you call init?")
        if not isinstance(device, int) or device != 0:
            raise RuntimeError(f"Invalid device argument {device}: there is one GPU")

    def set_fraction(self, fraction: float, device: int) -> None:
        self._valid(device)
        if not isinstance(fraction, float) or not 0 <= fraction <= 1:
            raise RuntimeError(f"invalid fraction: {fraction}. Please set within [0, 1].")
        self.fraction = fraction

    def memory_stats(self, device: int) -> dict[str, Any]:
        self._valid(device)
        numbers = {"current": 0, "peak": self.peak, "allocated": self.peak, "freed": self.peak}
        return {"allocated_bytes": {"all": numbers}, "reserved_bytes": {"all": dict(numbers)}}

    def reset_peak(self, device: int) -> None:
        self._valid(device)
        self.resets += 1

    def synchronize(self) -> None:
        if self.broken:
            raise RuntimeError(self.broken)

    def empty_cache(self) -> None:
        self.synchronize()
        self.emptied += 1

    def properties(self, device: int) -> SimpleNamespace:
        self._valid(device)
        major, minor = self.capability
        return SimpleNamespace(
            name="NVIDIA Stub",
            major=major,
            minor=minor,
            total_memory=self.total,
            multi_processor_count=80,
        )

    def mem_get_info(self, device: int) -> tuple[int, int]:
        self._valid(device)
        return self.total - 500 * 2**20, self.total


def install(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None = None) -> Gpu:
    """Let torch believe that there is one GPU until `monkeypatch` is undone."""
    gpu = gpu or Gpu()
    below = {
        "_cuda_getDeviceCount": lambda: 1,
        "_cuda_init": lambda: None,
        "_cuda_getDevice": lambda: 0,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_setMemoryFraction": gpu.set_fraction,
        "_cuda_memoryStats": gpu.memory_stats,
        "_cuda_resetPeakMemoryStats": gpu.reset_peak,
        "_cuda_emptyCache": gpu.empty_cache,
        "_cuda_synchronize": gpu.synchronize,
    }
    for name, function in below.items():
        monkeypatch.setattr(torch._C, name, function, raising=False)
    cudart = SimpleNamespace(cudaMemGetInfo=gpu.mem_get_info)
    for name, value in (
        ("_initialized", False),
        ("_cached_device_count", None),
        ("_queued_calls", []),
        ("_cudart", cudart),
        # as the generator of a GPU, it takes states that lie on the CPU, and no others
        ("default_generators", (torch.Generator(),)),
        ("_get_device_properties", gpu.properties),
        ("_device_count_nvml", lambda: -1),
        ("_exchange_device", lambda device: 0),
        ("_maybe_exchange_device", lambda device: 0),
    ):
        monkeypatch.setattr(torch.cuda, name, value, raising=False)
    # seeds of GPUs are set when CUDA starts, which it does not
    monkeypatch.setattr(torch.cuda, "_lazy_seed_tracker", SimpleNamespace(get_calls=list))
    monkeypatch.setenv("SEGSWEEP_PRETEND_GPUS", "0")
    return gpu
