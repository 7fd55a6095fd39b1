"""Every candidate of the study: trained, killed in the middle, resumed, and used to predict.

``python benchmarks/all_candidates.py [SPACE] [--trials 0,6,52] [--out DIR] [--set key=value
...]``: runs the space twice through ``python -m sweep.run`` on small images, 2 epochs at a crop
size of 128 px. In the second run every trial's worker is killed with SIGKILL as soon as its first
resumable checkpoint is written. Both runs must end with the same losses to the last digit; every
checkpoint must predict.
Prints a table in Markdown: candidate, parameters, seconds, peak memory.

The second run goes in parts (``--parts``), whose checkpoints are deleted once they have predicted:
killed trials wait at the end of the queue, and a resumable state of the largest takes 7.5 GB.
"""

from __future__ import annotations

import argparse
import csv
import importlib
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
    from trainables.data.imagefiles import read_image, read_labels
    from trainables.synthetic.dataset import generate

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
        sys.executable,
        "-m",
        "sweep.run",
        space,
        "--data",
        str(data),
        "--out",
        str(out),
        "--wandb",
        "off",
        "--resume" if (out / "plan.json").exists() else "",
        *(
            w
            for c in [
                "crop_size=128",
                "epochs=2",
                "batch_size=2",
                "validate_every=1",
                "retries=2",
                f"checkpoint_seconds={seconds}",
                *changes,
            ]
            for w in ("--set", c)
        ),
    ]
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


def part_of(space: str, numbers: list[int], path: Path) -> str:
    """Write a space with some of another's trials, counted from 0."""
    path.write_text(
        f"from search_spaces import SearchSpace\n"
        f"from search_spaces.{space} import SPACE as ALL\n\n"
        f"SPACE = SearchSpace(trials=tuple(ALL.trials[i] for i in {numbers}))\n"
    )
    return str(path)


def check(out: Path, killed: set[str], calm: dict[str, str], image: str) -> tuple[list[str], int]:
    """Return a row of the table for every trial, and how many are not as they should be."""
    history = {f"{r['trial_id']} {r['epoch']}": r["train_loss"] for r in read(out / "history.csv")}
    lines, bad = [], 0
    for row in read(out / "leaderboard.csv"):
        i = row["trial_id"]
        equal = row["status"] == "done" and all(
            calm.get(f"{i} {e}") == history.get(f"{i} {e}") is not None for e in (1, 2)
        )
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, str(out / "checkpoints" / i), image],
            capture_output=True,
            text=True,
        )
        predicts = f"({SIDE}, {SIDE}) bool" in done.stdout
        bad += not (equal and predicts and i in killed)
        lines.append(
            f"| {row['task']} {row['architecture']} {row['encoder']} | {row['parameters_m'][:6]} | "
            f"{float(row['train_seconds'] or 0):.1f} | {float(row['peak_memory_mb'] or 0):.0f} | "
            f"{'yes' if i in killed else 'NO'} | {'yes' if equal else 'NO ' + row['error']} | "
            f"{'yes' if predicts else 'NO ' + done.stderr.strip()[-100:]} |"
        )
    return lines, bad


def main() -> int:
    """Run both sweeps and print the table; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space", nargs="?", default="study", help="of search_spaces")
    parser.add_argument("--out", type=Path, default=Path("runs/all_candidates"))
    parser.add_argument("--parts", type=int, default=7)
    parser.add_argument("--trials", help="only these of the space, counted from 0: 0,6,52")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    data = make_data(out / "tiles")
    trials = importlib.import_module(f"search_spaces.{options.space}").SPACE.trials
    numbers = (
        [int(n) for n in options.trials.split(",")] if options.trials else [*range(len(trials))]
    )
    everything = part_of(options.space, numbers, out / "calm.py")
    sweep(everything, data, out / "calm", options.changes, kill=False)
    shutil.rmtree(out / "calm" / "checkpoints", ignore_errors=True)  # 30 GB for the whole study
    rows = read(out / "calm" / "history.csv")
    calm = {f"{r['trial_id']} {r['epoch']}": r["train_loss"] for r in rows}
    image = str(next((data / "images").iterdir()))
    lines: list[str] = []
    bad = 0
    for number in range(options.parts):
        rough, found = out / f"rough{number}", out / f"table{number}.json"
        if not found.exists():  # else done by an earlier, interrupted call
            if rough.exists():  # half done: whom it killed is forgotten, so it begins again
                shutil.rmtree(rough)
            space = part_of(
                options.space, numbers[number :: options.parts], out / f"part{number}.py"
            )
            killed = sweep(space, data, rough, options.changes, kill=True)
            found.write_text(json.dumps(check(rough, killed, calm, image)))
            shutil.rmtree(rough / "checkpoints")
        table, wrong = json.loads(found.read_text())
        lines, bad = lines + table, bad + wrong
    head = [
        "| candidate | M parameters | seconds | peak MB | killed | losses equal | predicts |",
        "|---|---|---|---|---|---|---|",
    ]
    text = "\n".join(head + sorted(lines))
    (out / "table.md").write_text(text + "\n")
    print(text)
    print(f"{len(lines)} candidates, {bad} not as they should be")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
