"""Where a sweep runs: on the named Ray cluster, or on a private one on this machine."""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep.cluster.watch import watched
from sweep.request import RequestError
from sweep.resources import Node, Resources
from trainables.machine.addresses import OutsideError, check_node, knock
from trainables.machine.cores import usable_cpus
from trainables.machine.hardware import count_gpus

PACKAGES = ("sweep", "trainables", "search_spaces")
"""Packages of this project that workers need; uploaded with the job, so that they run this copy."""


def _quiet_environment() -> None:
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # Ray's own handler would abort the driver at SIGTERM
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray gives its metrics to everybody on the network, without a token; -1 is no port
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("AUTOSCALER_METRIC_PORT", "-1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")


@contextmanager
def ray_session(
    address: str | None,
    gpus: int | None,
    modules: Sequence[Path] = (),
    say: Callable[[str], object] = print,
) -> Iterator[Resources]:
    """Join the cluster at an address, or start a private one and stop it at the end.

    Parameters
    ----------
    address : str or None
        None means a private Ray on this machine, never another Ray that happens to run here.
    gpus : int or None
        Number of GPUs of a private Ray; None means all NVIDIA GPUs of this machine.
    modules : sequence of Path
        The user's own files and packages that workers import.
    say : callable
        Takes a line for the user, if Ray dies and this process must be ended.

    Raises
    ------
    RequestError
        When no cluster responds at the address.
    sweep.cluster.watch.RayDied
        When Ray dies.
    """
    _quiet_environment()
    root = Path(__file__).resolve().parents[2]
    # Only ours and the user's own is uploaded; libraries come from the workers' own environment.
    uploaded = [*(root / name for name in PACKAGES), *modules]
    environment = {"py_modules": [str(path.absolute()) for path in uploaded]}
    secret = {}
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A token of this run's own, in memory: Ray would leave one in the home folder that
        # switches authentication on for whatever is started there next.
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(secret)
    import ray

    common = {
        "runtime_env": environment,
        "log_to_driver": False,
        "logging_level": "WARNING",
        "configure_logging": True,
    }
    try:
        if address is None:
            _start_here(count_gpus() if gpus is None else gpus, common)
        else:
            _join(address, common)
        resources = _resources()
        with watched(say):
            yield resources
    finally:
        ray.shutdown()
        for name in secret:
            os.environ.pop(name, None)


STARTS = 3
"""How often to start a private Ray, which gives up after 30 seconds on a machine that is busy."""


def _start_here(gpus: int, options: Mapping[str, Any]) -> None:
    """Start a private Ray.

    Raises
    ------
    RequestError
        When it does not start.
    """
    import ray

    for last in range(1 - STARTS, 1):
        try:
            ray.init(
                address="local",
                num_cpus=usable_cpus(),
                # Ray would also count GPUs of Apple, AMD and Intel, and hidden ones
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=256 * 2**20,
                **options,
            )
            return
        except Exception as error:  # Ray raises just that
            _end_half_started(error)
            if not last:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise RequestError(
                    f"Ray did not start on this machine, in {STARTS} tries ({reason}); is it busy? "
                    "Run the same command again later"
                ) from error


def _end_half_started(error: Exception) -> None:
    """End the processes of a Ray that did not start, which it leaves behind."""
    import ray

    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, ray._private.node.Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    ray.shutdown()


def _join(address: str, options: Mapping[str, Any]) -> None:
    import ray

    if address.startswith("ray://"):
        raise RequestError(
            f"{address!r} is the address of Ray's client, through which no sweep can run; log in "
            "on a node of the cluster and give --address HOST:6379 there"
        )
    try:
        knock(address)
        check_node(address)
        ray.init(address=address, **options)
    except OutsideError as error:
        raise RequestError(str(error)) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise RequestError(
            f"no Ray cluster responds at {address!r} ({reason}); start one with make cluster-up, "
            f"or remove --address and RAY_ADDRESS to run on this machine{_token_said()}"
        ) from error


def _token_said() -> str:
    """Say how to show a cluster its token, if none is shown."""
    if "RAY_AUTH_MODE" in os.environ:
        return ""
    return (
        "; if the cluster asks for a token, set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN_PATH=~/.segsweep/token"
    )


def _resources() -> Resources:
    """Return the resources of the cluster and of its largest node, which limits a single trial."""
    import ray

    total = ray.cluster_resources()
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(one.get("CPU", 0.0), one.get("memory", 0.0) / 2**30) for one in there)
    memory = max((node.memory_gb for node in nodes), default=0.0) or None
    cores = max((node.cpus for node in nodes), default=0.0) or None
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    return Resources(cpus, gpus, memory, node_cpus=cores, nodes=nodes)


def where(argument: str | None) -> str | None:
    """Return the address to use: ``--address``, else ``RAY_ADDRESS``, else None."""
    address = argument or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address
