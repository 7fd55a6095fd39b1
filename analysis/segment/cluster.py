"""Share the images among the workers of a Ray cluster. Imports Ray only when called."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.runfolder import AnalysisError
from analysis.segment.folder import BROKEN, SETTINGS, Options, segment_frame
from analysis.segment.inputs import Frame
from trainables.config import STARDIST, TrialConfig
from trainables.machine.addresses import OutsideError, check_node, knock

if TYPE_CHECKING:
    from analysis.segment.model import Choice

PACKAGES = ("analysis", "trainables")
"""Packages of this project that workers need; uploaded with the job, so that they run this copy."""
BASE_GB = 1.5
"""Memory of a worker that has imported everything, without its network."""
TRIES = 3
"""How many workers may die on an image before it is given up."""


class Worker:
    """One copy of the network, in a process of its own."""

    def __init__(self, out: Path, choice: Choice, options: Options, device: str) -> None:
        if not (out / SETTINGS).is_file() or not choice.checkpoint.is_dir():
            raise AnalysisError(
                f"{socket.gethostname()} cannot find {out} or {choice.checkpoint}: put --out, "
                "model and images on storage that all nodes share"
            )
        from analysis.segment.model import Segmenter

        if device == "cpu":
            import torch

            torch.set_num_threads(1)  # one worker per core
        self.out, self.options = out, options
        self.segmenter = Segmenter(choice, tile=options.tile, flips=options.flips, device=device)

    def ready(self) -> None:
        """Return once the network is loaded."""

    def segment(self, frame: Frame) -> str:
        """Segment one image; return why it could not be read, or ''."""
        try:
            segment_frame(self.out, frame, self.options, self.segmenter)
        except BROKEN as error:
            return f"{frame.path}: {error}"
        return ""


def segment_on_cluster(
    address: str,
    out: Path,
    frames: Sequence[Frame],
    options: Options,
    choice: Choice,
    *,
    tick: Callable[[Frame], None] = lambda frame: None,
) -> dict[str, str]:
    """Segment images on a running Ray cluster; see `analysis.segment.folder.segment_here`.

    Parameters
    ----------
    address : str
        ``auto`` or ``host:port``.

    Raises
    ------
    AnalysisError
        When no cluster responds, its nodes cannot find the folder, or workers keep dying.
    """
    if not frames:
        return {}
    # workers have other working folders
    frames = [replace(frame, path=frame.path.absolute()) for frame in frames]
    choice = replace(choice, checkpoint=choice.checkpoint.absolute())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    root = Path(__file__).resolve().parents[2]
    try:
        ray.init(
            address=address,
            # only ours is uploaded; libraries come from the workers' own environment
            runtime_env={"py_modules": [str(root / name) for name in PACKAGES]},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        shape = (max(f.shape[0] for f in frames), max(f.shape[1] for f in frames))
        memory = int(_needed_gb(choice.config, shape) * 2**30)
        count, demand, device = plan_workers(ray.nodes(), memory, len(frames))
        actor = ray.remote(Worker).options(**demand)
        workers = [actor.remote(out, choice, options, device) for _ in range(count)]
        return _share(ray, workers, frames, tick)
    finally:
        ray.shutdown()


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
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> AnalysisError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return AnalysisError(
        f"no Ray cluster responds at {address!r} ({reason}); start one with ray up cluster.yaml, "
        "or remove --address to run on this machine"
    )


def plan_workers(
    nodes: Sequence[dict[str, Any]], memory: int, images: int
) -> tuple[int, dict[str, float], str]:
    """Return how many workers fit on a cluster, what each reserves, and their device.

    Parameters
    ----------
    nodes : sequence of dict
        The result of ``ray.nodes()``.
    memory : int
        Bytes that a worker needs on a CPU.
    images : int

    Raises
    ------
    AnalysisError
        When no node has room for a worker.

    Examples
    --------
    >>> node = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 10e9}}
    >>> plan_workers([node, node], 3 * 10**9, 100)
    (6, {'num_cpus': 1, 'memory': 3000000000}, 'cpu')
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(r.get("GPU", 0)) for r in alive)
    if gpus:
        return min(gpus, images), {"num_gpus": 1, "num_cpus": 1}, "cuda"
    room = sum(int(min(r.get("CPU", 0), r.get("memory", 0) // memory)) for r in alive)
    if not room:
        raise AnalysisError(
            f"no node of the cluster has a CPU and {memory / 2**30:.1f} GB of memory for a "
            "worker; add a larger node, or remove --address to run on this machine"
        )
    return min(room, images), {"num_cpus": 1, "memory": memory}, "cpu"


def _needed_gb(config: TrialConfig, shape: tuple[int, int]) -> float:
    # larger images are predicted in tiles where memory is short
    shape = (min(shape[0], 1280), min(shape[1], 1280))
    if config.architecture == STARDIST:
        return BASE_GB + 1.5  # TensorFlow's process beside it
    from trainables.footprint import inference_mb

    return BASE_GB + inference_mb(config, shape) / 1024


def _share(
    ray: Any, workers: list[Any], frames: Sequence[Frame], tick: Callable[[Frame], None]
) -> dict[str, str]:
    """Give the next image to every worker that is ready."""
    from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

    waiting, lost = deque(frames), Counter[str]()
    running: dict[Any, tuple[Any, Frame | None]] = {w.ready.remote(): (w, None) for w in workers}
    unreadable: dict[str, str] = {}
    while running:
        finished, _ = ray.wait(list(running), num_returns=1)
        worker, frame = running.pop(finished[0])
        try:
            reason = ray.get(finished[0])
        except RayTaskError as error:
            raise AnalysisError(_last_line(error)) from error
        except (ActorDiedError, RayActorError) as error:
            cause = getattr(error, "cause", None) or error
            if frame is None:
                if not running:  # no worker came up
                    raise AnalysisError(f"no worker could start: {_last_line(cause)}") from error
                continue
            lost[frame.name] += 1
            if lost[frame.name] >= TRIES or not running:
                raise AnalysisError(
                    f"image {frame.name}: its worker died ({_last_line(cause)}); run the same "
                    "command again to continue"
                ) from error
            waiting.appendleft(frame)
            continue
        if frame is not None:
            if reason:
                unreadable[frame.name] = reason
            tick(frame)
        if waiting:
            following = waiting.popleft()
            running[worker.segment.remote(following)] = (worker, following)
    return unreadable


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
