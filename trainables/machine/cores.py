"""How many CPU cores this process may use. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the cores that this process may use: those that it is pinned to, or fewer where a
    container's quota of CPU time (Docker's ``--cpus``, Kubernetes' limits, Slurm) allows fewer.
    """
    if hasattr(os, "sched_getaffinity"):
        pinned = len(os.sched_getaffinity(0))
    else:
        pinned = os.cpu_count() or 1
    quota = cpu_quota()
    # of a core that it gets in part a trial's threads would wait for each other
    return pinned if quota is None else min(pinned, max(1, math.floor(quota + 0.01)))


def cpu_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """Return the cores' worth of CPU time that this process's control groups allow it.

    Parameters
    ----------
    proc : Path
        Names the process's groups.
    cgroups : Path
        Where control groups, of version 1 or 2, are mounted.

    Returns
    -------
    float or None
        The lowest limit of its groups and of those above them; None: no limit, or not Linux.
    """
    limits = [limit for folder in _folders(proc, cgroups) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _folders(proc: Path, cgroups: Path) -> Iterator[Path]:
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2, alone or beside version 1
            mounts = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [cgroups / "cpu", cgroups / controllers]
        else:
            continue
        # a container may see its own group as the root, and get a path that does not exist there
        inside = Path(path.lstrip("/"))
        for mount in mounts:
            for folder in (inside, *inside.parents):
                yield mount / folder


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return None


def keep_to_quota() -> None:
    """Let torch, numba and TensorFlow start no more threads than the quota has cores for.

    These libraries count the cores of the machine. In a container with fewer cores, half of their
    threads stand still and hold up the others. Call this before importing them; it does nothing if
    OMP_NUM_THREADS is set already, or if there is no quota.
    """
    if cpu_quota() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))
