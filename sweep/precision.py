"""The precision of a sweep, and the nodes that support it: decided before the first trial.

``precision=auto`` becomes ``bf16`` if all processors that trials may get compute in bfloat16, else
``32``. ``plan.json`` keeps the decision, so that a run has the same precision wherever it is
resumed. GPUs that compute in bfloat16 also use TF32 for float32 convolutions, and older ones do
not, so everything about bf16 on GPUs also applies to TF32.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from trainables.config import TrialConfig
from trainables.machine.hardware import (
    FIRST_WITH_BF16,
    cpu_computes_bf16,
    local_gpus,
    pretended_gpu,
)

if TYPE_CHECKING:
    from sweep.request import Request

WITHOUT_BF16 = ("V100", "V100S", "T4", "T4G", "P100", "P40", "P4", "K80", "M60")
"""GPUs without bfloat16, by Ray's names (label ``ray.io/accelerator-type``)."""
WITH_BF16 = (
    "A100",
    "H100",
    "H200",
    "H20",
    "B200",
    "B300",
    "GB200",
    "GB300",
    "A10",
    "A10G",
    "A30",
    "A40",
    "L4",
    "L40",
    "L40S",
    "RTX3090",
    "RTX4090",
)


@dataclass(frozen=True)
class Precision:
    """The precision of a run, as plan.json keeps it under ``precision``."""

    auto: str
    """What ``precision=auto`` means in this run: ``bf16`` or ``32``."""
    tf32: bool
    """Whether GPUs may use TF32 at precision ``32``, which requires that all of them have it."""
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)

    def demands_bf16(self, config: TrialConfig, on_gpu: bool) -> bool:
        """Whether a trial must run on a processor with bfloat16 (for GPUs: and TF32)."""
        return config.precision == "bf16" or (on_gpu and self.tf32)


@dataclass(frozen=True)
class Processor:
    """The processor that trials use on one node."""

    name: str
    bf16: bool | None
    """Whether it computes in bfloat16; None if unknown."""
    node: str = ""
    """Ray's id of the node."""
    gpus: float = 0.0
    """Number of GPUs of the node."""


def _words(name: str) -> list[str]:
    """Return the parts of a GPU's name that may be its type: each word, and each pair of words."""
    words = re.findall(r"[A-Z0-9]+", name.upper())
    return words + [first + second for first, second in pairwise(words)]


def is_type(name: str, kind: str) -> bool:
    """Whether a GPU is of a type, according to its name from Ray or the driver.

    Examples
    --------
    >>> is_type("Tesla V100-SXM2-32GB", "v100"), is_type("A10G", "A10")
    (True, False)
    """
    return kind.upper() in _words(name)


def gpu_computes_bf16(name: str) -> bool | None:
    """Return from a GPU's name whether it computes in bfloat16; None for unknown names.

    Examples
    --------
    >>> gpu_computes_bf16("Tesla V100-SXM2-32GB"), gpu_computes_bf16("A100"), gpu_computes_bf16("X")
    (False, True, None)
    """
    words = _words(name)
    if any(word in WITHOUT_BF16 for word in words):
        return False
    return True if any(word in WITH_BF16 for word in words) else None


def of_this_machine(on_gpus: bool) -> Processor:
    """Return the processor that trials use on this machine."""
    if not on_gpus:
        return Processor("CPU", cpu_computes_bf16())
    pretended = pretended_gpu()
    if pretended is not None and pretended.name:
        return Processor(pretended.name, gpu_computes_bf16(pretended.name))
    gpus = local_gpus()
    if not gpus:
        return Processor("GPU", None)
    named = " and ".join(dict.fromkeys(gpu.name for gpu in gpus))
    return Processor(named, all(gpu.capability >= FIRST_WITH_BF16 for gpu in gpus))


def decide(processors: Sequence[Processor], on_gpus: bool) -> Precision:
    """Decide what ``precision=auto`` means on given processors.

    Examples
    --------
    >>> decide([Processor("A100", True), Processor("V100", False)], on_gpus=True)
    Precision(auto='32', tf32=False, why='V100 cannot compute in bfloat16')
    """
    cannot = [one for one in processors if one.bf16 is False]
    unknown = [one for one in processors if one.bf16 is None]
    if processors and not cannot and not unknown:
        return Precision("bf16", on_gpus, f"{names(processors)} can compute in bfloat16")
    if cannot:
        return Precision("32", False, f"{names(cannot)} cannot compute in bfloat16")
    if not on_gpus:
        why = "the nodes did not say whether their CPUs compute in bfloat16"
        return Precision("32", False, f"{why}; --set precision=bf16 overrides this")
    why = f"unknown GPU type {names(unknown)}" if unknown else "no GPU is up yet"
    hint = "name the type, such as --gpus 4xA100, or --set precision=bf16, to override this"
    return Precision("32", False, f"{why}; {hint}")


def names(processors: Sequence[Processor]) -> str:
    """Return the names of processors, each only once."""
    return " and ".join(dict.fromkeys(one.name for one in processors))


def settle(request: Request, precision: Precision) -> Request:
    """Replace ``auto`` in all trials of a request, and in the values that a search draws from."""

    def settled(value: str) -> str:
        return precision.auto if value == "auto" else value

    def all_settled(configs: Sequence[TrialConfig]) -> tuple[TrialConfig, ...]:
        changed = (c.model_copy(update={"precision": settled(c.precision)}) for c in configs)
        return tuple(dict.fromkeys(changed))

    dimensions = dict(request.space.dimensions)
    if "precision" in dimensions:
        dimensions["precision"] = list(dict.fromkeys(map(settled, dimensions["precision"])))
    space = request.space.model_copy(update={"dimensions": dimensions})
    return replace(
        request,
        configs=all_settled(request.configs),
        left_out=all_settled(request.left_out),
        space=space,
    )


@functools.cache
def _here(on_gpu: bool) -> Processor:
    return of_this_machine(on_gpu)


def refusal(precision: Precision, config: TrialConfig, on_gpu: bool) -> str | None:
    """Return why the node of this worker must not train a trial; None if it may."""
    if not precision.demands_bf16(config, on_gpu) or _here(on_gpu).bf16 is not False:
        return None
    what = "bfloat16" if config.precision == "bf16" else "TF32"
    return f"its {_here(on_gpu).name} does not compute in {what}"
