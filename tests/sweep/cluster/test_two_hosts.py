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
KNOCK = """
import sys, urllib.request, grpc
SERVICES = (
    "GcsService/GetClusterId", "NodeInfoGcsService/GetAllNodeInfo", "ObjectManagerService/Pull",
    "InternalKVGcsService/InternalKVKeys", "NodeManagerService/GetSystemConfig",
    "NodeManagerService/RequestWorkerLease", "ReporterService/GetTraceback", "LogService/ListLogs",
    "RayletDriver/ClusterInfo", "CoreWorkerService/PushTask", "JobInfoGcsService/GetAllJobInfo",
)
PAGES = ("metrics", "api/jobs/", "logs/", "api/job_agent/jobs/", "get_or_create_runtime_env")
for where in sys.argv[1:]:
    for page in PAGES:
        try:
            urllib.request.urlopen(f"http://{where}/{page}", timeout=2)
            print("ANSWERED", where, page)
        except urllib.error.HTTPError as error:
            print(where, page, error.code)
        except Exception as error:
            print(where, type(error).__name__)
            break
    channel = grpc.insecure_channel(where)
    for service in SERVICES:
        try:
            channel.unary_unary(f"/ray.rpc.{service}")(b"", timeout=2)
            print("ANSWERED", where, service)
        except grpc.RpcError as error:
            print(where, service, error.code().name)
            if error.code().name not in ("UNAUTHENTICATED", "UNIMPLEMENTED"):
                break
"""
"""Asks everything that listens, without a token."""


def test_up_sweep_down_and_nothing_is_left(hosts: Hosts, shared: Path) -> None:
    before = {name: hosts.run(name, STATE).stdout for name in ("h1", "h2")}
    up(hosts)
    # a neighbour without the cluster's token gets nothing
    hosts.write("laptop", "knock.py", KNOCK.encode())
    listening = "ss -Hltn | awk '{print $4}' | grep -v '127.0.0.1' | grep -o '[0-9]*$' | sort -u"
    open_at = [
        f"{address}:{port}"
        for name, address in (("h1", "10.77.0.1"), ("h2", "10.77.0.2"))
        for port in hosts.administer(name, listening).split()
        if port != "22"
    ]
    assert {"10.77.0.1:6379", "10.77.0.1:8076", "10.77.0.2:8076"} <= set(open_at)
    asked = hosts.run("laptop", f"segsweep/.venv/bin/python knock.py {' '.join(open_at)}")
    assert asked.returncode == 0, asked.stderr
    assert "UNAUTHENTICATED" in asked.stdout
    assert "ANSWERED" not in asked.stdout, asked.stdout
    assert " 401" in asked.stdout

    swept = hosts.run("h1", f"cd segsweep && {SWEEP} --detach", seconds=400)
    assert swept.returncode == 0, swept.stdout[-2000:] + swept.stderr[-2000:]
    again = hosts.run("laptop", "cd segsweep && make cluster-up CLUSTER=deploy/lab.yaml")
    assert again.returncode == 2
    assert "10.77.0.1: a sweep runs there (process " in again.stderr
    watched = hosts.run("h2", "cd segsweep && python -m sweep.run --watch /shared/run", seconds=400)
    assert watched.returncode == 0, watched.stdout[-2000:] + watched.stderr[-2000:]
    board = pd.read_csv(shared / "run" / "leaderboard.csv")
    assert board["status"].tolist() == ["done"] * 4
    records = [json.loads(path.read_text()) for path in (shared / "run" / "ledger").glob("*.json")]
    assert len({attempt["node"] for one in records for attempt in one["attempts"]}) == 2

    down = hosts.run("laptop", "cd segsweep && make cluster-down CLUSTER=deploy/lab.yaml")
    assert down.returncode == 0, down.stdout[-2000:] + down.stderr[-2000:]
    for name in ("h1", "h2"):
        assert hosts.run(name, STATE).stdout == before[name]


STATE = (
    "ps -u lab -o comm= | grep -v -E '^(ps|bash|grep|su|sshd|sort)$'; ls -A ~ /tmp | "
    "grep -v -E '^ray_ssh|^torchinductor|^.cache$|^.config$'; "
    "cat ~/.bashrc; ls ~/.segsweep; env | grep RAY"
)
"""Prints what runs and lies on a host, and what its shell has set."""
