"""What history.csv costs the driver of a long sweep: 168 trials of 1000 epochs, 4 of them running.

Prints what the driver's thread does at a refresh, for which trials wait, what the thread beside it
does, and the share of the time that this takes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console

from sweep.background import SHARE
from sweep.recorder import TABLES_SECONDS, Recorder
from sweep.view import View
from trainables.config import TrialConfig
from trainables.records.files import write_json

TRIALS, EPOCHS, RUNNING = 168, 1000, 4


def main() -> None:
    configs = {f"t{n:03d}": TrialConfig(seed=n, epochs=EPOCHS) for n in range(TRIALS)}
    rows = [
        {
            "epoch": e,
            "train_loss": 1 / 3,
            "val_loss": 1 / 7,
            "val_dataset_iou": 2 / 3,
            "val_image_iou": 5 / 7,
            "seconds": 1.2345,
        }
        for e in range(1, EPOCHS + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        plan = {
            "trials": [
                {"trial_id": i, "config": c.model_dump(mode="json")} for i, c in configs.items()
            ]
        }
        runtime = {"round": "1", "tracking": {"mode": "off"}, "fingerprint": "f"}
        made = Recorder(out, plan, runtime, View(Console(quiet=True), "t", 1))
        for number, (name, config) in enumerate(configs.items()):
            status = "running" if number < RUNNING else "stopped"
            made.ledger.write(name, config, status, metrics={"epochs": EPOCHS})
            write_json(out / "ledger" / "history" / f"{name}.json", rows)
            if number < RUNNING:
                made.states[name].status = "running"
                made.history[name] = {row["epoch"]: row for row in rows}
        made.records = made.ledger.read()
        began = time.perf_counter()
        made.on_step_end(0, [])
        waited = time.perf_counter() - began
        made._pace.wait()
        took = time.perf_counter() - began
        pause = max(TABLES_SECONDS, took / SHARE)
        print(f"a refresh: {1000 * waited:.0f} ms on the driver's thread, {took:.2f} s beside it")
        print(f"the next after {pause:.0f} s: {took / pause:.1%} of the time")


if __name__ == "__main__":
    main()
