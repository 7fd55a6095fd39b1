"""Memory of a trial: its peak, its limit, and how to recognise that it has run out."""

from __future__ import annotations

import contextlib
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import HostMemoryShort, OutOfMemory

if TYPE_CHECKING:
    import torch


CONTEXT_MB = 600.0
"""MiB of a GPU that each process takes besides its tensors: the CUDA context and its kernels."""


def torch_fraction(share: float, total_mb: float) -> float:
    """Return the part of a GPU's memory that torch may allocate for a given share of the GPU.

    Parameters
    ----------
    share : float
        Part of the GPU that the process was given, above 0 and at most 1.
    total_mb : float
        MiB of the GPU.

    Returns
    -------
    float
        The share without the process's context, so that processes whose shares add up to 1 fit
        into the GPU together; 1 for a whole GPU; 0 where the share is smaller than a context.

    Examples
    --------
    >>> torch_fraction(0.5, 16_000), torch_fraction(1.0, 16_000), torch_fraction(0.01, 16_000)
    (0.4625, 1.0, 0.0)
    """
    if share >= 1:
        return 1.0
    return max(0.0, (share * total_mb - CONTEXT_MB) / total_mb)


def reset_peak(device: torch.device) -> None:
    """Start a new peak, because a worker process runs many trials in turn."""
    if device.type == "cuda":
        import torch

        torch.cuda.init()  # type: ignore[no-untyped-call]  # or there is nothing yet to be reset, which is an error
        torch.cuda.reset_peak_memory_stats(device)
        return
    # not Linux, or not permitted: the peak is then the process's
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """Largest memory since `reset_peak` in MiB: of the GPU, or resident in the process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return process_peak_mb()


def process_peak_mb() -> float:
    """Largest resident memory of this process since `reset_peak`, in MiB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


_HOST_SIGNS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "defaultcpuallocator",
)
"""What says that memory of the machine is short, also while a GPU is used."""
_GPU_SIGNS = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    # cuDNN's handle and plans need memory, too, and say no more than this when there is none
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
    "unable to find an engine",
    # torch fails while it writes the message that memory ran out
    "nvml_success == r",
)
_SIGNS = _HOST_SIGNS + _GPU_SIGNS
_SIGNS_UNDER_A_LIMIT = ("could not create a ", "could not execute a primitive", "can't start new")
"""What libraries say when an allocation fails, among other reasons."""


def is_out_of_memory(error: BaseException, *, limited: bool = False) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU.

    Parameters
    ----------
    error : BaseException
        The error; what caused it is checked, too.
    limited : bool
        Whether memory is limited; vague errors are then taken to mean that it ran out.
    """
    seen: BaseException | None = error
    signs = _SIGNS + (_SIGNS_UNDER_A_LIMIT if limited else ())
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        text = str(seen).lower()
        if isinstance(seen, RuntimeError | OSError) and any(sign in text for sign in signs):
            return True
        seen = seen.__cause__
    return False


def is_host_memory(error: BaseException) -> bool:
    """Whether an error that is `is_out_of_memory` is about the machine's memory, not a GPU's."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if isinstance(seen, MemoryError) or any(sign in text for sign in _HOST_SIGNS):
            return True
        seen = seen.__cause__
    return False


def _data_bytes() -> int:
    """Memory of this process that counts towards RLIMIT_DATA."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmData")


@contextlib.contextmanager
def limited(
    device: torch.device | None,
    *,
    gpu_fraction: float | None = None,
    memory_gb: float | None = None,
) -> Iterator[None]:
    """Enforce a trial's share of memory while the block runs.

    Parameters
    ----------
    device : torch.device or None
        None: a CPU.
    gpu_fraction : float, optional
        Share of the GPU's memory, of which `torch_fraction` is for torch's allocator.
    memory_gb : float, optional
        On a CPU: what the process may use in addition to what it holds now (``RLIMIT_DATA``); Ray
        counts memory but does not enforce it. Not enforced where the system cannot (macOS).

    Raises
    ------
    OutOfMemory, HostMemoryShort
        Instead of the many errors that mean this; the latter if the device is a GPU and the
        machine's own memory ran out.
    """
    before: tuple[int, int] | None = None
    if device is not None and device.type == "cuda":
        import torch

        fraction = 1.0  # a worker's last trial may have had less
        if gpu_fraction is not None:
            total = torch.cuda.mem_get_info(device)[1]
            fraction = torch_fraction(gpu_fraction, total / 2**20)
        torch.cuda.set_per_process_memory_fraction(fraction, device)
    elif memory_gb is not None:
        with contextlib.suppress(OSError, ValueError):
            before = resource.getrlimit(resource.RLIMIT_DATA)
            wanted = _data_bytes() + int(memory_gb * 2**30)
            if before[1] != resource.RLIM_INFINITY:
                wanted = min(wanted, before[1])
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error, limited=before is not None):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        # the frames hold the tensors that filled the memory
        traceback.clear_frames(error.__traceback__)
        if device is not None and device.type == "cuda" and is_host_memory(error):
            raise HostMemoryShort(f"the node's memory ran out ({reason})") from None
        raise OutOfMemory(f"out of memory ({reason})") from None
    finally:
        if before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)
