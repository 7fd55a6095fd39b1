"""Running out of memory for real, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trainables.memory import OutOfMemory, is_out_of_memory, limited

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
    [(MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory."), True),
     (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
     (OSError(12, "Cannot allocate memory"), True),
     (RuntimeError("could not create a primitive"), False),
     (RuntimeError("size mismatch"), False), (ValueError("out of memory"), False)],
)  # fmt: skip
def test_which_errors_say_so(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_causes_and_limits_count() -> None:
    error = ValueError("cannot use encoder")
    error.__cause__ = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert is_out_of_memory(error)
    assert is_out_of_memory(RuntimeError("could not create a primitive"), limited=True)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size") as caught, limited(torch.device("cpu")):
        raise RuntimeError("size mismatch")
    assert not isinstance(caught.value, OutOfMemory)
