"""All checks of `sweep.doctor`: this machine, its folders, and the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweep.cluster import connect as cluster
from sweep.cluster.autoscaler import offered
from sweep.cluster.nodes import on_each
from sweep.cluster.visibility import HINT, Sight, ask_nodes
from sweep.doctor.checks import compare, differing_gpus, names_of, of_machine, requirements
from sweep.doctor.findings import Finding, note, ok, problem, refused, short, together
from sweep.doctor.folders import look_at_data, look_at_disk, look_at_out, look_at_weights, made
from sweep.doctor.machine import Machine, look
from sweep.provenance import git_commit
from sweep.request import RequestError
from sweep.resources import Resources
from trainables.data.dataset import DataSet
from trainables.machine.addresses import name_of
from trainables.records.objects import address_of, place
from trainables.records.sight import token_in

ANSWER_SECONDS = 240.0
"""Longest wait for the nodes, as each starts a worker, torch and TensorFlow."""


def diagnose(address: str | None, data: str | None, out: str | None) -> list[Finding]:
    """Check everything that a sweep needs.

    Parameters
    ----------
    address : str or None
        Address of the Ray cluster whose nodes to check; None checks only this machine.
    data, out : str or None
        Data set and run folder; None skips them.
    """
    try:
        folder = place(out).absolute() if out else None
    except ValueError:  # an address that `_of_out` refuses
        folder = None
    names = names_of(requirements())
    with ThreadPoolExecutor(3) as pool:
        machine = pool.submit(look, names, trains=address is None)
        checked = pool.submit(look_at_data, data) if data else None
        weights = pool.submit(look_at_weights, folder)
        here = [_project(), *of_machine(machine.result())]
        findings, dataset = checked.result() if checked else ([_not_given("data")], None)
        here += [*findings, *_of_out(out, folder), *weights.result()]
    if address is None:
        return here
    writable = folder and not any(f.what == "out" and f.state == "problem" for f in here)
    return here + of_cluster(address, machine.result(), folder if writable else None, dataset)


def _project() -> Finding:
    root = Path(__file__).resolve().parents[2]
    try:
        number = version("segsweep")
    except PackageNotFoundError:
        number = "(not installed)"
    commit = git_commit()
    return ok(
        "project", f"segsweep {number}, {f'commit {_shorter(commit)}, ' if commit else ''}in {root}"
    )


def _shorter(commit: str) -> str:
    number, dash, changed = commit.partition("-")
    return number[:12] + dash + changed


def _not_given(what: str) -> Finding:
    return note(what, f"not checked; to check it, give --{what}")


def _of_out(out: str | None, folder: Path | None) -> list[Finding]:
    if out is None:
        return [_not_given("out"), *look_at_disk(Path("runs").absolute())]
    if folder is None:
        text = f"{out}: this kind of address is not supported"
        return [problem("out", text, "name a folder, or s3://BUCKET/FOLDER, with --out")]
    return look_at_out(folder)


def of_cluster(
    address: str, ours: Machine, out: Path | None, dataset: DataSet | None
) -> list[Finding]:
    """Join a cluster and check each of its nodes.

    Parameters
    ----------
    address : str
    ours : Machine
        This machine.
    out : Path or None
        Absolute run folder that can be written to here; None skips it.
    dataset : DataSet or None
        The data set on this machine; None skips it.
    """
    try:
        with cluster.ray_session(address, None) as resources:
            import ray

            nodes = [node for node in ray.nodes() if node["Alive"]]
            found = _of_resources(address, len(nodes), resources)
            answers = _machines(nodes, ours)
            seen = [_of_node(node, answers[node["NodeID"]], ours) for node in nodes]
            machines = [one for one in answers.values() if isinstance(one, Machine)]
            there = [n for n in nodes if isinstance(answers[n["NodeID"]], Machine)]
            found += [*together(seen), *differing_gpus(machines)]
            return [*found, *_seen_out(there, out), *_seen_data(there, dataset)]
    except RequestError as error:
        return [_no_cluster(error, ours)]


def _of_resources(address: str, nodes: int, present: Resources) -> list[Finding]:
    """Return the resources of a cluster and of its autoscaler; Ray must be connected."""
    import ray

    text = f"{nodes} {'node' if nodes == 1 else 'nodes'} at {address}: {present.cpus:g} CPUs, "
    found = [ok("cluster", f"{text}{present.gpus:g} GPUs", "cluster")]
    offer = offered(ray.get_runtime_context().gcs_address)
    if offer is not None:
        kind = f" ({offer.gpu_name})" if offer.gpu_name else ""
        text = f"may start {offer.cpus:g} CPUs, {offer.gpus:g} GPUs{kind} when trials wait"
        found.append(ok("autoscaler", text, "cluster"))
    elif not present.cpus and not present.gpus:
        text = "no node has CPUs or GPUs yet, and this machine does not know which may start"
        advice = "run this on the cluster's head node, or name the GPUs: sweep.run --gpus 4xA10G"
        found.append(note("autoscaler", text, advice, "cluster"))
    return found


def _called(node: Mapping[str, Any]) -> str:
    return name_of(node).removeprefix("node ")


def _seen_out(nodes: Sequence[Mapping[str, Any]], out: Path | None) -> list[Finding]:
    """Return which nodes can read and write the run folder; remove it if it is new."""
    if out is None:
        return [
            note("out", "not checked on the nodes", "give --out, a folder that can be written to")
        ]
    try:
        with made(out), token_in(out) as token:
            sights = ask_nodes(nodes, out, token, seconds=ANSWER_SECONDS)
    except OSError as error:
        text = f"{out}: cannot be written to ({short(error)})"
        return [problem("out", text, "name a writable folder with --out")]
    return _of_sights("out", f"{address_of(out)}: can be written to", nodes, sights)


def _seen_data(nodes: Sequence[Mapping[str, Any]], dataset: DataSet | None) -> list[Finding]:
    """Return which nodes have the same data as this machine."""
    if dataset is None:
        return []
    root, options = address_of(dataset.root), dataset.options.model_dump()
    sights = ask_nodes(
        nodes,
        None,
        seconds=ANSWER_SECONDS,
        data=root,
        options=options,
        fingerprint=dataset.fingerprint,
    )
    return _of_sights("data", f"{root}: the same files as here", nodes, sights)


def _of_sights(
    what: str, fine: str, nodes: Sequence[Mapping[str, Any]], sights: Sequence[Sight]
) -> list[Finding]:
    found = []
    for node, sight in zip(nodes, sights, strict=True):
        where, wrong = _called(node), " and ".join(sight.problems)
        trains = node["Resources"].get("CPU", 0.0) or node["Resources"].get("GPU", 0.0)
        if wrong and trains:
            found.append(problem(what, wrong, HINT, where))
        elif wrong:
            found.append(note(what, f"{wrong}; harmless, as it gets no trial", "", where))
        else:
            found.append(ok(what, fine, where))
    return together([[one] for one in found])


def _no_cluster(error: RequestError, ours: Machine) -> Finding:
    """Return why a cluster could not be joined, and both versions if they differ."""
    reason = " ".join(str(error.__cause__ or "").split())
    if "Version mismatch" in reason:
        theirs = reason.partition("started with:")[2].partition("This process")[0].strip()
        advice = (
            f"install ray=={ours.libraries.get('ray', '')} and Python {ours.python} on every "
            "node, or the cluster's versions here"
        )
        text = f"the cluster was started with {theirs}; this machine has Ray: "
        text += f"{ours.libraries.get('ray', '')} Python: {ours.python}"
        return problem("ray", text, advice, "cluster")
    return refused("cluster", error, "start it, or remove --address", "cluster")


def _machines(nodes: Sequence[Mapping[str, Any]], ours: Machine) -> dict[str, Machine | Exception]:
    names, ids = tuple(ours.libraries), [node["NodeID"] for node in nodes]
    return on_each(ids, look, names, seconds=ANSWER_SECONDS)


def _of_node(node: Mapping[str, Any], machine: Machine | Exception, ours: Machine) -> list[Finding]:
    """Return the findings for one node, which name the node."""
    where = _called(node)
    offers = {kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
    if isinstance(machine, Exception):
        said = [line.strip() for line in str(machine).splitlines() if line.strip()]
        text = f"cannot run a task ({said[-1] if said else type(machine).__name__})"
        advice = "see ray status and the node's logs, and restart it"
        return [problem("node", text, advice, where)]
    text = f"offers {offers['CPU']:g} CPUs, {offers['GPU']:g} GPUs"
    if not any(offers.values()):
        text += ": gets no trial"
    found = [ok("node", text, where)]
    if machine.pretended:
        return [*found, *compare(machine, ours, where), *of_machine(machine, where)]
    if offers["GPU"] > len(machine.gpus):
        text = f"Ray offers {offers['GPU']:g} GPUs, but nvidia-smi finds {len(machine.gpus)}"
        advice = "start Ray there with the right number of GPUs (--num-gpus)"
        found.append(problem("gpu", text, advice, where))
    elif len(machine.gpus) > offers["GPU"]:
        text = f"Ray offers {offers['GPU']:g} of {len(machine.gpus)} GPUs"
        found.append(note("gpu", text, "to use all, start Ray there with --num-gpus", where))
    return [*found, *compare(machine, ours, where), *of_machine(machine, where)]
