"""The short form of test_own_machines.py, which CI runs: up, a sweep over both hosts, down."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.sweep.cluster.hosts import Hosts, up

pytestmark = pytest.mark.slow
SWEEP = (
    "python -m sweep.run demo --data /shared/data --out /shared/run --wandb off --set epochs=2 "
    "--set crop_size=128 --only architecture=Unet task=semantic2,semantic3 --seeds 2"
)
STEAL = """
import ray
ray.init("ray://10.77.0.1:10001", log_to_driver=False)
print("RAN")
"""


def test_up_sweep_down_and_nothing_is_left(hosts: Hosts, shared: Path) -> None:
    up(hosts)
    # a neighbour without the cluster's token gets nothing
    hosts.write("laptop", "steal.py", STEAL.encode())
    tried = hosts.run("laptop", "env -u RAY_AUTH_MODE segsweep/.venv/bin/python steal.py")
    assert tried.returncode != 0
    assert "RAN" not in tried.stdout

    swept = hosts.run("h1", f"cd segsweep && {SWEEP}", seconds=400)
    assert swept.returncode == 0, swept.stdout[-2000:] + swept.stderr[-2000:]
    board = pd.read_csv(shared / "run" / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 4
    records = [json.loads(path.read_text()) for path in (shared / "run" / "ledger").glob("*.json")]
    assert len({attempt["node"] for one in records for attempt in one["attempts"]}) == 2

    down = hosts.run("laptop", "cd segsweep && make cluster-down CLUSTER=deploy/lab.yaml")
    assert down.returncode == 0, down.stdout[-2000:] + down.stderr[-2000:]
    for name in ("h1", "h2"):
        left = hosts.run(name, "ps -u lab -o comm=; ls ~ ~/.segsweep").stdout
        assert not [word for word in ("raylet", "ray_bootstrap", "token") if word in left]
