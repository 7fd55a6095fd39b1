"""Whether the nodes of a cluster have what an analysis needs: asked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runfolder import AnalysisError
from trainables.errors import CheckpointError
from trainables.machine.addresses import name_of
from trainables.records.manifest import (
    copy_of,
    library_versions,
    read_manifest,
    sha256_of,
)
from trainables.records.objects import address_of, check, fetched_folder, is_stored, readable
from trainables.records.sight import arrived, reply_in, token_in
from trainables.records.store import StoreError, impatient

PACKAGES = ("analysis", "trainables")
"""Packages of this project that workers need; uploaded with the job, so that they run this copy."""
ANSWER_SECONDS = 600.0
"""Longest wait for all nodes: each starts a worker, fetches data from a store and reads them."""
HINT = "put the folder for results, the model, and all images on storage that all nodes share"
LIBRARIES = ("scikit-image", "scipy", "pandas", "numba", "stardist")
"""Libraries whose versions may change the numbers, beside those of `library_versions`."""


@dataclass(frozen=True)
class Needed:
    """What every node must find as it is on this machine. Paths become those of the node."""

    folder: Path
    """Where nodes write results: the run folder, or that of the segmented images."""
    called: str
    """What `folder` is, in messages."""
    files: Mapping[Path, str | int]
    """SHA-256 or number of bytes of files."""
    checkpoint: Path | None = None
    """A checkpoint's folder."""
    data: tuple[Path, ...] = ()
    """Data sets, of which a node fetches those in an object store once."""


@dataclass(frozen=True)
class Report:
    """What a node found."""

    problems: tuple[str, ...]
    """Each as the rest of a sentence about the node; empty if there are none."""
    versions: Mapping[str, str]
    """Versions of libraries."""
    project: Mapping[str, str]
    """See `trainables.records.manifest.copy_of`."""


def sizes_of(paths: Iterable[Path]) -> dict[Path, str | int]:
    """Return the number of bytes of files, for `Needed.files`."""
    return {path: path.stat().st_size for path in paths}


def fetch_data(folders: Iterable[Path]) -> None:
    """Fetch the data sets that are in an object store, once per machine."""
    for folder in folders:
        if is_stored(folder):
            fetched_folder(address_of(folder))


def look(node: str, needed: Needed, token: str) -> Report:
    """Check what this machine has.

    Parameters
    ----------
    node : str
        Ray's id of this node.
    needed : Needed
    token : str
        See `trainables.records.sight.token_in`.
    """
    problems = [_store_problem(needed) or _reply(needed, token, node)]
    if not problems[0]:
        problems += [_no_checkpoint(needed.checkpoint), _wrong_files(needed)]
    found = tuple(readable(one) for one in problems if one)
    return Report(found, library_versions(*LIBRARIES), copy_of(PACKAGES))


def _store_problem(needed: Needed) -> str:
    for folder in (needed.folder, needed.checkpoint, *needed.data):
        if folder is not None and is_stored(folder):
            try:
                check(folder)
            except StoreError as error:
                return f"cannot use {address_of(folder)} ({error.strerror})"
    return ""


def _reply(needed: Needed, token: str, node: str) -> str:
    with impatient():
        return reply_in(needed.folder, token, node, called=needed.called)


def _no_checkpoint(folder: Path | None) -> str:
    if folder is None:
        return ""
    try:
        read_manifest(folder)
    except (CheckpointError, OSError):
        return f"cannot find the model {address_of(folder)}"
    return ""


def _wrong_files(needed: Needed) -> str:
    try:
        fetch_data(needed.data)
    except StoreError as error:
        return f"cannot fetch the data ({error.strerror})"
    missing = [path for path in needed.files if not path.is_file()]
    if missing:
        return f"cannot find {missing[0]}{_more(missing)}"
    try:
        other = [path for path, known in needed.files.items() if _state(path, known) != known]
    except OSError as error:
        return f"cannot read the images ({error})"
    return f"has another file at {other[0]}{_more(other)}" if other else ""


def _state(path: Path, known: str | int) -> str | int:
    return sha256_of(path) if isinstance(known, str) else path.stat().st_size


def _more(paths: Collection[Path]) -> str:
    return f" and {len(paths) - 1} more files" if len(paths) > 1 else ""


def check_nodes(ray: Any, needed: Needed, say: Callable[[str], object]) -> None:
    """Check every node that may get work.

    Parameters
    ----------
    ray : module
        See `analysis.cluster.joined`.
    needed : Needed
    say : callable
        Takes a line for the user.

    Raises
    ------
    AnalysisError
        When a node lacks something; the message names every such node and what it lacks.
    """
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0.0) >= 1]
    try:
        with token_in(needed.folder) as token:
            reports = _ask(ray, nodes, needed, token)
            wrong = [
                f"{name_of(node)} {' and '.join(problems)}"
                for node, report in zip(nodes, reports)
                if (problems := _problems(report, needed, token, node["NodeID"]))
            ]
    except OSError as error:
        raise AnalysisError(
            f"{address_of(needed.folder)} cannot be written to ({error.strerror or error}); it is "
            "where the results are written"
        ) from error
    if wrong:
        raise AnalysisError("; ".join(wrong))
    for line in _differences(nodes, reports):
        say(line)


def _ask(
    ray: Any, nodes: Sequence[Mapping[str, Any]], needed: Needed, token: str
) -> list[Report | str]:
    """Return what each node found, or why it did not answer."""
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        task.options(scheduling_strategy=pinned(node["NodeID"], soft=False)).remote(
            node["NodeID"], needed, token
        )
        for node in nodes
    ]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)
    found: list[Report | str] = []
    for answer in asked:
        try:
            found.append(ray.get(answer, timeout=0.1))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            found.append(f"did not respond within {ANSWER_SECONDS:.0f} s")
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = lines[-1] if lines else type(error).__name__
            found.append(
                f"cannot run this version of segsweep ({why}); install from constraints.txt there, "
                "and start Ray without PYTHONPATH or another copy of the project"
            )
    return found


def _problems(report: Report | str, needed: Needed, token: str, node: str) -> list[str]:
    if isinstance(report, str):
        return [report]
    if report.problems:
        *first, last = report.problems
        return [*first, last if "object store" in last else f"{last}; {HINT}"]
    if report.project != copy_of(PACKAGES):
        return [
            "imports another version of segsweep than this machine; start Ray there without "
            "PYTHONPATH or another copy of the project"
        ]
    if not arrived(needed.folder, token, node):
        return [f"writes to {address_of(needed.folder)}, but its files do not appear here"]
    return []


def _differences(nodes: Sequence[Mapping[str, Any]], reports: Sequence[Report | str]) -> list[str]:
    """Say which nodes have other versions of libraries."""
    here, lines = library_versions(*LIBRARIES), []
    for node, report in zip(nodes, reports):
        assert isinstance(report, Report)
        other = [
            f"{name} {report.versions[name]} (here {version})"
            for name, version in here.items()
            if name != "segsweep" and report.versions[name] != version
        ]
        if other:
            lines.append(
                f"note: {name_of(node)} has {', '.join(other)}: the last digits of its results may "
                "differ; install from constraints.txt on every node"
            )
    return lines
