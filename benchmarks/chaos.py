"""Is anything lost when processes are killed? ``python benchmarks/chaos.py [--kills 30]``.

A real sweep of small networks runs once undisturbed, and once while its driver, the workers of its
trials and Ray's raylets are killed (SIGKILL) at random moments; a driver that has ended is started
again with ``--resume`` until all trials are done. With ``--nodes 2`` it runs on a Ray cluster of
two nodes on this machine, one of which can die while the other continues, else on a private Ray.

Every network counts its training steps in its own weights and appends each one to a file, so that
what was computed twice is known from those who computed it. It prints a table of all kills, and
one line for each promise; the exit code is 1 when one is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from counted import Step, read_steps, repeated, write_space

ROOT = Path(__file__).resolve().parents[1]
MARK = "SEGSWEEP_CHAOS"
"""Variable in the environment of all processes of this run."""
PATIENCE = 300.0
"""Seconds after which a driver that has not ended by itself counts as hanging."""
DIFFER = {
    "leaderboard.csv": {
        "train_seconds",
        "peak_memory_mb",
        "checkpoint",
        "wandb_id",
        "trials_beside",
    },
    "history.csv": {"seconds"},
    "per_image.csv": set[str](),
}
"""Columns that no two runs have in common."""


@dataclass
class Kill:
    """One process that was killed."""

    what: str
    at: float
    until_step: float | None = None
    """Seconds until the first training step of a further attempt."""
    driver_ended: float | None = None
    """Seconds until the driver ended by itself; None where it did not have to."""


@dataclass
class Run:
    """A sweep in a folder of its own, and what happened to it."""

    folder: Path
    out: Path
    arguments: argparse.Namespace
    kills: list[Kill] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    reads: int = 0

    @property
    def record(self) -> Path:
        """File of all training steps."""
        return self.folder / "steps.txt"

    def prepare(self) -> None:
        """Write the search space and its networks."""
        self.folder.mkdir(parents=True)
        asked = self.arguments
        write_space(self.folder, self.record, asked.trials, asked.epochs, asked.pause)

    def start(self, address: str | None) -> subprocess.Popen[bytes]:
        """Start the driver; resume where there is a plan."""
        words = [sys.executable, "-m", "sweep.run", "space.py", "--out", str(self.out)]
        words += ["--wandb", "off", "--set", "checkpoint_seconds=0", "--set", "cpus_per_trial=1"]
        words += ["--address", address] if address else []
        words += ["--resume"] if (self.out / "plan.json").exists() else []
        drop = ("RAY_ADDRESS", "WANDB_API_KEY")
        environment = {k: v for k, v in os.environ.items() if k not in drop}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        with open(self.folder / "said.txt", "ab") as log:
            log.write(f"--- {time.strftime('%H:%M:%S')} {words[3:]}\n".encode())
            log.flush()
            return subprocess.Popen(
                words, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def steps(self) -> list[Step]:
        """Return all steps that workers have recorded."""
        return read_steps(self.record)


def marked() -> list[psutil.Process]:
    """Return the processes of this run, other than this one."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.pid != os.getpid() and one.environ().get(MARK) == os.environ[MARK]:
                found.append(one)
    return found


def named(start: str) -> list[psutil.Process]:
    """Return the processes of this run whose command begins like this, the oldest first."""
    found = []
    for one in marked():
        with contextlib.suppress(psutil.Error):
            words = one.cmdline()
            if words and (words[0].startswith(start) or Path(words[0]).name == start):
                found.append(one)
    return sorted(found, key=lambda one: (one.create_time(), one.pid))


class Nodes:
    """A Ray cluster of two nodes on this machine, one core each; without nodes a private Ray."""

    def __init__(self, count: int) -> None:
        self.count, self.cluster = count, None
        self.others: list[Any] = []

    @property
    def address(self) -> str | None:
        """Where the driver joins; None: it starts a private Ray."""
        return self.cluster.address if self.cluster else None

    def make(self) -> None:
        """Start the cluster, if it has ended, and the nodes that are missing."""
        if not self.count:
            return
        from ray.cluster_utils import Cluster

        if self.cluster is not None and not alive(self.cluster.head_node):
            self.end()
        if self.cluster is None:
            head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**28}
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for node in [one for one in self.others if not alive(one)]:
            self.cluster.remove_node(node, allow_graceful=False)
            self.others.remove(node)
        while len(self.others) < self.count - 1:
            self.others.append(self.cluster.add_node(num_cpus=1, object_store_memory=2**28))

    def raylets(self) -> dict[str, int]:
        """Return the process ids of the raylets by what they are to the driver."""
        if self.cluster is None:
            own = named("raylet")
            return {"local raylet": own[-1].pid} if own else {}
        nodes = [("raylet of the head", self.cluster.head_node)]
        nodes += [("raylet of another node", node) for node in self.others]
        return {name: raylet_of(node).pid for name, node in nodes if alive(node)}

    def end(self) -> None:
        """Stop the cluster."""
        if self.cluster is not None:
            self.cluster.shutdown()
        self.cluster, self.others = None, []


def raylet_of(node: Any) -> Any:
    (info,) = node.all_processes["raylet"]
    return info.process


def alive(node: Any) -> bool:
    return "raylet" in node.all_processes and raylet_of(node).poll() is None


def victims(driver: subprocess.Popen[bytes], nodes: Nodes) -> dict[str, int]:
    """Return what may be killed now, by kind: process ids."""
    found = {"driver": driver.pid, **nodes.raylets()}
    workers = [one for one in named("ray::") if "IDLE" not in " ".join(one.cmdline())]
    if workers:
        found["worker"] = random.choice(workers).pid
    return found


def read_all(run: Run, ended: threading.Event) -> None:
    """Read the tables and records again and again, as others do; note what is not whole."""
    while not ended.wait(0.1):
        patterns = ("*.csv", "*.json", "ledger/*.json")
        for path in [one for pattern in patterns for one in run.out.glob(pattern)]:
            try:
                text = path.read_text()
            except FileNotFoundError:
                continue
            run.reads += 1
            with contextlib.suppress(ValueError):
                if path.suffix == ".json":
                    json.loads(text)
                    continue
                rows = list(csv.reader(text.splitlines()))
                if text.endswith("\n") and len({len(row) for row in rows}) == 1:
                    continue
            run.broken.append(f"{path.name} was read half-written ({len(text)} characters)")


def disturb(run: Run, nodes: Nodes, most: int) -> None:
    """Run a sweep to its end, and kill something of it at random moments."""
    ended = threading.Event()
    reader = threading.Thread(target=read_all, args=(run, ended))
    reader.start()
    try:
        for _ in range(4 * most + 4):
            nodes.make()
            driver = run.start(nodes.address)
            code = _until_it_ends(run, driver, nodes, most)
            run.codes.append(code)
            if code == 0:
                return
        run.broken.append(f"the sweep did not end; its drivers ended with {run.codes}")
    finally:
        ended.set()
        reader.join()


def _until_it_ends(run: Run, driver: subprocess.Popen[bytes], nodes: Nodes, most: int) -> int:
    """Kill processes until the driver ends; return its exit code."""
    while driver.poll() is None:
        if len(run.kills) >= most:
            driver.wait()
            break
        if not _wait_for_the_moment(run, driver):
            break
        found = victims(driver, nodes)
        kind = random.choice(sorted(found))
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(found[kind]).kill()
            run.kills.append(Kill(kind, time.time()))
            print(f"{time.strftime('%H:%M:%S')} kill {len(run.kills)}: {kind}", flush=True)
        if kind == "driver":
            driver.wait()
        elif kind in ("local raylet", "raylet of the head"):
            began = time.time()
            try:
                driver.wait(PATIENCE)
                run.kills[-1].driver_ended = time.time() - began
            except subprocess.TimeoutExpired:
                run.broken.append(f"the driver hung for {PATIENCE:.0f} s after its raylet had died")
                driver.kill()
                driver.wait()
        else:
            nodes.make()
    return driver.returncode


def _wait_for_the_moment(run: Run, driver: subprocess.Popen[bytes]) -> bool:
    """Wait for a random time: one in five from now on, which may be while all is starting, else
    once something trains. Return whether the driver is still there.
    """
    if random.random() < 0.2:
        end = time.time() + random.uniform(0, 25)
    else:
        before, size = time.time(), run.record.stat().st_size if run.record.exists() else 0
        while not run.record.exists() or run.record.stat().st_size == size:
            if driver.poll() is not None:
                return False
            time.sleep(0.05)
            if time.time() - before > PATIENCE:
                run.broken.append(f"nothing trained for {PATIENCE:.0f} s")
                driver.kill()
        end = time.time() + random.uniform(0, run.arguments.delay)
    while time.time() < end:
        if driver.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [{k: v for k, v in row.items() if k not in DIFFER[path.name]} for row in rows]


def check(run: Run, calm: Run) -> list[float]:
    """Add what is broken to a run; return the epochs that were computed once more, by attempt."""
    plan = json.loads((calm.out / "plan.json").read_text())
    wanted = Counter(one["trial_id"] for one in plan["trials"])
    there = Counter(row["trial_id"] for row in table(run.out / "leaderboard.csv"))
    if there != wanted:
        many, lost = there - wanted, wanted - there
        run.broken.append(f"trials in the leaderboard: too many {many}, lost {lost}")
    if (status := {row["status"] for row in table(run.out / "leaderboard.csv")}) != {"done"}:
        run.broken.append(f"status of trials: {status}")
    for name in DIFFER:
        if table(run.out / name) != table(calm.out / name):
            run.broken.append(f"{name} differs from that of the undisturbed run")
    per_epoch = len(calm.steps()) / (calm.arguments.trials * calm.arguments.epochs)
    again = repeated(run.steps(), per_epoch)
    if max(again, default=0) > 1:
        run.broken.append(f"an attempt computed {max(again):.2f} epochs once more")
    distinct = len({(step.trial, step.number) for step in run.steps()})
    if distinct != len(calm.steps()):
        run.broken.append(f"{distinct} different steps, {len(calm.steps())} in the undisturbed run")
    return again


def orphans() -> list[str]:
    """Return what is still running of this run three minutes after its end."""
    end = time.time() + 180
    while (left := marked()) and time.time() < end:
        time.sleep(1)
    return [" ".join(one.cmdline())[:60] for one in left if one.is_running()]


def _measure(run: Run) -> None:
    """Note for each kill how long it took until a further attempt trained."""
    begun: dict[str, float] = {}
    for step in run.steps():
        begun.setdefault(step.instance, step.time)
    for kill in run.kills:
        later = [moment for moment in begun.values() if moment > kill.at]
        kill.until_step = min(later) - kill.at if later else None


def report(runs: list[Run], again: list[float], left: list[str]) -> int:
    """Print what was done and what came of it; return the exit code."""
    kills = [kill for run in runs for kill in run.kills]
    last = "until a next attempt trained, s (median, most)"
    print(f"\n{'killed':26}{'times':>6}{'driver ended by itself':>26}{last:>50}")
    for kind, count in sorted(Counter(kill.what for kill in kills).items()):
        those = [kill for kill in kills if kill.what == kind]
        ended = [kill.driver_ended for kill in those if kill.driver_ended is not None]
        until = sorted(kill.until_step for kill in those if kill.until_step is not None)
        said = f"after {max(ended):.0f} s at most" if ended else "-"
        times = f"{until[len(until) // 2]:.0f}, {until[-1]:.0f}" if until else "-"
        print(f"{kind:26}{count:6}{said:>26}{times:>50}")
    codes = Counter(code for run in runs for code in run.codes)
    print(f"\nsweeps: {len(runs)}, drivers' exit codes (-9: killed): {dict(codes)}")
    mean, most = sum(again) / max(1, len(again)), max(again, default=0)
    print(
        f"attempts that continued a trial: {len(again)}; epochs that each computed once more: "
        f"mean {mean:.2f}, most {most:.2f}"
    )
    print(f"tables and records read meanwhile: {sum(run.reads for run in runs)}")
    broken = [line for run in runs for line in run.broken]
    broken += [f"still running at the end: {line}" for line in left]
    for line in dict.fromkeys(broken):
        print(f"BROKEN: {line}")
    if not broken:
        print(
            "every trial is there once and done, the tables equal those of the undisturbed run, no "
            "kill cost more than one epoch, no file was read half-written, nothing is left running"
        )
    return 1 if broken else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Kill parts of a sweep at random moments.")
    add = made.add_argument
    add("--kills", type=int, default=30)
    add("--seed", type=int, default=0)
    add("--nodes", type=int, default=0, help="2: a cluster of two nodes; default: a private Ray")
    add("--trials", type=int, default=6)
    add("--epochs", type=int, default=30)
    add("--pause", type=float, default=0.1, help="seconds that each training step waits")
    add("--delay", type=float, default=10.0, help="longest wait for a kill once something trains")
    add("--folder", type=Path, help="keep everything there")
    return made


def main() -> int:
    arguments = parser().parse_args()
    random.seed(arguments.seed)
    os.environ[MARK] = uuid.uuid4().hex
    os.environ.pop("RAY_ADDRESS", None)
    if arguments.nodes:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="chaos"))
    calm = Run(folder / "calm", folder / "calm" / "run", arguments)
    calm.prepare()
    nodes = Nodes(arguments.nodes)
    runs: list[Run] = []
    again: list[float] = []
    try:
        nodes.make()
        if calm.start(nodes.address).wait():
            print(f"the undisturbed sweep failed: see {calm.folder / 'said.txt'}")
            return 1
        print(f"undisturbed: {len(calm.steps())} steps", flush=True)
        while (done := sum(len(run.kills) for run in runs)) < arguments.kills:
            run = Run(folder / f"rough{len(runs)}", folder / f"rough{len(runs)}" / "run", arguments)
            runs.append(run)
            run.prepare()
            disturb(run, nodes, arguments.kills - done)
            _measure(run)
            if not run.broken or run.codes[-1] == 0:
                again += check(run, calm)
    finally:
        nodes.end()
    return report(runs, again, orphans())


if __name__ == "__main__":
    sys.exit(main())
