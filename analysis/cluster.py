"""Share work among the nodes of a running Ray cluster. Imports Ray only when called."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from analysis.nodes import PACKAGES, fetch_data
from analysis.runfolder import AnalysisError
from analysis.spread import Job, Tick
from trainables.config import STARDIST, TrialConfig
from trainables.errors import CheckpointError
from trainables.machine.addresses import OutsideError, check_node, knock
from trainables.records.files import fetched
from trainables.records.objects import address_of, place, readable
from trainables.records.store import StoreError


class ClusterError(RuntimeError):
    """Work that a cluster could not do; the message says why, and what to do."""


BASE_GB = 1.5
"""Memory of a worker that has imported everything, without its network."""
MAPS_GB = 1.0
"""Memory of the predictions that a calibration keeps (`analysis.evaluation.calibration`)."""
LARGEST = (1280, 1280)
"""Larger images are predicted in tiles where memory is short."""


def check_address(address: str) -> None:
    """Raise AnalysisError if nothing listens at the address, or this machine is none of the
    cluster's nodes, before any work starts.
    """
    try:
        knock(address)
        check_node(address)
    except OutsideError as error:
        raise AnalysisError(str(error)) from error
    except OSError as error:
        raise no_cluster(address, error) from error


def no_cluster(address: str, error: Exception) -> AnalysisError:
    """Say that no cluster responds, and why."""
    reason = (str(error).strip().splitlines() or [""])[0]
    return AnalysisError(
        f"no Ray cluster responds at {address!r} ({reason}); start one with ray up cluster.yaml, "
        "or remove --address to run on this machine"
    )


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Join a running Ray cluster, and leave it at the end; yields the module ``ray``.

    Paths that are sent to a worker become its own: the copy of an object has another place on
    another machine.

    Parameters
    ----------
    address : str
        ``auto`` or ``host:port``.

    Raises
    ------
    AnalysisError
        When no cluster responds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    root = Path(__file__).resolve().parents[1]
    try:
        ray.init(
            address=address,
            # only ours is uploaded; libraries come from the workers' own environment
            runtime_env={"py_modules": [str(root / name) for name in PACKAGES]},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise no_cluster(address, error) from error
    ray.util.register_serializer(type(Path()), serializer=address_of, deserializer=place)
    try:
        yield ray
    finally:
        ray.util.deregister_serializer(type(Path()))
        ray.shutdown()


def needed_gb(config: TrialConfig, shape: tuple[int, int]) -> float:
    """Return the memory of a worker that predicts images of a shape on a CPU."""
    if config.architecture == STARDIST:
        return BASE_GB + 1.5  # TensorFlow's process beside it
    from trainables.footprint import inference_mb

    smaller = (min(shape[0], LARGEST[0]), min(shape[1], LARGEST[1]))
    return BASE_GB + inference_mb(config, smaller) / 1024


def last_line(error: BaseException) -> str:
    """Return what an error of a worker says, without the worker's traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class Nodes:
    """The nodes of a cluster as an `analysis.spread.Spread`: one core and one network per job.

    Ray tries a job again, on another node if need be, when its worker or node is lost.

    Parameters
    ----------
    ray : module
        See `joined`.
    out : Path
        The run folder, which all nodes must see.
    data : tuple of Path
        The data sets.
    shape : (int, int)
        Height and width of the largest image.
    """

    def __init__(self, ray: Any, out: Path, data: tuple[Path, ...], shape: tuple[int, int]) -> None:
        self.ray, self.out, self.data, self.shape = ray, out, data, shape
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.pieces = max(1, int(sum(one.get("CPU", 0) for one in alive)))
        self._nodes = alive

    def start(
        self, function: Callable[..., Any], common: tuple[Any, ...], jobs: Sequence[Job]
    ) -> Sequence[Callable[[Tick], Any]]:
        """See `analysis.spread.Spread.start`.

        Raises
        ------
        AnalysisError
            When no node has room for a job.
        """
        references = [self.ray.put(one) for one in common]
        demands = [self._demand(job.config) for job in jobs]
        return [
            partial(
                self._result,
                self.ray.remote(_work)
                .options(**demand)
                .remote(function, self.out, self.data, job.arguments, *references),
                job.steps,
            )
            for job, demand in zip(jobs, demands)
        ]

    def check_room(self, configs: Iterable[TrialConfig]) -> None:
        """Raise AnalysisError if no node has room for one of these networks."""
        for config in configs:
            self._demand(config)

    def _demand(self, config: TrialConfig) -> Mapping[str, Any]:
        memory = int((needed_gb(config, self.shape) + MAPS_GB) * 2**30)
        if not any(
            one.get("CPU", 0) >= 1 and one.get("memory", 0) >= memory for one in self._nodes
        ):
            raise AnalysisError(
                f"no node of the cluster has a CPU and {memory / 2**30:.1f} GB of memory for "
                f"{config.architecture} {config.encoder}; add a larger node, or remove --address "
                "to run on this machine"
            )
        return {"num_cpus": 1, "memory": memory}

    def _result(self, reference: Any, steps: int, tick: Tick) -> Any:
        from ray.exceptions import RayError

        try:
            kind, found = self.ray.get(reference)
        except RayError as error:
            raise ClusterError(
                f"a worker of the cluster failed ({last_line(error)}); run the same command again "
                "(calibrations are kept), or remove --address to run on this machine"
            ) from error
        if kind:
            raise _KINDS[kind](found)
        for _ in range(steps):
            tick()
        return found


_KINDS: dict[str, type[Exception]] = {
    "checkpoint": CheckpointError,
    "value": ValueError,
    "cluster": ClusterError,
}


def _work(
    function: Callable[..., Any],
    out: Path,
    data: tuple[Path, ...],
    arguments: tuple[Any, ...],
    *common: Any,
) -> tuple[str, Any]:
    """Do a job in a worker; return its result, or which error it raised and the error's text."""
    try:
        if not fetched(out / "plan.json").is_file():
            return "cluster", (
                f"{socket.gethostname()} cannot find {address_of(out)}: put the run folder and the "
                "images on storage that all nodes share"
            )
        fetch_data(data)
        return "", function(*common, *arguments, lambda: None)
    except CheckpointError as error:
        return "checkpoint", readable(str(error))
    except StoreError as error:
        return "cluster", readable(f"{socket.gethostname()}: {error}")
    except ValueError as error:
        return "value", readable(str(error))
