"""Share the images among the workers of a Ray cluster. Imports Ray only when called."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cluster import joined, last_line, needed_gb
from analysis.runfolder import AnalysisError
from analysis.segment.folder import BROKEN, SETTINGS, Options, segment_frame
from analysis.segment.inputs import Frame

if TYPE_CHECKING:
    from analysis.segment.model import Choice

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
    with joined(address) as ray:
        shape = (max(f.shape[0] for f in frames), max(f.shape[1] for f in frames))
        memory = int(needed_gb(choice.config, shape) * 2**30)
        count, demand, device = plan_workers(ray.nodes(), memory, len(frames))
        actor = ray.remote(Worker).options(**demand)
        workers = [actor.remote(out, choice, options, device) for _ in range(count)]
        return _share(ray, workers, frames, tick)


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
            raise AnalysisError(last_line(error)) from error
        except (ActorDiedError, RayActorError) as error:
            cause = getattr(error, "cause", None) or error
            if frame is None:
                if not running:  # no worker came up
                    raise AnalysisError(f"no worker could start: {last_line(cause)}") from error
                continue
            lost[frame.name] += 1
            if lost[frame.name] >= TRIES or not running:
                raise AnalysisError(
                    f"image {frame.name}: its worker died ({last_line(cause)}); run the same "
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
