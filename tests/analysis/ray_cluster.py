"""A Ray of one's own on this machine, for what shares its work among the nodes of a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
