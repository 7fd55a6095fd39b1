"""Check within seconds whether anything listens at an address."""

from __future__ import annotations

import socket

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
