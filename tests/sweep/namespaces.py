"""Nodes of a Ray cluster on this machine that see other disks, by mount namespaces (Linux, root).

A thread moves to a mount namespace of its own and hides folders there; what it starts stays in it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 0x40000


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def without(folders: Iterable[Path], function: Callable[[], Any]) -> Any:
    """Call a function where empty disks lie over the given folders.

    Raises
    ------
    OSError
        Where this process may not do that.
    """

    def inside() -> Any:
        _call("unshare", CLONE_NEWNS)
        _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        for folder in folders:
            path = os.fsencode(folder)
            _call("mount", b"tmpfs", path, b"tmpfs", ctypes.c_ulong(0), b"size=64m")
        return function()

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(inside).result()


def add_blind_node(cluster: Any, *hidden: Path, **arguments: Any) -> Any:
    """Add a node to a ``ray.cluster_utils.Cluster`` from which folders are hidden."""
    # signal handlers can be set in the main thread only; the cluster ends the node all the same
    before, cluster._shutdown_at_exit = cluster._shutdown_at_exit, False
    try:
        return without(hidden, lambda: cluster.add_node(**arguments))
    finally:
        cluster._shutdown_at_exit = before


def hide_from(pid: int, folder: Path) -> None:
    """Lay an empty disk over a folder in the mount namespace of a running process."""

    def inside() -> None:
        _call("unshare", CLONE_NEWNS)  # a thread that shares its folder with others may not move
        with open(f"/proc/{pid}/ns/mnt") as place:
            _call("setns", place.fileno(), CLONE_NEWNS)
        _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), b"size=512m")

    with ThreadPoolExecutor(1) as threads:
        threads.submit(inside).result()


def available() -> bool:
    """Whether this process may make mount namespaces."""
    try:
        without((), lambda: None)
    except (OSError, AttributeError):
        return False
    return True
