"""The speed of GPUs and CPU cores in training, and how long a trial takes on them.

Times are for planning: for ResNet-152 on a V100 (Vasinkova et al. 2024, Table 1, doi
10.1177/11779322241272387, 1000 epochs of 90 crops), five of eight architectures come out at 0.7 to
1.0 times the published time; U-Net++ at 2.0, DeepLabV3 at 3.6 and DeepLabV3+ at 0.35 do not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from trainables.config import TrialConfig
from trainables.footprint import Footprint

FLOAT32, TENSOR_CORES = 0.5, 0.15
"""Fraction of the peak that training sustains with batches of about eight crops. NVIDIA's published
ResNet-50 figures, with batches of hundreds, come to 0.59 (V100, float32), 0.29 (A100, half
precision) and 0.17 (A100, TF32); small batches reach less."""


@dataclass(frozen=True)
class Throughput:
    """The speed that a GPU or a CPU core sustains in training."""

    float32: float
    """GFLOP/s at precision ``32`` (with TF32 convolutions if the GPU has them)."""
    bf16: float | None
    """GFLOP/s at precision ``bf16``; None if the hardware does not support it."""
    bandwidth: float
    """Memory bandwidth in GB/s, for the optimiser's step."""
    memory_gb: float | None = None
    """Memory of the smallest variant in GB; None for a CPU."""
    step_seconds: float = 0.0
    """Shortest time of a training step, since GPUs wait for thousands of kernel launches."""


def _gpu(float32: float, bf16: float | None, bandwidth: float, memory_gb: float) -> Throughput:
    """Make an entry from sustained TFLOP/s."""
    half = None if bf16 is None else 1000 * bf16
    return Throughput(1000 * float32, half, bandwidth, memory_gb, step_seconds=0.04)


THROUGHPUT: dict[str, Throughput] = {
    "V100": _gpu(15.7 * FLOAT32, None, 900, 16),
    "T4": _gpu(8.1 * FLOAT32, None, 320, 16),
    "A100": _gpu(156 * TENSOR_CORES, 312 * TENSOR_CORES, 1555, 40),
    "H100": _gpu(494 * TENSOR_CORES, 989 * TENSOR_CORES, 3350, 80),
    "H200": _gpu(494 * TENSOR_CORES, 989 * TENSOR_CORES, 4800, 141),
    "A10G": _gpu(35 * TENSOR_CORES, 70 * TENSOR_CORES, 600, 24),
    "L4": _gpu(60 * TENSOR_CORES, 121 * TENSOR_CORES, 300, 24),
    "RTX3090": _gpu(35.6 * TENSOR_CORES, 71 * TENSOR_CORES, 936, 24),
    "RTX4090": _gpu(82.6 * TENSOR_CORES, 165 * TENSOR_CORES, 1008, 24),
}
"""GPUs by name: the vendor's dense peaks in TFLOP/s times the fractions above."""

CPU = Throughput(float32=120.0, bf16=None, bandwidth=8.0)
"""One core with AVX-512."""
CPU_BF16 = Throughput(float32=120.0, bf16=240.0, bandwidth=8.0)
"""One core that computes in bfloat16 (measured on a processor of 2023: 150 and 300)."""


def throughput(name: str) -> Throughput | None:
    """Return the entry of a GPU by its name from Ray or the driver; None for unknown ones.

    Examples
    --------
    >>> throughput("Tesla V100-SXM2-32GB") is throughput("V100") is THROUGHPUT["V100"]
    True
    """
    words = re.findall(r"[A-Z0-9]+", name.upper())
    joined = {first + second for first, second in pairwise(words)}
    return next((THROUGHPUT[key] for key in THROUGHPUT if key in {*words, *joined}), None)


def estimate_seconds(
    need: Footprint,
    config: TrialConfig,
    hardware: Throughput,
    crops: int,
    *,
    share: float = 1.0,
    cores: float = 1.0,
) -> float:
    """Estimate the training time of a trial.

    Parameters
    ----------
    need : Footprint
        The network's needs. A backward pass takes twice the operations of the forward pass, and
        AdamW moves 40 bytes per weight and step.
    config : TrialConfig
    hardware : Throughput
        Speed of the GPU, or of one core.
    crops : int
        Crops per epoch.
    share : float
        Share of the GPU; other trials are assumed to use the rest.
    cores : float
        Number of cores of a trial on CPUs.

    Returns
    -------
    float
        Seconds; validation and start-up are not included.

    Raises
    ------
    ValueError
        When `share` is not between 0 and 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    rate = hardware.float32 if config.precision == "32" else hardware.bf16 or hardware.float32
    steps = config.epochs * math.ceil(crops / config.batch_size)
    computing = 3 * need.gflops * crops * config.epochs / rate
    stepping = 40e-9 * need.parameters * steps / hardware.bandwidth
    # Waiting for launches overlaps between trials that share a GPU; computing does not.
    return max(hardware.step_seconds * steps, (computing + stepping) / (share * cores))
