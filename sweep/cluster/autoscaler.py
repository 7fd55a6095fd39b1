"""The nodes that a cluster's autoscaler may still start.

A new cluster has only a head node; GPUs join when trials wait for them. The configuration that the
autoscaler was started with, on the head node, says which nodes these are.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROCESSES = Path("/proc")
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Place of this configuration on the head node after ``ray up``."""
TYPE_RESOURCE, TYPE_LABEL = "accelerator_type:", "ray.io/accelerator-type"


@dataclass(frozen=True)
class Offer:
    """The resources that an autoscaler may start in addition to the head node."""

    cpus: float = 0.0
    gpus: float = 0.0
    gpu_name: str = ""
    """Ray's name for the type of GPU, if there is only one type and it is known."""


def offered(gcs_address: str) -> Offer | None:
    """Return the resources that the autoscaler of a cluster may start.

    Parameters
    ----------
    gcs_address : str
        ``host:port`` of the cluster, as Ray writes it.

    Returns
    -------
    Offer or None
        None if this machine does not run the cluster's autoscaler.
    """
    path = _config_path(gcs_address)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    except (OSError, yaml.YAMLError):
        return None
    return read_offer(content) if isinstance(content, dict) else None


def address_here(address: str) -> str:
    """Return Ray's own address of a cluster, without joining it, if its autoscaler runs on this
    machine; otherwise return the address unchanged.

    Parameters
    ----------
    address : str
        Address from the user: ``auto``, or ``host:port`` with any name of this machine.
    """
    running = list(_autoscalers())
    if address == "auto":
        return running[0] if len(running) == 1 else address
    host, _, port = address.rpartition(":")
    return next((one for one in running if _same_host(host, port, one)), address)


def _same_host(host: str, port: str, running: str) -> bool:
    """Whether an address means the same port of this machine as its autoscaler's address."""
    own, _, own_port = running.rpartition(":")
    if port != own_port:
        return False
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    return own in found or any(one.startswith("127.") or one == "::1" for one in found)


def _config_path(gcs_address: str) -> Path | None:
    """Return the file that the autoscaler's own command line names."""
    if not PROCESSES.is_dir():  # not Linux
        path = BOOTSTRAP.expanduser()
        return path if path.is_file() else None
    return _autoscalers().get(gcs_address)


def _autoscalers() -> dict[str, Path]:
    """Return the configurations of this machine's autoscalers, by their clusters' addresses."""
    found = {}
    for words in _command_lines():
        options = dict(
            word.split("=", 1) for word in words if word.startswith("--") and "=" in word
        )
        if "--gcs-address" in options and "--autoscaling-config" in options:
            found[options["--gcs-address"]] = Path(options["--autoscaling-config"])
    return found


def _command_lines() -> Iterator[list[str]]:
    for path in PROCESSES.glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:  # it has ended, or is not ours to see
            continue
        if "monitor.py" in text:
            yield text.split("\0")


def read_offer(content: Mapping[str, Any]) -> Offer:
    """Return the resources that a cluster's configuration offers.

    Parameters
    ----------
    content : mapping
        Content of the file for ``ray up``, or of the one that Ray makes from it.

    Examples
    --------
    >>> read_offer({"max_workers": 4, "head_node_type": "h", "available_node_types": {
    ...     "h": {"resources": {"CPU": 0}},
    ...     "w": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 8}}})
    Offer(cpus=32.0, gpus=4.0, gpu_name='')
    """
    head, most = content.get("head_node_type"), content.get("max_workers")
    types = content.get("available_node_types") or {}
    nodes: list[tuple[float, float, str]] = []
    for name, kind in types.items():
        resources = kind.get("resources") or {}
        count = kind.get("max_workers", 0 if name == head else most)
        each = (float(resources.get("GPU", 0)), float(resources.get("CPU", 0)))
        nodes += [(*each, _gpu_name(kind, resources))] * int(count or 0)
    # where not all may start, Ray chooses; trials that want GPUs get those that have most
    nodes = sorted(nodes, key=lambda node: -node[0])[: None if most is None else int(most)]
    names = {name for gpus, _, name in nodes if gpus}
    return Offer(
        sum(cpus for _, cpus, _ in nodes),
        sum(gpus for gpus, _, _ in nodes),
        names.pop() if len(names) == 1 else "",
    )


def _gpu_name(kind: Mapping[str, Any], resources: Mapping[str, Any]) -> str:
    named = [key.removeprefix(TYPE_RESOURCE) for key in resources if TYPE_RESOURCE in key]
    return (kind.get("labels") or {}).get(TYPE_LABEL) or next(iter(named), "")
