"""Every candidate of the study: trained, killed in the middle, resumed, and used to predict.

``python benchmarks/all_candidates.py [SPACE] [--out DIR] [--set key=value ...]``: runs the space
twice through ``python -m sweep.run`` on small images, 2 epochs at a crop size of 128 px. In the
second run every trial's worker is killed with SIGKILL as soon as its first resumable checkpoint is
written. Both runs must end with the same losses to the last digit; every checkpoint must predict.
Prints a table in Markdown: candidate, parameters, seconds, peak memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

SIDE = 128
IMAGES = 7


def make_data(root: Path) -> Path:
    """Cut the fullest tiles from a generated frame."""
    from trainables.imagefiles import read_image, read_labels
    from trainables.synthetic import generate

    if root.exists():
        return root
    frame = generate(root.parent / "frame", sequences=1, frames=1, seed=0)
    image = read_image(next((frame / "images").iterdir()))
    labels = read_labels(next((frame / "masks").iterdir())).labels
    corners = [
        (y, x)
        for y in range(0, image.shape[0] - SIDE, SIDE)
        for x in range(0, image.shape[1] - SIDE, SIDE)
    ]
    corners.sort(key=lambda c: -np.count_nonzero(labels[c[0] : c[0] + SIDE, c[1] : c[1] + SIDE]))
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, (y, x) in enumerate(corners[:IMAGES]):
        window = (slice(y, y + SIDE), slice(x, x + SIDE))
        tifffile.imwrite(root / "images" / f"t{number}.tif", image[window])
        tifffile.imwrite(root / "masks" / f"t{number}.tif", labels[window].astype(np.uint16))
    return root


def kill_each_once(out: Path, killed: set[str]) -> None:
    """Kill the worker of every trial whose first resumable checkpoint has just been written."""
    for path in (out / "checkpoints").glob("*/resume.json"):
        trial_id = path.parent.name
        if trial_id in killed:
            continue
        record = json.loads((out / "ledger" / f"{trial_id}.json").read_text())
        if record["status"] == "running":
            killed.add(trial_id)
            os.kill(record["attempts"][-1]["pid"], signal.SIGKILL)


def sweep(space: str, data: Path, out: Path, changes: list[str], *, kill: bool) -> set[str]:
    """Run a sweep to its end; return the trials whose worker was killed."""
    seconds = "0" if kill else "100000"
    words = [
        sys.executable, "-m", "sweep.run", space, "--data", str(data), "--out", str(out),
        "--wandb", "off", "--resume" if (out / "plan.json").exists() else "",
        *(w for c in [
            "crop_size=128", "epochs=2", "batch_size=2", "validate_every=1", "retries=2",
            f"checkpoint_seconds={seconds}", *changes,
        ] for w in ("--set", c)),
    ]  # fmt: skip
    process = subprocess.Popen([w for w in words if w])
    killed: set[str] = set()
    while process.poll() is None:
        if kill:
            kill_each_once(out, killed)
        time.sleep(0.02)
    if process.returncode not in (0, 1):
        sys.exit(process.returncode)
    return killed


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


PREDICT = """
import sys, tifffile
from trainables.checkpoint import load
mask = load(sys.argv[1]).foreground(tifffile.imread(sys.argv[2]))
print(mask.shape, mask.dtype)
"""


def main() -> int:
    """Run both sweeps and print the table; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space", nargs="?", default="study")
    parser.add_argument("--out", type=Path, default=Path("runs/all_candidates"))
    parser.add_argument("--set", dest="changes", action="append", default=[])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = make_data(options.out / "tiles")
    calm, rough = options.out / "calm", options.out / "rough"
    sweep(options.space, data, calm, options.changes, kill=False)
    for folder in (calm / "checkpoints").iterdir():  # 30 GB for the whole study
        shutil.rmtree(folder)
    killed = sweep(options.space, data, rough, options.changes, kill=True)
    losses: list[dict[str, str]] = []
    for out in (calm, rough):
        history = read(out / "history.csv")
        losses.append({f"{r['trial_id']} {r['epoch']}": r["train_loss"] for r in history})
    bad = 0
    image = str(next((data / "images").iterdir()))
    lines = ["| candidate | M parameters | seconds | peak MB | killed | losses equal | predicts |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in sorted(read(rough / "leaderboard.csv"), key=lambda r: r["trial_id"]):
        i = row["trial_id"]
        equal = row["status"] == "done" and all(
            losses[0].get(f"{i} {e}") == losses[1].get(f"{i} {e}") is not None for e in (1, 2)
        )
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, str(rough / "checkpoints" / i), image],
            capture_output=True, text=True,
        )  # fmt: skip
        predicts = f"({SIDE}, {SIDE}) bool" in done.stdout
        bad += not (equal and predicts and i in killed)
        lines.append(
            f"| {row['task']} {row['architecture']} {row['encoder']} | {row['parameters_m'][:6]} | "
            f"{float(row['train_seconds'] or 0):.1f} | {float(row['peak_memory_mb'] or 0):.0f} | "
            f"{'yes' if i in killed else 'NO'} | {'yes' if equal else 'NO ' + row['error']} | "
            f"{'yes' if predicts else 'NO ' + done.stderr.strip()[-100:]} |"
        )
    text = "\n".join(lines)
    (options.out / "table.md").write_text(text + "\n")
    print(text)
    print(f"{len(lines) - 2} candidates, {bad} not as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
