"""A Ray of one's own on this machine, for what shares its work among the nodes of a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

CLUSTER = """
import sys, ray
ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False,
         object_store_memory=100 * 2**20, _temp_dir=sys.argv[1], log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
OPEN = {"RAY_AUTH_MODE": "disabled"}
"""Whatever token an earlier Ray left in the home folder."""


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Start a Ray of two cores; yield its address."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets' paths must be short
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | OPEN
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, folder],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=kept,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=500)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster_of_nodes(*environments: Mapping[str, str], cpus: int = 1) -> Iterator[Any]:
    """Start a Ray with a node for each environment; yield its `ray.cluster_utils.Cluster`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        from ray.cluster_utils import Cluster

        cluster = None
        try:
            for environment in environments:
                with pytest.MonkeyPatch.context() as own:
                    for name, value in environment.items():
                        own.setenv(name, value)
                    if cluster is None:
                        head = {"num_cpus": cpus, "include_dashboard": False}
                        cluster = Cluster(initialize_head=True, head_node_args=head)
                    else:
                        cluster.add_node(num_cpus=cpus)
            yield cluster
        finally:
            if cluster is not None:
                cluster.shutdown()


def raylet_of(node: Any) -> psutil.Process:
    """Return the process of a node that starts its workers."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def workers_of(node: Any, name: str = "") -> list[psutil.Process]:
    """Return a node's workers that do something: Ray names their processes after it."""
    found = []
    for one in raylet_of(node).children():
        try:
            words = " ".join(one.cmdline())
        except psutil.Error:
            continue
        idle = "IDLE" in words or "Agent" in words
        if words.startswith("ray::") and not idle and name in words:
            found.append(one)
    return found


def kill_node(node: Any) -> None:
    """Kill a node's raylet and all that it has started, at once."""
    raylet = raylet_of(node)
    for one in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
