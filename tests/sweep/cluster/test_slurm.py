"""``sbatch deploy/segsweep.slurm``, for real, on two nodes that others use, too."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.sweep.cluster.hosts import Hosts, check_hosts
from tests.sweep.cluster.slurm import CONTROLLER, NODES, PACKAGES, Slurm
from tests.sweep.command_line import nodes_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
SWEEP = (
    "SWEEP=(demo --data /shared/data --wandb off --seeds {seeds} --set gpus_per_trial=0 "
    "--set crop_size=128 --set epochs={epochs} --set checkpoint_seconds=0 "
    "--only architecture={networks} task=semantic2)"
)
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY")
OTHER = (
    "cd /tmp && RAY_AUTH_MODE=disabled ~/segsweep/.venv/bin/ray start --head --num-cpus=1 "
    "--disable-usage-stats > other.log 2>&1 && pgrep -x gcs_server"
)
ASK_OTHER = (
    "cd /tmp && RAY_AUTH_MODE=disabled ~/segsweep/.venv/bin/python -c 'import ray; "
    'ray.init("10.77.0.1:6379"); print(len(ray.nodes())); '
    "print(ray.get(ray.remote(lambda: 42).remote()))'"
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Slurm]:
    check_hosts()
    if shutil.which("apt-get") is None:
        pytest.skip("Slurm comes from Debian's packages, and there is no apt-get here")
    hosts = Hosts(tmp_path_factory.mktemp("hosts"), shared, PACKAGES)
    cluster = Slurm(hosts)
    try:
        hosts.start()
        for name in (CONTROLLER, *NODES):
            hosts.copy_project(name)
        cluster.start()
        yield cluster
    finally:
        hosts.stop()
        cluster.stop()


def of_mine(out: str, *, cpus: int, seeds: int, epochs: int, networks: str) -> dict[str, str]:
    """Return what a user enters in the batch file."""
    sweep = SWEEP.format(seeds=seeds, epochs=epochs, networks=networks)
    return {
        "--partition=gpu": "--partition=all",
        "--cpus-per-task=8": f"--cpus-per-task={cpus}",
        "--mem=32G": "--mem=4G",
        "--time=24:00:00": "--time=1:00:00",
        "SWEEP=(paper --data /shared/data/my_data)": sweep,
        "OUT=/shared/runs/paper": f"OUT=/shared/{out}",
        "--output=segsweep-%j.out": f"--output=/shared/{out}.txt",
    }


def wait(what: Callable[[], bool], log: Path, *, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not what():
        said = log.read_text() if log.exists() else "the job has not started"
        assert time.monotonic() < end, said[-4000:]
        time.sleep(1)


def left_of(slurm: Slurm, job: int, out: str) -> str:
    """Return what is left of a job on both nodes: folders, and numbers of processes."""
    left = f"ls -d /tmp/ray-{job}-* 2>/dev/null; pgrep -u lab -f 'ray-{job}-|/shared/{out} '"
    return "".join(slurm.hosts.run(name, left).stdout for name in NODES)


def done(out: Path) -> int:
    entries = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    return sum(entry["status"] == "done" for entry in entries)


def test_stopped_three_times_and_every_trial_is_there_once(slurm: Slurm, shared: Path) -> None:
    other = slurm.hosts.run("h1", OTHER)
    assert other.returncode == 0, other.stdout + other.stderr
    out, log = shared / "run", shared / "run.txt"
    mine = of_mine("run", cpus=2, seeds=2, epochs=4, networks="Unet,FPN,Linknet,PAN")
    job = slurm.submit("mine.slurm", mine)
    states = out / "checkpoints"
    wait(lambda: any(states.glob("*/resume.json")), log)
    assert "Ray runs on 2 of 2 nodes" in log.read_text()

    # what Slurm sends before the time is over
    slurm.ask(f"scancel --batch --signal=USR1 {job}")
    slurm.start_again(job)
    assert "interrupted; run the same command with --resume to continue" in log.read_text()
    assert "the time is nearly over; the job is queued again" in log.read_text()
    assert left_of(slurm, job, "run") == ""

    # what Slurm does for a job that may have the nodes first
    before = done(out)
    wait(lambda: done(out) > before, log)
    slurm.ask(f"scontrol requeue {job}")
    slurm.start_again(job)
    assert left_of(slurm, job, "run") == ""

    # Ray dies on a node, and starts again there
    before = done(out)
    wait(lambda: done(out) > before, log)
    killed = slurm.hosts.run("h2", "pkill -KILL -x raylet")
    assert killed.returncode == 0
    wait(lambda: slurm.state(job) in ENDED, log, seconds=900)

    text = log.read_text()
    assert slurm.shown(job)["JobState"] == "COMPLETED", text[-4000:]
    assert slurm.shown(job)["ExitCode"] == "0:0"
    assert slurm.shown(job)["Restarts"] == "2"
    assert text.count("Ray runs on 2 of 2 nodes") == 3
    assert "h2: Ray has ended on this node: " in text
    board = pd.read_csv(out / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 8
    assert board["trial_id"].is_unique
    history = pd.read_csv(out / "history.csv")
    assert not history.duplicated(["trial_id", "epoch"]).any()
    assert len(history) == 8 * 4
    assert left_of(slurm, job, "run") == ""
    print(text)

    # the other Ray of this user never noticed
    assert slurm.hosts.run("h1", "pgrep -x gcs_server").stdout == other.stdout
    assert slurm.hosts.run("h1", ASK_OTHER).stdout.split() == ["1", "42"]


def test_two_jobs_at_once_one_is_cancelled(slurm: Slurm, shared: Path) -> None:
    jobs = {}
    for name in ("a", "b"):
        mine = of_mine(name, cpus=1, seeds=1, epochs=2, networks="Unet,FPN")
        jobs[name] = slurm.submit(f"{name}.slurm", mine)
    for name in jobs:
        log = shared / f"{name}.txt"
        wait(lambda: any((shared / name / "checkpoints").glob("*/resume.json")), log)  # noqa: B023
        assert "Ray runs on 2 of 2 nodes" in log.read_text()
    slurm.ask(f"scancel {jobs['a']}")
    wait(lambda: slurm.state(jobs["a"]) == "CANCELLED", shared / "a.txt", seconds=60)
    assert left_of(slurm, jobs["a"], "a") == ""
    wait(lambda: slurm.state(jobs["b"]) in ENDED, shared / "b.txt")
    assert slurm.state(jobs["b"]) == "COMPLETED", (shared / "b.txt").read_text()[-4000:]
    assert pd.read_csv(shared / "b" / "leaderboard.csv")["status"].tolist() == ["done"] * 2
    assert left_of(slurm, jobs["b"], "b") == ""


def test_a_node_is_lost_and_the_rest_goes_on(slurm: Slurm, shared: Path) -> None:
    out, log = shared / "c", shared / "c.txt"
    mine = of_mine("c", cpus=1, seeds=2, epochs=6, networks="Unet,FPN")
    job = slurm.submit("c.slurm", mine)
    # with one core on each node, two trials are on two nodes
    wait(lambda: len(nodes_of(out)) == 2 and any(out.glob("checkpoints/*/resume.json")), log)
    slurm.hosts.kill("h2")
    wait(lambda: slurm.state(job) in ENDED, log, seconds=900)
    assert slurm.state(job) == "COMPLETED", log.read_text()[-4000:]
    board = pd.read_csv(out / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 4
    assert len(pd.read_csv(out / "history.csv")) == 4 * 6
    assert slurm.shown(job)["Restarts"] == "0"
    assert slurm.hosts.run("h1", f"ls -d /tmp/ray-{job}-*").stdout == ""
