"""Nodes that lack something are named before any work starts; all run this copy of segsweep."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.ray_cluster import OPEN, cluster_of_nodes
from tests.sweep.namespaces import add_blind_node, available

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available(), reason="needs root's right to hide folders")
def test_a_node_without_the_run_folder_is_named_and_one_with_another_version_is_not(
    swept: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "runs" / "one", tmp_path / "other"
    shutil.copytree(swept, out)
    for name in ("analysis", "trainables"):
        shutil.copytree(ROOT / name, other / name)
    with (other / "trainables" / "config.py").open("a") as file:
        file.write("# an older version\n")
    with cluster_of_nodes({}) as cluster:
        blind = add_blind_node(cluster, tmp_path / "runs", num_cpus=1)
        older = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other)})
        done = subprocess.run(
            [sys.executable, "-m", "analysis.run", str(out), "--address", cluster.address],
            cwd=tmp_path,
            text=True,
            env={**os.environ, **OPEN, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{blind.node_id[:8]}) cannot find the run folder {out}; put the folder" in done.stderr
    assert older.node_id[:8] not in done.stderr, "it gets this version"
    assert not (out / "report").exists()
    assert not (out / ".nodes").exists()
