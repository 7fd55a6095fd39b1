"""A Ray cluster that is nothing but a head, whose real autoscaler starts nodes on this machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMANDS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""What ``ray up`` fills in."""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def fresh_cluster(folder: Path, monkeypatch: Any, types: dict[str, Any]) -> Iterator[Any]:
    """Start a head without cores and an autoscaler.

    Parameters
    ----------
    folder : Path
        For the autoscaler's configuration.
    monkeypatch
    types : dict
        ``available_node_types`` besides the head's.
    """
    import ray
    from ray.cluster_utils import Cluster

    for name, value in (
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_FAKE_CLUSTER", "1"),
        ("AUTOSCALER_UPDATE_INTERVAL_S", "1"),
        ("RAY_enable_autoscaler_v2", "0"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    port, path = _free_port(), folder / "autoscaling.yaml"
    address = f"{ray._private.services.get_node_ip_address()}:{port}"
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "fresh",
        "max_workers": 8,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_launch_config_check": True,
            "disable_node_updaters": True,
        },
        "available_node_types": {"ray.head.default": head, **types},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in COMMANDS},
    }
    path.write_text(json.dumps(config))
    arguments = {
        "num_cpus": 0,
        "include_dashboard": False,
        "gcs_server_port": port,
        "autoscaling_config": str(path),
    }
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield cluster
    finally:
        cluster.shutdown()
