"""Nodes that do not see the run folder: named, given no trial, and nothing is lost in silence.

The second node's disks are hidden from it by a mount namespace of its own; Ray, the nodes and the
command line are real.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.visibility import FOLDER, look, token_in
from trainables.data import index_dataset

sys.path.insert(0, str(Path(__file__).parent))

from command_line import QUICK, SPACE, STARTED, make_data, records, rows, run
from namespaces import add_blind_node, available

TOGETHER = pytest.mark.skipif(not available(), reason="needs root's right to hide folders")
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


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
            f"does not see the run folder {tmp_path / 'no'}",
            f"does not see the data set {tmp_path / 'none'}",
        )
        (problem,) = look("a", None, "", str(other), {}, "1")
        assert problem.startswith(f"cannot read the data set {other} (")
        (problem,) = look("a", None, "", str(data), same[1], "1")
        assert problem == f"has other files in the data set {data}"
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


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def request(data: Path, out: Path, address: str, *more: object) -> tuple[object, ...]:
    return (
        SPACE, "--data", data, "--out", out, "--address", address, *QUICK, "--wandb", "off",
        "--set", "epochs=1", *more,
    )  # fmt: skip


@TOGETHER
def test_a_node_that_does_not_see_the_run_folder_is_named(
    data: Path, tmp_path: Path, cluster
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    blind = add_blind_node(cluster, runs, num_cpus=1)
    words = request(data, runs / "one", cluster.address, "--set", "architecture=Unet,FPN")
    code, text, err = run(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 2, text + err
    (line,) = err.splitlines()
    assert blind.node_id[:8] in line
    assert f"does not see the run folder {runs / 'one'}" in line
    assert cluster.head_node.node_id[:8] not in line
    assert not (runs / "one" / "plan.json").exists()
    assert not (runs / "one" / "ledger").exists()
    # with the run folder shared the same command completes
    cluster.remove_node(blind)
    second = cluster.add_node(num_cpus=1)
    code, text, err = run(*words, cwd=tmp_path, **NO_TOKEN)
    assert code == 0, text + err
    assert [row["status"] for row in rows(runs / "one")] == ["done"] * 2
    used = {a["node"] for record in records(runs / "one") for a in record["attempts"]}
    assert used == {cluster.head_node.node_id, second.node_id}
    assert not (runs / "one" / FOLDER).exists()
