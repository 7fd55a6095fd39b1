"""Addresses of clusters: whether anything listens there, within seconds; names of their nodes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROCESSES = Path("/proc")
PATIENCE_S = 10.0
"""How long an address may take to accept a connection."""


def knock(address: str) -> None:
    """Raise if nothing listens at ``host:port``; Ray itself would try for minutes.

    Parameters
    ----------
    address : str
        ``host:port`` or ``ray://host:port``; anything else, such as ``auto``, is left to Ray.

    Raises
    ------
    OSError
        When the name is unknown or no connection is made within `PATIENCE_S`.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S):
            pass


class OutsideError(OSError):
    """A cluster responds, but this machine is none of its nodes."""


def check_node(address: str) -> None:
    """Raise if a program that joins the cluster at an address cannot run on this machine; Ray
    itself would try for a minute.

    Parameters
    ----------
    address : str
        ``host:port``; anything else, such as ``auto`` or ``ray://host:port``, is left to Ray.

    Raises
    ------
    OutsideError
        When the address is another machine's, and no Ray node runs on this one.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host or _is_here(host.strip("[]")):
        return
    names = [_name_of(process) for process in PROCESSES.glob("[0-9]*/comm")]
    if names and "raylet" not in names:
        raise OutsideError(
            f"a Ray cluster responds at {address!r}, but this machine is not one of its nodes, and "
            "only these can run this command: log in on the head (ray attach CLUSTER.yaml, or ssh) "
            "and run it there"
        )


def _is_here(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        family, kind, _, _, found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as own:
            own.bind(found)
    except OSError:
        return False
    return True


def _name_of(process: Path) -> str:
    try:
        return process.read_text().strip()
    except OSError:  # it has ended
        return ""


def name_of(node: Mapping[str, Any]) -> str:
    """Return the name of a node in messages.

    Parameters
    ----------
    node : mapping
        One of ``ray.nodes()``.

    Examples
    --------
    >>> name_of({"NodeID": "d1c0ffee42", "NodeManagerHostname": "gpu2",
    ...          "NodeManagerAddress": "10.0.0.2"})
    'node gpu2 (10.0.0.2, d1c0ffee)'
    """
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return f"node {host} ({address}, {node['NodeID'][:8]})"
