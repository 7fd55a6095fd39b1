"""The facts of one machine, collected on that machine: here, or by a task on a cluster's node.

torch and TensorFlow run in separate processes, because they cannot share one, and because a worker
would otherwise keep a CUDA context.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sweep.cluster.connect import PACKAGES
from sweep.doctor.findings import short, within
from sweep.resources import node_memory_gb
from sweep.tracking import key_source, server, wandb_settings
from trainables.machine.cores import usable_cpus
from trainables.machine.hardware import (
    FIRST_WITH_BF16,
    PRETEND,
    ask_nvidia,
    cpu_computes_bf16,
    pretended_gpu,
)
from trainables.records.manifest import copy_of

CHILD_SECONDS = 90.0
"""Longest wait for torch or TensorFlow, whose import may read gigabytes from a cold disk."""
REACH_SECONDS = 5.0
"""Longest wait for a server's response."""

ASK_TORCH = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch
    there, error = torch.cuda.device_count() if torch.cuda.is_available() else 0, ""
    for number in range(there):
        try:
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            if float((ones @ ones).sum()) != 64**3:
                error = f"GPU {number} multiplies wrongly"
        except Exception as failure:
            error = f"GPU {number}: {failure}"
about = [str(one.message) for one in said if "CUDA" in str(one.message)]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": there,
                  "error": error, "warning": about[0] if about else ""}))
"""
ASK_TENSORFLOW = """
import json
import tensorflow as tf
print(json.dumps({"version": tf.__version__, "cuda": bool(tf.test.is_built_with_cuda()),
                  "gpus": len(tf.config.list_physical_devices("GPU")), "error": "", "warning": ""}))
"""


@dataclass(frozen=True)
class GpuFacts:
    """One NVIDIA GPU, as its driver describes it."""

    name: str
    memory_gb: float
    used_gb: float
    driver: str
    bf16: bool | None
    """None if the driver does not report the compute capability."""


@dataclass(frozen=True)
class Framework:
    """The report of torch or TensorFlow from a separate process."""

    version: str = ""
    cuda: str | bool | None = None
    """CUDA version that it was built for; empty, False or None if it was built for CPUs only."""
    gpus: int = 0
    error: str = ""
    """Why it cannot be imported, or cannot compute on a GPU that it finds."""
    warning: str = ""


@dataclass(frozen=True)
class Machine:
    """The facts of one machine."""

    host: str
    python: str
    system: str
    cpus: int
    memory_gb: float
    cpu_bf16: bool
    libraries: Mapping[str, str]
    """Version by name of package; '' if not installed."""
    files: Mapping[str, str]
    """Beginning of the SHA-256 of each file in this project's copy."""
    place: str
    """Folder of the copy's package `sweep`."""
    gpus: Sequence[GpuFacts]
    devices: int
    """Number of GPUs according to /dev, which needs no tools of the driver."""
    hidden: str | None
    """``CUDA_VISIBLE_DEVICES``."""
    torch: Framework | None
    """None if not checked."""
    tensorflow: Framework | None
    """None if not installed or not checked."""
    key: str
    """Where W&B's key comes from; never the key itself."""
    server: str
    """W&B's address."""
    unreachable: str
    """Why W&B's server does not respond; '' if it does."""
    scratch: str = ""
    """Folder for temporary files."""
    scratch_free_gb: float = 0.0
    scratch_free: float = 1.0
    """Free share of its disk."""
    pretended: str = ""
    """The pretended GPUs of a rehearsal."""


def look(packages: Sequence[str], trains: bool = True) -> Machine:
    """Collect the facts of the machine that this runs on.

    Parameters
    ----------
    packages : sequence of str
        Packages whose versions to report.
    trains : bool
        Whether trials may run here; if so, torch and TensorFlow are checked.
    """
    settings = wandb_settings()
    with ThreadPoolExecutor(3) as pool:
        torch = pool.submit(ask, ASK_TORCH) if trains else None
        installed = trains and find_spec("tensorflow") is not None
        tensorflow = pool.submit(ask, ASK_TENSORFLOW) if installed else None
        unreachable = pool.submit(why_unreachable, server(settings))
        scratch = tempfile.gettempdir()
        usage = shutil.disk_usage(scratch)
        return Machine(
            host=platform.node(),
            python=platform.python_version(),
            system=f"{platform.system()} {platform.machine()}",
            cpus=usable_cpus(),
            memory_gb=node_memory_gb(),
            cpu_bf16=cpu_computes_bf16(),
            libraries={name: version_of(name) for name in packages},
            files=copy_of(PACKAGES),
            place=str(Path(__file__).resolve().parents[1]),
            gpus=tuple(gpus_here()),
            devices=sum(p.name[6:].isdigit() for p in Path("/dev").glob("nvidia*")),
            hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
            torch=torch.result() if torch else None,
            tensorflow=tensorflow.result() if tensorflow else None,
            key=key_source(settings),
            server=server(settings),
            unreachable=unreachable.result(),
            scratch=scratch,
            scratch_free_gb=usage.free / 1e9,
            scratch_free=usage.free / max(1, usage.total),
            pretended=os.environ.get(PRETEND, "") if pretended_gpu() else "",
        )


def version_of(package: str) -> str:
    """Return a package's version; '' if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def gpus_here() -> list[GpuFacts]:
    """Return the NVIDIA GPUs of this machine, including hidden ones; none if nvidia-smi fails."""
    try:
        lines = ask_nvidia("name,memory.total,memory.used,driver_version")
    except (OSError, subprocess.SubprocessError):
        return []
    try:
        able = [_capability(line) >= FIRST_WITH_BF16 for line in ask_nvidia("compute_cap")]
    except (OSError, subprocess.SubprocessError, ValueError):  # drivers before 2022
        able = []
    found = []
    for number, line in enumerate(lines):
        name, total, used, driver = (part.strip() for part in line.rsplit(",", 3))
        bf16 = able[number] if len(able) == len(lines) else None
        found.append(GpuFacts(name, _gib(total), _gib(used), driver, bf16))
    return found


def _capability(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _gib(mib: str) -> float:
    try:
        return float(mib) / 1024
    except ValueError:  # [N/A] where memory is the machine's own
        return 0.0


def ask(code: str) -> Framework:
    """Run Python code that prints one line of JSON in a separate process."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    # as Ray hides GPUs from tasks that asked for none; trials ask for some
    if environment.get("CUDA_VISIBLE_DEVICES") == "" and "RAY_JOB_ID" in environment:
        del environment["CUDA_VISIBLE_DEVICES"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHILD_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return Framework(error=f"no response within {CHILD_SECONDS:.0f} s")
    except OSError as error:
        return Framework(error=short(error))
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return Framework(**json.loads(lines[-1]))
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Framework(error=said[-1] if said else f"its process ended with {done.returncode}")


def why_unreachable(address: str) -> str:
    """Return why no server responds at an address; '' if one does, whatever its response."""
    try:
        answered = within(REACH_SECONDS, lambda: _reach(address))
    except (OSError, ValueError) as error:
        return short(getattr(error, "reason", None) or error)
    return "" if answered else f"no response within {REACH_SECONDS:.0f} s"


def _reach(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "segsweep"})
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS):
            return True
    except urllib.error.HTTPError as error:  # it answers
        error.close()
        return True
