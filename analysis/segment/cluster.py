"""Share the images among the workers of a Ray cluster. Imports Ray only when called."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cluster import ClusterError, joined, last_line, needed_gb
from analysis.nodes import Needed, check_nodes, sizes_of
from analysis.runfolder import AnalysisError
from analysis.segment.folder import BROKEN, SETTINGS, Options, segment_frame
from analysis.segment.inputs import Frame
from trainables.records.objects import readable

if TYPE_CHECKING:
    from analysis.segment.model import Choice

TRIES = 3
"""How many workers may die on an image before it is given up."""
WAIT_SECONDS = 60.0
"""How long to wait for the first worker before that is said."""


class Worker:
    """One copy of the network, in a process of its own."""

    def __init__(self, out: Path, choice: Choice, options: Options, device: str) -> None:
        if not (out / SETTINGS).is_file():  # this node has joined meanwhile
            raise FileNotFoundError(
                f"{socket.gethostname()} cannot find {out}: put --out, model and images on storage "
                "that all nodes share"
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
    say: Callable[[str], object] = print,
) -> dict[str, str]:
    """Segment images on a running Ray cluster; see `analysis.segment.folder.segment_here`.

    Parameters
    ----------
    address : str
        ``auto`` or ``host:port``.
    say : callable
        Takes a line for the user.

    Raises
    ------
    AnalysisError
        When no cluster responds, or a node lacks something: before any work.
    ClusterError
        When workers keep dying, or cannot go on.
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
        files = sizes_of({frame.path for frame in frames})
        check_nodes(ray, Needed(out, "--out", files, checkpoint=choice.checkpoint), say)
        actor = ray.remote(Worker).options(**demand)
        crew = _Crew(ray, lambda: actor.remote(out, choice, options, device), count)
        return crew.share(frames, tick, say)


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


class _Crew:
    """The workers: each gets the next image when it is ready, and is replaced when it is lost.

    Workers for which there is no room, because others use the cluster or a node was lost, are not
    waited for as long as another one works.
    """

    def __init__(self, ray: Any, make: Callable[[], Any], count: int) -> None:
        self._ray, self._make = ray, make
        self._running: dict[Any, tuple[Any, Frame | None]] = {}
        self._idle: list[Any] = []
        self._lost = Counter[str]()
        self._starts_left = TRIES * count
        for _ in range(count):
            self._add()

    def _add(self) -> None:
        worker = self._make()
        self._running[worker.ready.remote()] = (worker, None)

    def share(
        self,
        frames: Sequence[Frame],
        tick: Callable[[Frame], None],
        say: Callable[[str], object],
    ) -> dict[str, str]:
        """Return why images could not be read, by their names.

        Raises
        ------
        ClusterError
        """
        waiting, left, unreadable = deque(frames), len(frames), dict[str, str]()
        while left:
            worker, frame, reason = self._next(say)
            if reason is None:
                waiting.extendleft([] if frame is None else [frame])
            else:
                self._idle.append(worker)
                if frame is not None:
                    left -= 1
                    tick(frame)
                if frame is not None and reason:
                    unreadable[frame.name] = reason
            while waiting and self._idle:
                worker, following = self._idle.pop(), waiting.popleft()
                self._running[worker.segment.remote(following)] = (worker, following)
        return unreadable

    def _next(self, say: Callable[[str], object]) -> tuple[Any, Frame | None, str | None]:
        """Wait for a worker; return it, its image, and why that cannot be read, or None if the
        worker is lost.
        """
        finished: list[Any] = []
        while not finished:
            finished, _ = self._ray.wait(list(self._running), timeout=WAIT_SECONDS)
            if not finished and not any(frame for _, frame in self._running.values()):
                say(
                    "waiting for a node with room for a worker (Ctrl-C ends this; the same command "
                    "continues later)"
                )
        worker, frame = self._running.pop(finished[0])
        try:
            return worker, frame, self._ray.get(finished[0]) or ""
        except self._ray.exceptions.RayTaskError as error:
            raise ClusterError(readable(last_line(error))) from error
        except self._ray.exceptions.RayError as error:
            self._replace(frame, error)
            return worker, frame, None

    def _replace(self, frame: Frame | None, error: Any) -> None:
        """Start a worker for one that is lost, or its node."""
        cause = readable(last_line(getattr(error, "cause", None) or error))
        if frame is not None:
            self._lost[frame.name] += 1
            if self._lost[frame.name] >= TRIES:
                raise ClusterError(f"image {frame.name}: its worker died ({cause})") from error
        else:
            self._starts_left -= 1
            if not self._starts_left or getattr(error, "actor_init_failed", False):
                raise ClusterError(f"no worker could start ({cause})") from error
        self._add()
