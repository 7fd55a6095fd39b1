"""The real command line of a sweep, on small data, for the tests beside this file."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
from skimage.draw import disk

from tests.waiting import wait_for as wait_for

QUICK = ("--set", "crop_size=64", "--set", "batch_size=4", "--set", "encoder=mobilenet_v2")
TINY_TUNE = ("--wandb", "off")
SPACE = Path(__file__).with_name("networks.py")


def make_data(root: Path, images: int = 5, size: int = 96) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        labels = np.zeros((size, size), np.uint16)
        for label, center in enumerate([(20, 20), (20, 60), (60, 30), (65, 70)], 1):
            labels[disk(np.add(center, rng.integers(-5, 6, 2)), 10, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    return root


def environment(**extra: str) -> dict[str, str]:
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    return {**{k: v for k, v in os.environ.items() if k not in drop}, **extra}


STARTED: list[subprocess.Popen[str]] = []


def start(*words: object, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep.run", *map(str, words)],
        cwd=cwd,
        env=environment(**extra),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    STARTED.append(process)
    return process


def run(*words: object, cwd: Path, **extra: str) -> tuple[int, str, str]:
    process = start(*words, cwd=cwd, **extra)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def rows(out: Path, name: str = "leaderboard.csv") -> list[dict[str, str]]:
    with open(out / name, newline="") as handle:
        return list(csv.DictReader(handle))


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "ledger").glob("*.json"))]


def precisions(out: Path) -> set[str]:
    """Return every precision that plan, ledger, leaderboard and candidates name."""
    plan = json.loads((out / "plan.json").read_text())
    return {
        *(trial["config"]["precision"] for trial in plan["trials"]),
        *(record["config"]["precision"] for record in records(out)),
        *(row["precision"] for row in rows(out)),
        *(row["precision"] for row in rows(out, "candidates.csv")),
    }


def kept_precision(out: Path) -> str:
    """Return what precision=auto is in a run."""
    precision: str = json.loads((out / "plan.json").read_text())["precision"]["auto"]
    return precision


def nodes_of(out: Path) -> set[str]:
    """Return Ray's ids of the nodes that have trained something."""
    return {a["node"] for record in records(out) for a in record["attempts"]}


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return what a driver has started, and what that has started."""
    family: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return family


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the driver; wait until nothing trains or uploads any more."""
    # Ray's agents stay a minute longer, and write nothing
    working = [one for one in family_of(process) if "Agent" not in one.name()]
    process.kill()
    process.communicate(timeout=500)
    _gone, left = psutil.wait_procs(working, timeout=500)
    assert not left
