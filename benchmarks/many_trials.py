"""What a sweep costs per trial, with 100 and with 1,000 trials that do next to nothing.

``python benchmarks/many_trials.py [FEW MANY]`` runs the real command line on a network of one
convolution, one epoch of four crops, on this machine alone. Printed are seconds and driver memory;
what should stay flat is the ratio of the two runs.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from trainables.synthetic.dataset import generate

ROOT = Path(__file__).parents[1]
NETWORK = """
from torch import nn


def build(encoder, in_channels, classes, encoder_weights=None):
    return nn.Conv2d(in_channels, classes, 3, padding=1)
"""
SPACE = """
from search_spaces import SearchSpace, grid

SPACE = SearchSpace(trials=grid(
    architecture="one_layer:build", encoder="none", crop_size=64, batch_size=4, epochs=1,
    augmentation="none",
))
"""


class Cost(NamedTuple):
    """What one sweep took."""

    trials: int
    seconds: float
    """From the first trial's start to the last one's end."""
    driver_mb: float
    """Most memory that the driver held."""
    half_seconds: tuple[float, float]
    """The same, of the first and the last half of the trials."""
    tables: int
    """How often leaderboard.csv was replaced, as far as was seen (ten looks per second)."""


def measure(folder: Path, trials: int) -> Cost:
    """Run a sweep of so many trials; raise an error unless all end."""
    out = folder / f"run{trials}"
    words = ["space.py", "--data", "data", "--out", str(out), "--seeds", str(trials)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    with open(folder / f"log{trials}", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweep.run", *words, "--wandb", "off"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        most, seen = 0.0, set[int]()
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max(most, int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024)
                seen.add((out / "leaderboard.csv").stat().st_mtime_ns)
            except (OSError, IndexError):
                pass  # not there yet, or just ended
            time.sleep(0.1)
    if process.returncode != 0:
        raise SystemExit(f"the sweep failed: {(folder / f'log{trials}').read_text()[-2000:]}")
    with open(out / "leaderboard.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    if [row["status"] for row in rows] != ["done"] * trials:
        raise SystemExit("not all trials are done")
    begun, ended = times(out)
    middle = sorted(ended)[trials // 2]
    halves = (middle - min(begun), max(ended) - middle)
    return Cost(trials, max(ended) - min(begun), most, halves, len(seen))


def times(out: Path) -> tuple[list[float], list[float]]:
    """Return when the trials of a run began and ended, from its ledger."""
    import json

    records = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    last = [record["attempts"][-1] for record in records]
    return [one["started"] for one in last], [one["ended"] for one in last]


def main() -> None:
    """Print the costs of few and many trials, and their ratio."""
    few, many = map(int, sys.argv[1:3] or ("100", "1000"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "data", sequences=9, frames=1, height=96, width=96, seed=1, cells=2)
        (folder / "one_layer.py").write_text(NETWORK)
        (folder / "space.py").write_text(SPACE)
        costs = [measure(folder, trials) for trials in (few, many)]
    print("trials  s per trial  (first half, last half)  driver MB  tables written")
    for cost in costs:
        first, last = (2 * half / cost.trials for half in cost.half_seconds)
        print(
            f"{cost.trials:6d}  {cost.seconds / cost.trials:11.2f}  ({first:10.2f}, {last:9.2f})  "
            f"{cost.driver_mb:9.0f}  {cost.tables:14d}"
        )
    a, b = costs
    print(
        f"ratio of {many} to {few}: {b.seconds / b.trials / (a.seconds / a.trials):.2f} times the "
        f"seconds per trial, {b.driver_mb / a.driver_mb:.2f} times the memory"
    )


if __name__ == "__main__":
    main()
