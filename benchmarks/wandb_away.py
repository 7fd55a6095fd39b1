"""What W&B costs a trial while its server works, fails or is away.

``python benchmarks/wandb_away.py`` runs the same sweep of one trial again and again on one core:
offline, with a W&B server that works (a stand-in of this machine, tests/sweep/wandb_server.py), and
with servers that swallow what they get, respond with status 500, refuse the key, or are switched
off. Every round has one run of each, in an order that is reversed from round to round. The server
fails once the first epoch has ended, so that W&B's client has lines to send and tries again and
again.

On one core, W&B slows training down by the CPU time of its own process, and by the time for which
training waits inside its calls. Both are measured in every run and hardly depend on what else the
machine does. The ratios are of the run to the offline run of the same round, per epoch without the
first: of the CPU time of the trial and W&B together, and of the time from one report to the next,
which needs a machine that does nothing else. The waits are what a run takes longer than that
offline run outside of its epochs, with W&B's own limits for the start and the end of a trial
(WANDB_INIT_TIMEOUT, WANDB_FINISH_TIMEOUT) unless ``--finish-timeout`` says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.sweep.wandb_server import wandb_server  # noqa: E402
from trainables.synthetic.dataset import generate  # noqa: E402

TROUBLES = ("works", "silence", "error", "revoked", "down")
"""What the server does: works, never responds, responds with 500 or 401, refuses connections."""


class Took(NamedTuple):
    """What one run took, in seconds."""

    epoch: float
    """Median epoch, from one report to the next."""
    outside: float
    """Of it, what is not training or validation: W&B's calls, and the report to Ray Tune."""
    wandb_cpu: float
    """CPU time of W&B's process, per epoch."""
    cpu: float
    """CPU time of the trial's worker and W&B's process, per epoch."""
    rest: float
    """All of the run but its epochs."""


def run(folder: Path, name: str, trouble: str, options: argparse.Namespace) -> Took:
    """Run the sweep once; `trouble` is one of `TROUBLES`, or "offline"."""
    out = folder / name
    words = [sys.executable, "-m", "sweep.run", "demo", "--data", str(folder / "data")]
    words += ["--out", str(out), "--wandb", "offline" if trouble == "offline" else "online"]
    changes = ("crop_size=128", f"epochs={options.epochs}")
    words += [word for change in changes for word in ("--set", change)]
    words += ["--only", "architecture=Unet", "task=semantic2"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "RAY_"))}
    # Tune then records every report with its time
    mine = {"PYTHONPATH": str(ROOT), "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0"}
    if options.finish_timeout:
        mine["WANDB_FINISH_TIMEOUT"] = str(options.finish_timeout)
    pinned = ["taskset", "--cpu-list", options.core] if options.core else []
    with wandb_server() as server, open(folder / "log", "w+") as log, ExitStack() as stack:
        if trouble != "offline":
            mine.update(server.environment)
        began, environment = time.monotonic(), {**kept, **mine}
        process = subprocess.Popen(
            [*pinned, *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
        stack.callback(_end, process)
        first = _wait_for_epochs(process, out, 1)
        if trouble == "down":
            server.shutdown()
            server.server_close()
        elif trouble not in ("offline", "works"):
            server.trouble = trouble  # type: ignore[assignment]
        last = _wait_for_epochs(process, out, options.epochs)
        process.wait()
        seconds = time.monotonic() - began
        if process.returncode != 0 or len(reports(out)) != options.epochs:
            raise SystemExit(f"{name}: {(folder / 'log').read_text()}")
    wandb, both = (b - a for a, b in zip(first, last))
    told = reports(out)
    epochs = [one["time_this_iter_s"] for one in told]
    outside = median(one["time_this_iter_s"] - one["seconds"] for one in told[1:])
    later = options.epochs - 1
    return Took(median(epochs[1:]), outside, wandb / later, both / later, seconds - sum(epochs))


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait_for_epochs(process: subprocess.Popen[Any], out: Path, epochs: int) -> tuple[float, float]:
    """Wait until so many epochs were reported; return the CPU seconds so far of W&B's process, and
    of it and the trial's worker.
    """
    driver = psutil.Process(process.pid)
    while len(reports(out)) < epochs:
        if process.poll() is not None:
            raise SystemExit(f"{out.name} ended: {(out.parent / 'log').read_text()}")
        time.sleep(0.05)
    wandb = worker = 0.0
    for one in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used = one.cpu_times().user + one.cpu_times().system
            if one.name().startswith("wandb"):
                wandb += used
            elif "ImplicitFunc" in "".join(one.cmdline()) or "run_trial" in "".join(one.cmdline()):
                worker += used
    if not worker:
        raise SystemExit("the trial's worker was not found")
    return wandb, wandb + worker


def reports(out: Path) -> list[dict[str, Any]]:
    """Return what the trial of a run has reported to Tune so far."""
    lines = [line for path in out.glob("tune/*/*/result.json") for line in path.open()]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def show(trouble: str, pairs: list[tuple[Took, Took]]) -> None:
    """Print a row of the table."""

    def ratio(name: str) -> str:
        ratios = sorted(getattr(there, name) / getattr(offline, name) for offline, there in pairs)
        return f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"

    def seconds(values: list[float]) -> str:
        return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    cpu = seconds([there.wandb_cpu for _, there in pairs])
    outside = seconds([there.outside for _, there in pairs])
    waits = median(there.rest - offline.rest for offline, there in pairs)
    both = f"{ratio('cpu')} | {ratio('epoch')}"
    print(f"| {trouble} | {cpu} | {outside} | {both} | {waits:.0f} |", flush=True)


def main() -> None:
    """Measure, and print one row for each kind of trouble."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=6, help="runs of each kind (default: 6)")
    add("--epochs", type=int, default=12, help="epochs of a trial (default: 12)")
    add("--core", default="1", help="the core that the sweep runs on; '' for all (default: 1)")
    add("--finish-timeout", type=float, default=10, help="0: the default of segsweep (default: 10)")
    add("troubles", nargs="*", default=TROUBLES, metavar="TROUBLE", help=", ".join(TROUBLES))
    options = parser.parse_args()
    if unknown := {*options.troubles} - {*TROUBLES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(TROUBLES)}")
    rounds: list[dict[str, Took]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "data", sequences=9, frames=2, height=192, width=192, seed=1, cells=6)
        with contextlib.suppress(KeyboardInterrupt):  # what was measured is printed
            for number in range(options.rounds):
                order = ["offline", *options.troubles][:: 1 if number % 2 == 0 else -1]
                rounds.append({one: run(folder, f"{one}{number}", one, options) for one in order})
                print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    if not rounds:
        return
    print("medians of the rounds, with smallest and largest; seconds, per epoch")
    print("| W&B | its CPU time | outside of training | CPU time, ratio | time, ratio | waits |")
    print("|---|---|---|---|---|---|")
    for trouble in ("offline", *options.troubles):
        show(trouble, [(one["offline"], one[trouble]) for one in rounds])


if __name__ == "__main__":
    main()
