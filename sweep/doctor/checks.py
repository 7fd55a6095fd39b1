"""What the facts of a machine mean for a sweep, as findings by subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from sweep.doctor.findings import HERE, Finding, note, ok, problem
from sweep.doctor.machine import Framework, GpuFacts, Machine, version_of
from sweep.request import RequestError
from sweep.tracking import wandb_mode
from trainables.machine.hardware import PRETEND

INSTALL = "install it: make setup, or pip install -c constraints.txt -e ."
MAIN = ("torch", "lightning", "segmentation-models-pytorch", "ray", "wandb", "numpy")
"""Libraries whose versions are always shown; others appear only if something is wrong."""
IN_USE_GB = 1.0
"""GPU memory that other processes may use without a note, such as a desktop."""
LEAST_SCRATCH = 0.05
"""Ray stops writing to a disk if less than this share of it is free."""


def requirements() -> list[Requirement]:
    """Return the packages that this project requires, without extras."""
    try:
        lines = requires("segsweep") or []
    except PackageNotFoundError:  # run from a checkout that was not installed
        return [Requirement(name) for name in MAIN]
    read = [Requirement(line) for line in lines]
    return [one for one in read if one.marker is None or one.marker.evaluate({"extra": ""})]


def of_machine(machine: Machine, where: str = HERE) -> list[Finding]:
    """Return all findings for one machine; those on GPUs only if trials may run there."""
    on_gpus = [of_gpus, of_torch, of_tensorflow] if machine.torch else []
    subjects = [of_python, of_libraries, *on_gpus, of_wandb, of_scratch]
    return [finding for subject in subjects for finding in subject(machine, where)]


def of_python(machine: Machine, where: str) -> list[Finding]:
    """Return the versions of Python and system, and the size of the machine."""
    can = "computes" if machine.cpu_bf16 else "does not compute"
    return [
        ok(
            "python",
            f"{machine.python}, {machine.system}, {machine.cpus} CPUs ({can} in bfloat16), "
            f"{machine.memory_gb:.0f} GiB of memory",
            where,
        )
    ]


def of_libraries(machine: Machine, where: str) -> list[Finding]:
    """Return the installed libraries, and those that are missing or have the wrong version."""
    needed = requirements()
    missing = [one.name for one in needed if not machine.libraries.get(one.name)]
    other = [
        f"{one.name} {machine.libraries[one.name]} (needed: {one.specifier})"
        for one in needed
        if one.name not in missing and not _fits(one, machine.libraries[one.name])
    ]
    if missing:
        return [problem("libraries", f"not installed: {', '.join(missing)}", INSTALL, where)]
    shown = ", ".join(f"{name} {machine.libraries[name]}" for name in MAIN)
    if other:
        advice = "install the tested versions: pip install -c constraints.txt -e ."
        return [note("libraries", f"{shown}; wrong version: {', '.join(other)}", advice, where)]
    return [ok("libraries", f"{shown}; all {len(needed)} required ones are installed", where)]


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True


def of_gpus(machine: Machine, where: str) -> list[Finding]:
    """Return the GPUs with name, memory, driver and bfloat16."""
    if machine.pretended:
        text = f"pretended ({PRETEND}={machine.pretended}): trials compute on the CPU"
        return [note("gpu", text, f"unset {PRETEND} for real work", where)]
    if not machine.gpus:
        if machine.devices:
            return [
                problem(
                    "gpu",
                    f"{machine.devices} NVIDIA GPUs exist, but nvidia-smi fails",
                    "install or repair the NVIDIA driver; start a container with --gpus all",
                    where,
                )
            ]
        return [ok("gpu", "none; trials here run on the CPU", where)]
    findings = []
    for gpu, count in Counter(map(_describe, machine.gpus)).items():
        findings.append(ok("gpu", f"{count} x {gpu}", where))
    for number, gpu_facts in enumerate(machine.gpus):
        if gpu_facts.used_gb > IN_USE_GB:
            findings.append(
                note(
                    "gpu",
                    f"GPU {number}: other processes use {gpu_facts.used_gb:.1f} GiB of its memory, "
                    "so trials may run out of memory",
                    "stop them (see nvidia-smi), or exclude this GPU with CUDA_VISIBLE_DEVICES",
                    where,
                )
            )
    return findings


def _describe(gpu: GpuFacts) -> str:
    words = {True: "computes in bfloat16", False: "does not compute in bfloat16", None: ""}
    memory = f"{gpu.memory_gb:.1f} GiB" if gpu.memory_gb else "the machine's memory"
    parts = [gpu.name, memory, f"driver {gpu.driver}", words[gpu.bf16]]
    return ", ".join(part for part in parts if part)


def of_torch(machine: Machine, where: str) -> list[Finding]:
    """Return whether torch can be imported and computes on the GPUs."""
    asked = machine.torch
    assert asked is not None
    if asked.error:
        advice = (
            "update the NVIDIA driver or torch until they match; see docs/gpu.md"
            if asked.version
            else "reinstall it: pip install --force-reinstall -c constraints.txt torch torchvision"
        )
        verb = "fails" if asked.version else "cannot be imported"
        return [problem("torch", f"{verb}: {asked.error}", advice, where)]
    if machine.gpus and not asked.gpus:
        return [_blind("torch", machine, asked, where)]
    built = f"built for CUDA {asked.cuda}" if asked.cuda else "built for CPUs"
    seen = f"computes on {_gpus(asked.gpus)}" if asked.gpus else "no GPU"
    return [ok("torch", f"{asked.version}, {built}: {seen}", where)]


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _blind(what: str, machine: Machine, asked: Framework, where: str) -> Finding:
    there = f"{_gpus(len(machine.gpus))} with driver {machine.gpus[0].driver}"
    if machine.hidden is not None:
        why = f"CUDA_VISIBLE_DEVICES={machine.hidden!r}"
        advice = "unset CUDA_VISIBLE_DEVICES, or list existing GPUs in it"
    elif not asked.cuda:
        why = f"{what} {asked.version} is built for CPUs"
        advice = f"install the build of {what} for CUDA"
    else:
        why = asked.warning or f"{what} {asked.version}, CUDA {asked.cuda}"
        advice = f"update the NVIDIA driver, or install a build of {what} for this driver"
    return problem(what, f"finds no GPU, but the machine has {there} ({why})", advice, where)


def of_tensorflow(machine: Machine, where: str) -> list[Finding]:
    """Return whether TensorFlow, which StarDist's own model needs, is installed and finds GPUs."""
    asked = machine.tensorflow
    if asked is None:
        return [
            note(
                "tensorflow",
                "not installed; StarDist's own model cannot be trained",
                "to train it: pip install -c constraints.txt -e '.[stardist]'",
                where,
            )
        ]
    if asked.error:
        advice = "reinstall it, or leave StarDist's own model out of the search space"
        return [problem("tensorflow", f"cannot be imported: {asked.error}", advice, where)]
    seen = f"finds {_gpus(asked.gpus)}" if asked.gpus else "no GPU"
    if machine.gpus and not asked.gpus:
        text = f"{asked.version}: finds no GPU; StarDist's own model trains on the CPU"
        return [note("tensorflow", text, "see docs/gpu.md to train it on a GPU", where)]
    return [ok("tensorflow", f"{asked.version}: {seen}", where)]


def of_wandb(machine: Machine, where: str) -> list[Finding]:
    """Return whether W&B can be reached, and where its key comes from."""
    try:
        mode = wandb_mode(None)
    except RequestError as error:
        return [problem("wandb", str(error), "change the variable WANDB_MODE", where)]
    if mode == "off":
        return [ok("wandb", "switched off (WANDB_MODE, or W&B's settings file)", where)]
    parts = urlsplit(machine.server)
    host = parts.hostname or machine.server  # without a user's name and password
    answers = f"{host} does not respond ({machine.unreachable})"
    if not machine.unreachable:
        answers = f"{host} responds"
    key = f"key from {machine.key}" if machine.key else "no key"
    text = f"{version_of('wandb')}, {answers}, {key}"
    if not machine.key:
        text += "; trials here report offline"
        return [note("wandb", text, "to report online, run wandb login on every node", where)]
    if machine.unreachable:
        text += "; trials here report offline"
        return [note("wandb", text, "to upload later: cd OUT && wandb sync --sync-all", where)]
    if mode == "offline":
        text += "; reports offline (WANDB_MODE, or W&B's settings file)"
    return [ok("wandb", text, where)]


def of_scratch(machine: Machine, where: str) -> list[Finding]:
    """Return whether the disk for Ray's temporary files has space left."""
    text = f"{machine.scratch}: {machine.scratch_free_gb:.0f} GB free"
    if machine.scratch_free < LEAST_SCRATCH:
        text += f", {machine.scratch_free:.0%} of the disk: Ray stops writing"
        return [problem("temporary files", text, "remove files there, or set TMPDIR", where)]
    return [ok("temporary files", text, where)]


def compare(machine: Machine, ours: Machine, where: str) -> list[Finding]:
    """Return how a node differs from the machine that drives the sweep."""
    return [
        *_ray_version(machine, ours, where),
        *_copy(machine, ours, where),
        *_other_versions(machine, ours, where),
    ]


def _ray_version(machine: Machine, ours: Machine, where: str) -> list[Finding]:
    theirs, here = machine.libraries.get("ray", ""), ours.libraries.get("ray", "")
    if theirs == here and machine.python == ours.python:
        return [ok("ray", f"{theirs} on Python {machine.python}, as here", where)]
    text = f"{theirs} on Python {machine.python}, but here {here} on Python {ours.python}"
    advice = f"install ray=={here} and Python {ours.python} there, and restart the node"
    return [problem("ray", text, advice, where)]


def _copy(machine: Machine, ours: Machine, where: str) -> list[Finding]:
    names = sorted(machine.files.keys() | ours.files.keys())
    other = [name for name in names if machine.files.get(name) != ours.files.get(name)]
    if not other:
        return [ok("project", f"the same {len(names)} files as here", where)]
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    text = f"files differ from those here, in {machine.place}: {', '.join(other[:3])}{more}"
    advice = "start the node without PYTHONPATH or another copy of this project in its Python"
    return [problem("project", text, advice, where)]


def _other_versions(machine: Machine, ours: Machine, where: str) -> list[Finding]:
    other = [
        f"{name} {there} (here {ours.libraries[name]})"
        for name, there in machine.libraries.items()
        if name != "ray" and there and ours.libraries.get(name) not in ("", there)
    ]
    if not other:
        return []
    text = f"versions differ: {', '.join(other[:6])}{' ...' if len(other) > 6 else ''}"
    return [note("versions", text, "install from constraints.txt on every node", where)]


def differing_gpus(machines: Sequence[Machine]) -> list[Finding]:
    """Return a note if the GPUs of a cluster differ."""
    gpus = [gpu for machine in machines for gpu in machine.gpus]
    kinds = sorted({f"{gpu.name}, {gpu.memory_gb:.0f} GiB" for gpu in gpus})
    if len(kinds) < 2:
        return []
    text = f"the GPUs differ ({'; '.join(kinds)}): the smallest one sets the trials' share"
    if {gpu.bf16 for gpu in gpus} == {True, False}:
        text += ", and precision=auto is 32, as not all compute in bfloat16"
    return [note("gpu", text, "to use one type only, name it, such as --gpus 4xA100", "cluster")]


def names_of(needed: Sequence[Requirement]) -> tuple[str, ...]:
    """Return the names of the packages whose versions the doctor reports."""
    return tuple(one.name for one in needed)
