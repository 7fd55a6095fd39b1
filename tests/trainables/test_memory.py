"""Running out of memory for real, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sweep.packing import gpu_fraction
from trainables.errors import OutOfMemory
from trainables.memory import (
    CONTEXT_MB,
    is_host_memory,
    is_out_of_memory,
    limited,
    torch_fraction,
)

CODE = """
import resource, torch
from trainables.memory import OutOfMemory, limited
cpu = torch.device("cpu")
before = resource.getrlimit(resource.RLIMIT_DATA)
with limited(cpu, memory_gb=0.5):
    torch.zeros(2**20)
try:
    with limited(cpu, memory_gb=0.25):
        kept = [torch.zeros(2**24) for _ in range(40)]
except OutOfMemory as error:
    print(str(error))
assert resource.getrlimit(resource.RLIMIT_DATA) == before
print(float(torch.zeros(2**28).sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_a_limit_is_enforced_and_lifted() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    assert told.startswith("out of memory (")
    assert after == "0.0"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("could not create a primitive"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"), True),
        (RuntimeError("Unable to find an engine to execute this computation"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_so(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("error", "host"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError("Unable to allocate 3 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
    ],
)
def test_the_machines_memory_is_told_from_the_gpus(error: Exception, host: bool) -> None:
    assert is_out_of_memory(error)
    assert is_host_memory(error) is host


def test_shares_of_a_gpu_leave_room_for_contexts() -> None:
    for total in (16_000.0, 24_000.0, 141_000.0):
        for trials in range(2, 9):
            share = gpu_fraction(total / trials / 1.1 - CONTEXT_MB, total)
            assert share is not None
            filled = share.trials * (torch_fraction(share.fraction, total) * total + CONTEXT_MB)
            assert 0.99 * total < filled <= total
    assert torch_fraction(1.0, 16_000) == 1.0
    # what a trial needs by the estimate of its share is what torch lets it have
    share = gpu_fraction(5000, 24_000)
    assert share is not None
    assert torch_fraction(share.fraction, 24_000) * 24_000 >= 5000


def test_causes_and_limits_count() -> None:
    error = ValueError("cannot use encoder")
    error.__cause__ = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert is_out_of_memory(error)
    assert is_out_of_memory(RuntimeError("could not create a primitive"), limited=True)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size") as caught, limited(torch.device("cpu")):
        raise RuntimeError("size mismatch")
    assert not isinstance(caught.value, OutOfMemory)
