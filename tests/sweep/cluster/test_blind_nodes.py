"""Nodes that do not see the run folder: named, given no trial, and nothing is lost in silence.

The second node's disks are hidden from it by a mount namespace of its own; Ray, the nodes and the
command line are real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.cluster.visibility import look
from tests.sweep.command_line import (
    QUICK,
    SPACE,
    nodes_of,
    records,
    rows,
    run,
    start,
    wait_for,
)
from tests.sweep.namespaces import add_blind_node, available, hide_from
from trainables.data.dataset import index_dataset
from trainables.machine.hardware import cpu_computes_bf16
from trainables.records.sight import FOLDER, token_in

TOGETHER = pytest.mark.skipif(not available(), reason="needs root's right to hide folders")
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
NO_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}


def test_look_finds_what_a_node_lacks(data: Path, tmp_path: Path) -> None:
    dataset, out, other = index_dataset(data), tmp_path / "run", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    same = (str(data), dataset.options.model_dump(), dataset.fingerprint)
    with token_in(out) as token:
        assert look("a", str(out), token, *same) == ()
        assert (out / FOLDER / token / "a").read_text() == token
        (problem,) = look("a", str(other), token, *same, patience=0)
        assert problem == f"has another folder at {other}"
        problems = look("a", str(tmp_path / "no"), token, str(tmp_path / "none"), patience=0)
        assert problems == (
            f"cannot find the run folder {tmp_path / 'no'}",
            f"cannot find the data set {tmp_path / 'none'}",
        )
        (problem,) = look("a", None, "", str(other), {}, "1")
        assert problem.startswith(f"cannot read the data set {other} (")
        (problem,) = look("a", None, "", str(data), same[1], "1")
        assert problem == f"has different files in the data set {data}"
    assert not (out / FOLDER).exists()
    (problem,) = look("a", str(out), token, patience=0)
    assert "another folder" in problem


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with token_in(tmp_path) as token:
        # a name that is taken by a folder: root may write everywhere
        (tmp_path / FOLDER / token / "a").mkdir()
        (problem,) = look("a", str(tmp_path), token)
    assert problem.startswith(f"cannot write to the run folder {tmp_path} (")


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A head that trains nothing, as after a fresh ``ray up``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        arguments = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """The same for every test, which adds nodes of its own."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)


def request(
    data: Path, out: Path, address: str, architectures: str, epochs: int, *more: object
) -> tuple[object, ...]:
    return (
        SPACE,
        "--data",
        data,
        "--out",
        out,
        "--address",
        address,
        *QUICK,
        "--wandb",
        "off",
        "--set",
        f"architecture={architectures}",
        "--set",
        f"epochs={epochs}",
        *more,
    )


@TOGETHER
def test_the_first_node_of_a_fresh_cluster_is_asked(
    data: Path, tmp_path: Path, cluster: Any
) -> None:
    out = tmp_path / "runs" / "one"
    out.parent.mkdir()
    words = request(data, out, cluster.address, "Unet", 1)
    # what will come is not known, so that trials might get no GPU
    code, _, err = run(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 2
    (line,) = err.splitlines()
    assert "has no cores for a trial and no GPUs yet" in line
    assert "--gpus 4xA10G" in line
    process = start(*words, "--set", "gpus_per_trial=0", cwd=tmp_path, **NO_TOKEN)
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    assert any("waiting for the first node" in line for line in told)
    blind = add_blind_node(cluster, out.parent, num_cpus=1)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    assert blind.node_id[:8] in line
    assert f"cannot find the run folder {out}" in line
    assert not (out / "plan.json").exists()


@TOGETHER
def test_blind_nodes_are_named_and_get_no_trial(data: Path, tmp_path: Path, cluster: Any) -> None:
    """Nor do those whose CPU cannot compute as the run does."""
    runs = tmp_path / "runs"
    runs.mkdir()
    out, good = runs / "one", cluster.add_node(num_cpus=1)
    blind = add_blind_node(cluster, runs, num_cpus=1)
    able = cpu_computes_bf16()  # else the run is one that any CPU computes
    words = request(data, out, cluster.address, "Unet,FPN,Linknet,UnetPlusPlus", 8)
    words = (*words, "--set", f"precision={'bf16' if able else '32'}")
    code, text, err = run(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 2, text + err
    (line,) = err.splitlines()
    assert blind.node_id[:8] in line
    assert f"cannot find the run folder {out}" in line
    assert good.node_id[:8] not in line
    assert not (out / "plan.json").exists()
    assert not (out / "ledger").exists()
    # without it the same command completes, also when such nodes join
    cluster.remove_node(blind, allow_graceful=False)
    process = start(*words, cwd=tmp_path, **NO_TOKEN)
    wait_for(lambda: nodes_of(out), process, 500)
    late = add_blind_node(cluster, runs, data, num_cpus=1)
    if able:
        cluster.add_node(num_cpus=1, env_vars=NO_BF16)
    assert len(records(out)) < 3, "a trial waits for each of them"
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done"] * 4
    assert nodes_of(out) == {good.node_id}
    assert {len(record["attempts"]) for record in records(out)} == {1}
    refused = [line for line in text.splitlines() if "gets no trial" in line]
    assert len(refused) == 1 + able
    assert sum("its CPU does not compute in bfloat16" in line for line in refused) == able
    for told in (text, (out / "sweep.log").read_text()):
        (line,) = (
            one for one in told.splitlines() if "gets no trial" in one and "the run folder" in one
        )
        assert late.node_id[:8] in line
        assert f"cannot find the run folder {out}" in line
        assert f"cannot read the data set {data} (" in line
    assert not (out / FOLDER).exists()


@TOGETHER
@pytest.mark.slow
def test_a_result_that_does_not_arrive_is_a_loss(data: Path, tmp_path: Path, cluster: Any) -> None:
    """The second node sees the run folder, but its records go to a disk of its own."""
    out, good = tmp_path / "run", cluster.add_node(num_cpus=1)
    second = add_blind_node(cluster, num_cpus=1)
    raylet = second.all_processes["raylet"][0].process.pid
    words = request(data, out, cluster.address, "Unet,FPN,Linknet", 8)
    process = start(*words, "--set", "retries=50", cwd=tmp_path, **NO_TOKEN)
    wait_for(lambda: second.node_id in nodes_of(out), process, 500)
    hide_from(raylet, out / "ledger")
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    assert any("its result is not in the run folder; it will be" in line for line in told)
    cluster.remove_node(second, allow_graceful=False)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done"] * 3
    assert all((out / row["checkpoint"] / "checkpoint.json").is_file() for row in rows(out))
    assert {r["attempts"][-1]["node"] for r in records(out)} == {good.node_id}
    # without what belongs to it a finished run is not finished
    code, text, _ = run(*words, cwd=tmp_path)
    assert code == 0, text
    first, *_ = rows(out)
    (out / first["checkpoint"] / "checkpoint.json").unlink()
    code, text, _ = run(*words, cwd=tmp_path)
    assert code == 1
    assert f"missing: {first['trial_id']}: its checkpoint is missing" in text
    # earlier versions said stopped of a lost result
    path = out / "ledger" / f"{first['trial_id']}.json"
    path.write_text(path.read_text().replace('"status": "done"', '"status": "stopped"'))
    code, _, err = run(*words, cwd=tmp_path)
    assert code == 2
    assert "1 of 3 trials have not ended" in err


@TOGETHER
@pytest.mark.slow
def test_no_node_is_left(data: Path, tmp_path: Path, cluster: Any) -> None:
    """The only node that saw the run folder dies; the sweep ends, and does not wait for ever."""
    runs = tmp_path / "runs"
    runs.mkdir()
    out = runs / "one"
    good = cluster.add_node(num_cpus=2)
    words = request(data, out, cluster.address, "Unet,FPN", 50, "--set", "cpus_per_trial=2")
    process = start(*words, cwd=tmp_path, **NO_TOKEN)
    wait_for(lambda: nodes_of(out), process, 500)
    add_blind_node(cluster, runs, num_cpus=2)
    cluster.remove_node(good, allow_graceful=False)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 1, text + err
    assert "no node is left that can read the run folder and the data" in text
    assert "run the same command with --resume to continue" in text
