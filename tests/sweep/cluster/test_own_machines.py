"""``make cluster-up CLUSTER=deploy/local.yaml``, for real, on hosts with a network of their own.

One host is switched off in the middle of a sweep. `test_two_hosts` is the short form.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.sweep.cluster.hosts import Hosts, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
EPOCHS = 12
SWEEP = (
    "python -m sweep.run demo --wandb off --set crop_size=128 --set checkpoint_seconds=0 "
    f"--set epochs={EPOCHS} --only architecture=Unet task=semantic2,semantic3 --seeds 4"
)
STEAL = """
import os, ray
ray.init("ray://10.77.0.1:10001", log_to_driver=False)
print("RAN ON", ray.get(ray.remote(lambda: os.uname().nodename).remote()))
"""


def records(shared: Path) -> list[dict[str, Any]]:
    """Return what the ledger of the run on shared storage says of each trial."""
    found = (shared / "run" / "ledger").glob("*.json")
    return [json.loads(path.read_text()) for path in found]


def test_the_token_is_what_lets_in(hosts: Hosts, shared: Path) -> None:
    up(hosts)
    hosts.write("laptop", "steal.py", STEAL.encode())
    token = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN="
    steal = "segsweep/.venv/bin/python steal.py"
    for words in (f"env -u RAY_AUTH_MODE {steal}", f"{token}{'0' * 64} {steal}"):
        tried = hosts.run("laptop", words)
        assert tried.returncode != 0
        assert "RAN ON" not in tried.stdout
    secret = hosts.run("h1", "cat .segsweep/token; echo; stat -c %a .segsweep .segsweep/token")
    assert secret.stdout.split()[1:] == ["700", "600"]
    right = hosts.run("laptop", f"{token}{secret.stdout.split()[0]} {steal}")
    assert "RAN ON h" in right.stdout, right.stderr


def test_a_machine_that_is_no_node_says_so_in_seconds(hosts: Hosts, shared: Path) -> None:
    packed = subprocess.run(
        ["tar", "-C", str(shared), "-cf", "-", "data"], capture_output=True, check=True
    ).stdout
    hosts.write("laptop", "data.tar", packed)
    began = time.monotonic()
    outside = hosts.run(
        "laptop",
        "tar xf data.tar && cd segsweep && RAY_ADDRESS=10.77.0.1:6379 .venv/bin/"
        f"{SWEEP} --data ../data --out ../out",
    )
    assert outside.returncode == 2
    assert time.monotonic() - began < 60
    assert "this machine is not one of its nodes" in outside.stderr, outside.stderr


def test_a_host_is_lost_in_the_middle(hosts: Hosts, shared: Path) -> None:
    command = f"{SWEEP} --data /shared/data --out /shared/run"
    # as one starts it before closing the laptop
    script = f"cd segsweep; setsid -f sh -c 'nohup {command}; echo exit $?' > /shared/printed 2>&1"
    hosts.run("h1", script)
    printed = shared / "printed"

    def wait_for(what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not (found := reached(shared)[what]) and time.monotonic() < end:
            time.sleep(1)
        assert found, f"not {what}: {printed.read_text()[-3000:]}"

    wait_for("both hosts have saved", 300)
    (lost,) = {a["node"] for a in attempts_of(shared)} - {node_of(hosts, "h1")}
    hosts.kill("h2")
    wait_for("the command has ended", 900)
    text = printed.read_text()
    print(text)
    assert text.rstrip().endswith("exit 0"), text[-3000:]
    board = pd.read_csv(shared / "run" / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 8
    assert board["trial_id"].is_unique
    history = pd.read_csv(shared / "run" / "history.csv")
    assert history.groupby("trial_id")["epoch"].apply(list).tolist() == [
        [*range(1, EPOCHS + 1)]
    ] * len(board)
    moved = [one for one in records(shared) if lost in {a["node"] for a in one["attempts"][:-1]}]
    assert moved
    assert all(one["attempts"][-1]["node"] != lost for one in moved)


def test_down_says_which_host_does_not_answer_and_cleans_the_other(hosts: Hosts) -> None:
    began = time.monotonic()
    down = hosts.run("laptop", "cd segsweep && make cluster-down CLUSTER=deploy/lab.yaml")
    assert time.monotonic() - began < 100
    assert "10.77.0.2: Ray may still run there" in down.stderr
    left = hosts.run("h1", "ps -u lab -o comm=; ls ~ ~/.segsweep").stdout
    assert not [word for word in ("raylet", "ray_bootstrap", "token") if word in left]
    assert hosts.run("h1", "env | grep RAY; ls -d /tmp/segsweep-*").stdout == ""


def attempts_of(shared: Path) -> list[dict[str, Any]]:
    """Return all attempts at all trials."""
    return [attempt for one in records(shared) for attempt in one["attempts"]]


def reached(shared: Path) -> dict[str, bool]:
    """Return what has been reached."""
    saved = {
        one["attempts"][-1]["node"]
        for one in records(shared)
        if (shared / "run" / "checkpoints" / one["trial_id"] / "resume.json").exists()
    }
    printed = shared / "printed"
    return {
        "both hosts have saved": len(saved) == 2,
        "the command has ended": printed.exists() and "\nexit " in printed.read_text(),
    }


def node_of(hosts: Hosts, name: str) -> str:
    """Return Ray's id of the node on a host."""
    words = (
        "import ray; ray.init(log_to_driver=False); print(ray.get_runtime_context().get_node_id())"
    )
    return hosts.run(name, f'cd segsweep && python -c "{words}"').stdout.split()[-1]
