"""What only a GPU can show, in under ten minutes: ``make test-gpu``.

All tasks train on the GPU, two trials share it, running out of its memory climbs the ladder, a
killed trial resumes, GPU and CPU predict alike, and measured memory stands beside its estimate.
Prints a table in Markdown for ``docs/gpu.md``; exit code 0: all checks passed, 1: some did not, 2:
there is no GPU. ``--rehearse`` runs the same program without a GPU: what would hold a share of one
computes on the CPU. That shows that this program works, and nothing about GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

PRETEND = "SEGSWEEP_PRETEND_GPUS"
TASKS = """
from search_spaces import SearchSpace, grid
SHARED = {shared}
SPACE = SearchSpace(trials=(
    *grid(architecture="Unet", **SHARED),
    *grid(task="semantic3", architecture="Unet", **SHARED),
    *grid(task="stardist", architecture="Unet", **SHARED),
    *grid(task="stardist", architecture="StarDist", **{{**SHARED, "crop_size": 64}}),
))
"""
ONE = """
from search_spaces import SearchSpace, grid
SPACE = SearchSpace(trials=grid(architecture="Unet", **{shared}))
"""
NETWORKS = (
    ("Unet", "resnet18"),
    ("UnetPlusPlus", "resnet34"),
    ("MAnet", "resnet18"),
    ("Linknet", "resnet50"),
    ("FPN", "resnet34"),
    ("DeepLabV3", "resnet18"),
    ("DeepLabV3Plus", "resnet50"),
    ("PAN", "resnet34"),
    ("Unet", "vgg19"),
    ("Unet", "resnet152"),
)
MOST_PIXELS, MOST_PROBABILITY = 0.002, 0.02
"""Tolerance of GPU against CPU, at precision 32: part of the pixels on which the foregrounds differ
(TF32 rounds to 10 bits), and the mean difference of probabilities."""
MOST_PIXELS_OF_CELLS = 0.02
"""The same of task stardist, which finds whole cells: one at the threshold is there, or is not."""
SHORT_MB = 1400.0
"""Of the GPU's memory, the share of a trial that shall run out: about twice a process's context."""


class Failed(Exception):
    """A check that did not come out as it should."""


@dataclass
class Machine:
    """Where the checks run.

    Parameters
    ----------
    folder : Path
        For everything that they write.
    rehearse : bool
        Whether there is no GPU, and the CPU stands for it.
    """

    folder: Path
    rehearse: bool
    name: str = "CPU (rehearsal)"
    memory_mb: float = 4000.0
    driver: str = ""
    rows: list[tuple[str, str, str, float]] = field(default_factory=list)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def shared(self) -> dict[str, Any]:
        """What all trials have in common."""
        if self.rehearse:
            return {"encoder": "mobilenet_v2", "crop_size": 64, "batch_size": 4, "epochs": 2}
        return {"encoder": "resnet18", "crop_size": 224, "batch_size": 8, "epochs": 8}

    @property
    def data(self) -> Path:
        return self.folder / "data"


def find_gpu(machine: Machine) -> bool:
    """Fill in what the driver says of the first GPU; False where none answers."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
    try:
        done = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
        )
        name, memory, machine.driver = done.stdout.splitlines()[0].split(", ")
        machine.name, machine.memory_mb = name, float(memory)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return False
    return True


@contextmanager
def most_used(machine: Machine) -> Iterator[list[float]]:
    """Watch how many MiB of the GPU are in use; the list holds what was seen."""
    seen: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not stop.wait(0.5):
            done = subprocess.run(query, capture_output=True, text=True)
            with contextlib.suppress(ValueError, IndexError):  # a driver may not say
                seen.append(float(done.stdout.splitlines()[0]))

    thread = threading.Thread(target=watch)
    if not machine.rehearse:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        if not machine.rehearse:
            thread.join()


def start(machine: Machine, out: str, space: str, *changes: str) -> subprocess.Popen[str]:
    """Start a sweep by the real command line."""
    path = machine.folder / f"{out}_space.py"
    path.write_text(space)
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE", PRETEND)
    environment = {k: v for k, v in os.environ.items() if k not in drop}
    if machine.rehearse:
        environment[PRETEND] = "1"
    words = [
        sys.executable,
        "-m",
        "sweep.run",
        str(path),
        "--data",
        str(machine.data),
        "--out",
        str(machine.folder / out),
        "--gpus",
        "1",
        "--wandb",
        "off",
        *(word for change in changes for word in ("--set", change)),
    ]
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a sweep that must end well; return what it printed."""
    text, _ = process.communicate(timeout=480)
    if process.returncode:
        lines = [line for line in text.splitlines() if line.strip()]
        raise Failed(f"the sweep ended with exit {process.returncode}: {' / '.join(lines[-4:])}")
    return text


def records(machine: Machine, out: str) -> list[dict[str, Any]]:
    paths = sorted((machine.folder / out / "ledger").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def board(machine: Machine, out: str) -> list[dict[str, str]]:
    with open(machine.folder / out / "leaderboard.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def tasks_train(machine: Machine) -> str:
    """All tasks train, in shares of one half of the GPU."""
    space = TASKS.format(shared=machine.shared)
    with most_used(machine) as used:
        changes = ("gpus_per_trial=0.5", "cpus_per_trial=0.5", "precision=32")
        finish(start(machine, "tasks", space, *changes))
    rows = board(machine, "tasks")
    if [row["status"] for row in rows] != ["done"] * 4:
        raise Failed(f"{[(row['task'], row['status'], row['error']) for row in rows]}")
    if not machine.rehearse and max(used, default=0) - min(used, default=0) < 500:
        raise Failed(f"the GPU's memory in use rose by less than 500 MiB: {used[:3]} ...")
    found = ", ".join(
        f"{row['task']} {row['architecture']} {float(row['val_dataset_iou']):.3f} "
        f"({float(row['train_seconds']):.0f} s, {float(row['peak_memory_mb']):.0f} MiB)"
        for row in rows
    )
    return f"validation IoU: {found}; most GPU memory in use {max(used, default=0):.0f} MiB"


def trials_overlap(machine: Machine) -> str:
    """Two trials at 0.5 of the GPU ran at the same time."""
    spans = sorted(
        (record["attempts"][-1]["started"], record["attempts"][-1]["ended"])
        for record in records(machine, "tasks")
        if record["config"]["architecture"] != "StarDist"
    )
    both = [min(a[1], b[1]) - b[0] for a, b in pairwise(spans)]
    if max(both, default=0.0) <= 0:
        raise Failed(f"no two networks ran at the same time: {spans}")
    return f"two at a time for {max(both):.0f} s"


def memory_runs_out(machine: Machine) -> str:
    """A trial with too small a share is tried again with more, and ends well."""
    shared = {**machine.shared, "epochs": 1, "batch_size": 4 if machine.rehearse else 48}
    share = SHORT_MB / machine.memory_mb
    change = "memory_per_trial=0.1" if machine.rehearse else f"gpus_per_trial={share:.4f}"
    cpu = ["gpus_per_trial=0"] if machine.rehearse else []
    finish(start(machine, "short", ONE.format(shared=shared), change, *cpu, "precision=32"))
    (record,) = records(machine, "short")
    if not record.get("out_of_memory"):
        raise Failed(f"{change} sufficed: nothing ran out of memory")
    return "; ".join(one[:90] for one in record["out_of_memory"]) + "; then done"


def killed_and_resumed(machine: Machine) -> str:
    """A trial whose worker is killed goes on from its last state."""
    shared = {**machine.shared, "epochs": 6 if machine.rehearse else 20}
    process = start(machine, "killed", ONE.format(shared=shared), "checkpoint_seconds=0")
    end = time.monotonic() + 240
    while not list((machine.folder / "killed" / "checkpoints").glob("*/resume.json")):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise Failed(f"no resumable state was written: {process.communicate()[0][-300:]}")
        time.sleep(0.05)
    (record,) = records(machine, "killed")
    os.kill(record["attempts"][-1]["pid"], signal.SIGKILL)
    finish(process)
    (record,) = records(machine, "killed")
    if record["status"] != "done" or len(record["attempts"]) != 2:
        raise Failed(f"{record['status']} after {len(record['attempts'])} attempts")
    return f"done in 2 attempts, {record['metrics']['epochs']} epochs"


def predictions_agree(machine: Machine) -> str:
    """CPU and GPU predict alike, within `MOST_PIXELS` and `MOST_PROBABILITY`."""
    import tifffile

    from trainables.checkpoint import load

    image = tifffile.imread(sorted((machine.data / "images").iterdir())[0])
    told = []
    for row in board(machine, "tasks"):
        if row["architecture"] == "StarDist":  # it computes on the CPU in either case
            continue
        folder = machine.folder / "tasks" / "checkpoints" / row["trial_id"]
        cpu, gpu = load(folder), load(folder).to(machine.device)
        mean = float(np.abs(cpu.probability(image) - gpu.probability(image)).mean())
        pixels = float((cpu.foreground(image) != gpu.foreground(image)).mean())
        told.append(f"{row['task']} {pixels:.3%} of pixels, {mean:.1e} in probability")
        most = MOST_PIXELS_OF_CELLS if row["task"] == "stardist" else MOST_PIXELS
        if pixels > most or mean > MOST_PROBABILITY:
            raise Failed(f"CPU and GPU differ: {told[-1]}")
    return "; ".join(told)


def memory_as_estimated(machine: Machine) -> str:
    """Measured peak memory of ten networks beside its estimate."""
    from trainables.config import TrialConfig
    from trainables.footprint import estimate, probe

    networks = NETWORKS[:2] if machine.rehearse else NETWORKS
    size = {k: v for k, v in machine.shared.items() if k in ("crop_size", "batch_size")}
    configs = [TrialConfig(architecture=a, encoder=e, precision="32", **size) for a, e in networks]

    def measure(config: TrialConfig) -> tuple[Any, str]:
        return probe(config, machine.device, timeout_s=240.0)

    # three at once where they fit beside each other: most of their time is spent importing torch
    with ThreadPoolExecutor(3 if machine.memory_mb > 20_000 else 1) as pool:
        measured = list(pool.map(measure, configs))
    told, ratios = [], []
    for config, (footprint, reason) in zip(configs, measured):
        guess = estimate(config).peak_mb
        if footprint is None:
            raise Failed(f"{config.architecture} {config.encoder}: {reason}")
        ratios.append(guess / footprint.peak_mb)
        told.append(
            f"{config.architecture} {config.encoder} {guess:.0f} : {footprint.peak_mb:.0f} MiB"
        )
    text = f"estimated : measured {', '.join(told)}; ratio {min(ratios):.2f} to {max(ratios):.2f}"
    if not machine.rehearse and min(ratios) < 0.5:
        raise Failed(f"an estimate is less than half of what was measured: {text}")
    return text


CHECKS: tuple[tuple[str, Callable[[Machine], str]], ...] = (
    ("all tasks train", tasks_train),
    ("two trials at 0.5 overlap", trials_overlap),
    ("out of memory climbs its ladder", memory_runs_out),
    ("a killed trial resumes", killed_and_resumed),
    ("CPU and GPU predict alike", predictions_agree),
    ("memory against its estimate", memory_as_estimated),
)


def table(machine: Machine) -> str:
    """Return the results in Markdown."""
    import torch

    head = f"{machine.name}, {machine.memory_mb:.0f} MiB, driver {machine.driver or 'none'}"
    lines = [f"torch {torch.__version__}; {head}", ""]
    if machine.rehearse:
        lines = ["REHEARSAL WITHOUT A GPU: nothing here was measured on one.", "", *lines]
    lines += ["| check | result | seconds | what |", "|---|---|---|---|"]
    for name, result, what, seconds in machine.rows:
        lines.append(f"| {name} | {result} | {seconds:.0f} | {what.replace('|', '/')} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, on the CPU")
    parser.add_argument("--out", type=Path, help="folder to keep (default: a temporary one)")
    options = parser.parse_args()
    folder = (options.out or Path(tempfile.mkdtemp(prefix="segsweep-gpu-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine(folder, options.rehearse)
    os.environ[PRETEND] = "1" if machine.rehearse else "0"
    if not machine.rehearse and not find_gpu(machine):
        print("error: nvidia-smi names no GPU here; --rehearse tries this program", file=sys.stderr)
        return 2
    from trainables.synthetic.dataset import generate

    side = {"height": 128, "width": 160} if machine.rehearse else {"height": 448, "width": 672}
    if not machine.data.exists():
        generate(machine.data, sequences=6, frames=1, seed=0, **side)
    for name, check in CHECKS:
        began = time.monotonic()
        try:
            result, what = "passed", check(machine)
        except Exception as error:  # the other checks still say something
            result, what = "FAILED", f"{type(error).__name__}: {error}"
        machine.rows.append((name, result, " ".join(what.split()), time.monotonic() - began))
        print(f"{name}: {result} ({machine.rows[-1][3]:.0f} s)", flush=True)
    print("\n" + table(machine))
    if options.out is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "gpu_check.md").write_text(table(machine) + "\n")
    return int(any(row[1] == "FAILED" for row in machine.rows))


if __name__ == "__main__":
    sys.exit(main())
