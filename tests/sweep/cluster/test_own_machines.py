"""``make cluster-up CLUSTER=deploy/local.yaml``, for real, on hosts with a network of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.sweep.cluster.hosts import ROOT, Hosts, lacking
from trainables.synthetic.dataset import generate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "hosts can be made"),
]
STEAL = """
import os, ray
ray.init("ray://10.77.0.1:10001", log_to_driver=False)
print("RAN ON", ray.get(ray.remote(lambda: os.uname().nodename).remote()))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    generate(folder / "data", sequences=9, frames=1, height=160, width=160, seed=1, cells=4)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Hosts]:
    found = Hosts(tmp_path_factory.mktemp("hosts"), shared)
    try:
        found.start()
        found.copy_project("laptop")
        text = (ROOT / "deploy" / "local.yaml").read_text()
        for before, after in (("192.0.2.1 ", "10.77.0.1 "), ("[192.0.2.2] ", "[10.77.0.2] ")):
            assert before in text
            text = text.replace(before, after)
        found.write("laptop", "segsweep/deploy/lab.yaml", text.encode())
        yield found
    finally:
        found.stop()


def test_up_sweep_down_and_nothing_is_left(hosts: Hosts, shared: Path) -> None:
    up = hosts.run("laptop", "cd segsweep && make cluster-up CLUSTER=deploy/lab.yaml", seconds=300)
    assert up.returncode == 0, up.stdout[-2000:] + up.stderr[-2000:]
    waiting = "for k in $(seq 60); do ray status | grep -q '/[34].0 CPU' && break; sleep 1; done; "
    seen = hosts.run("h1", f"{waiting} ray status")
    assert "2 local.cluster.node" in seen.stdout, seen.stdout + seen.stderr

    # a neighbour without the token gets nothing, one with it does
    hosts.write("laptop", "steal.py", STEAL.encode())
    token = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN="
    steal = "segsweep/.venv/bin/python steal.py"
    for words in (f"env -u RAY_AUTH_MODE {steal}", f"{token}{'0' * 64} {steal}"):
        tried = hosts.run("laptop", words)
        assert tried.returncode != 0
        assert "RAN ON" not in tried.stdout
    secret = hosts.run(
        "h1", "cat .segsweep/token; echo; stat -c %a .segsweep .segsweep/token"
    ).stdout
    assert secret.split()[1:] == ["700", "600"]
    right = hosts.run("laptop", f"{token}{secret.split()[0]} {steal}")
    assert "RAN ON h1" in right.stdout, right.stderr

    # a machine that is no node says so in seconds
    command = "python -m sweep.run demo --data {data} --out {out} --wandb off --set epochs=2 "
    command += "--set crop_size=128 --only architecture=Unet task=semantic2,semantic3"
    packed = subprocess.run(
        ["tar", "-C", str(shared), "-cf", "-", "data"], capture_output=True, check=True
    ).stdout
    hosts.write("laptop", "data.tar", packed)
    began = time.monotonic()
    outside = hosts.run(
        "laptop",
        "tar xf data.tar && cd segsweep && RAY_ADDRESS=10.77.0.1:6379 .venv/bin/"
        + command.format(data="../data", out="../out"),
    )
    assert outside.returncode == 2
    assert time.monotonic() - began < 40
    assert "this machine is not one of its nodes" in outside.stderr, outside.stderr

    # both hosts train
    swept = hosts.run(
        "h1",
        f"cd segsweep && {command.format(data='/shared/data', out='/shared/run')} --seeds 2",
        seconds=400,
    )
    assert swept.returncode == 0, swept.stdout[-2000:] + swept.stderr[-2000:]
    board = pd.read_csv(shared / "run" / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 4
    records = [json.loads(path.read_text()) for path in (shared / "run" / "ledger").glob("*.json")]
    assert len({attempt["node"] for one in records for attempt in one["attempts"]}) == 2

    down = hosts.run("laptop", "cd segsweep && make cluster-down CLUSTER=deploy/lab.yaml")
    assert down.returncode == 0, down.stdout[-2000:] + down.stderr[-2000:]
    for name in ("h1", "h2"):
        left = hosts.run(name, "ps -u lab -o comm=; ls ~ ~/.segsweep")
        assert "raylet" not in left.stdout
        assert "ray_bootstrap" not in left.stdout
        assert "token" not in left.stdout
