"""What the processors of this machine can compute. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of x86 processors that multiply bfloat16 numbers."""
WITHOUT_BF16 = frozenset(
    {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
)
"""Values of ONEDNN_MAX_CPU_ISA under which oneDNN, torch's library for CPUs, emulates bfloat16:
https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html"""
FIRST_WITH_BF16 = (8, 0)
"""CUDA compute capability (Ampere) from which GPUs compute in bfloat16, and in TF32."""


PRETEND = "SEGSWEEP_PRETEND_GPUS"
"""Environment variable for rehearsals on machines without a GPU: what holds a share of a GPU then
computes on the CPU. ``1``, or what the GPU pretends to be: ``V100`` or, with GiB, ``V100-16``."""


@dataclass(frozen=True)
class Pretended:
    """What stands for a GPU in a rehearsal."""

    name: str
    """Empty if the type is not known."""
    memory_gb: float | None


def pretended_gpu() -> Pretended | None:
    """Return what stands for a GPU here according to `PRETEND`; None: nothing is pretended."""
    value = os.environ.get(PRETEND, "")
    if value in ("", "0"):
        return None
    name, _, memory = value.partition("-")
    number = re.fullmatch(r"\d+(\.\d+)?", memory)
    return Pretended("" if name == "1" else name, float(memory) if number else None)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    capability: tuple[int, int]
    """CUDA compute capability."""


def cpu_computes_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this machine's CPU computes in bfloat16, rather than emulating it.

    Parameters
    ----------
    cpuinfo : Path
        Linux's description of the processors. Without it, the result is False.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16:
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return bool(flags) and all(BF16_FLAGS & each for each in flags)


def count_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use."""
    found = len([p for p in Path("/dev").glob("nvidia*") if p.name[6:].isdigit()])
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        # under WSL they are no files of their own, and files are there when the driver is broken
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
        listed = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
        found = min(found or listed, listed)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not found:
        return found
    # CUDA stops at the first name that is none, such as -1, which hides all
    named = takewhile(_may_name_a_gpu, map(str.strip, visible.split(",")))
    return min(found, len(list(named)))


def _may_name_a_gpu(name: str) -> bool:
    return name not in ("", "NoDevFiles") and not name.startswith("-")


def local_gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs of this machine, also hidden ones; none if nvidia-smi is missing
    or does not know compute capabilities (drivers before 2022).
    """
    try:
        rows = [line.rpartition(",") for line in ask_nvidia("name,compute_cap")]
        versions = [[int(part) for part in row[2].split(".")] for row in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return [Gpu(row[0].strip(), (version[0], version[1])) for row, version in zip(rows, versions)]


def ask_nvidia(fields: str) -> list[str]:
    """Return what nvidia-smi says of the GPUs of this machine, one line each.

    Parameters
    ----------
    fields : str
        Names of its fields, separated by commas; memory comes in MiB.

    Raises
    ------
    OSError, subprocess.SubprocessError
        When there is no nvidia-smi, or it fails.
    """
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.strip()]
