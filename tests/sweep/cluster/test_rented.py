"""What deploy/skypilot.yaml and deploy/rayjob.yaml run on their nodes, for real, on two hosts."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.sweep.cluster.hosts import ROOT, Hosts, check_hosts
from tests.sweep.command_line import nodes_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
OPTIONS = (
    "demo --data /shared/data --wandb off --set crop_size=128 --set epochs=2 --set batch_size=4 "
    "--only architecture=Unet,FPN task=semantic2"
)
RAYS = "pgrep -u lab -l 'raylet|gcs_server'"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Hosts]:
    check_hosts()
    found = Hosts(tmp_path_factory.mktemp("hosts"), shared)
    try:
        found.start()
        for name in ("h1", "h2"):
            found.copy_project(name)
        yield found
    finally:
        found.stop()


def in_background(hosts: Hosts, name: str, script: str, log: Path) -> subprocess.Popen[bytes]:
    words = ["nsenter", "-t", str(hosts.pids[name]), "-a", "--", "su", "-", "lab", "-c"]
    with open(log, "wb") as handle:
        return subprocess.Popen(
            [*words, f"cd segsweep && bash -c {shlex.quote(script)}"],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
        )


def check(out: Path, log: Path) -> None:
    board = pd.read_csv(out / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 2, log.read_text()[-3000:]
    assert len(nodes_of(out)) == 2


def test_skypilot_runs_a_sweep_on_two_nodes(hosts: Hosts, shared: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "deploy" / "skypilot.yaml").read_text())
    started = []
    for rank, name in enumerate(("h1", "h2")):
        variables = {
            "SKYPILOT_NODE_RANK": str(rank),
            "SKYPILOT_NODE_IPS": "10.77.0.1\n10.77.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NUM_GPUS_PER_NODE": "0",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "SWEEP": f"{OPTIONS} --set cpus_per_trial=2",
            "OUT": "/shared/sky",
        }
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in variables.items())
        log = tmp_path / f"{name}.log"
        started.append(in_background(hosts, name, exports + content["run"], log))
    log = tmp_path / "h1.log"
    assert started[0].wait(timeout=600) == 0, log.read_text()[-3000:]
    check(shared / "sky", log)
    assert started[1].wait(timeout=200) == 0, "a worker's end is not a failure of the job"
    assert hosts.run("h1", RAYS).stdout == hosts.run("h2", RAYS).stdout == ""


def test_kuberay_submits_a_sweep_to_its_cluster(hosts: Hosts, shared: Path) -> None:
    job = next(yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text()))["spec"]
    line = job["entrypoint"]
    for before, after in (
        ("/segsweep/deploy", "/home/lab/segsweep/deploy"),
        ("/shared/runs/paper", "/shared/kube"),
        ("paper --data /shared/data/my_data", f"{OPTIONS} --set cpus_per_trial=2"),
        (" --wandb offline", ""),
    ):
        assert line.count(before) == 1
        line = line.replace(before, after)
    token = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" + "fedcba9876543210" * 4
    here = f"{token} PATH=$HOME/segsweep/.venv/bin:$PATH; cd ~/segsweep"
    head = job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    params = " ".join(f"--{name}={value}" for name, value in head.items())
    up = hosts.run("h1", f"{here}; ray start --head --node-ip-address=10.77.0.1 {params}")
    assert up.returncode == 0, up.stderr
    up = hosts.run("h2", f"{here}; ray start --address=10.77.0.1:6379")
    assert up.returncode == 0, up.stderr
    submit = f"{here}; ray job submit --address http://127.0.0.1:8265 -- {line}"
    done = hosts.run("h1", submit, seconds=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (pd.read_csv(shared / "kube" / "leaderboard.csv")["status"] == "done").all()
    again = hosts.run("h1", submit, seconds=200)
    assert again.returncode == 0, "the same line continues, or reports, the sweep"
    assert "nothing to do: all trials of this run have ended" in again.stdout
