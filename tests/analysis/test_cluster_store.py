"""Analyses on the nodes of a Ray cluster that share nothing but an object store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.ray_cluster import OPEN, cluster_of_nodes
from tests.analysis.segment.command_line import picture
from tests.analysis.segment.conftest import model as model
from tests.object_store import BUCKET, asked, client, keys_of, store_environment
from tests.object_store import server as server

ROOT = Path(__file__).parents[2]
QUICK = ("--budget", 6, "--resamples", 99)


def run(module: str, *words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, **OPEN, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        timeout=500,
        check=False,
    )


def upload(server: str, folder: Path, name: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{name}/{path.relative_to(folder).as_posix()}"
            client(server).upload_file(str(path), BUCKET, key)
    return f"s3://{BUCKET}/{name}"


def stored_run(server: str, swept: Path, cells: Path, folder: Path) -> str:
    """Put a run and its data into the store; no path in it is one of this machine."""
    shutil.copytree(swept, folder, ignore=shutil.ignore_patterns("tune", "wandb", "tensorboard"))
    plan = json.loads((folder / "plan.json").read_text())
    plan["data"]["path"] = upload(server, cells, "cells")
    (folder / "plan.json").write_text(json.dumps(plan))
    return upload(server, folder, "runs/swept")


def content(server: str, prefix: str) -> dict[str, str]:
    """Return the tables and calibrations of a run in the store."""
    s3 = client(server)
    names = [n for n in keys_of(server, prefix) if n.endswith((".csv", "calibration.json"))]
    return {
        name: s3.get_object(Bucket=BUCKET, Key=prefix + name)["Body"].read().decode()
        for name in names
        if name.startswith(("report/", "checkpoints/"))
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_report_from_nodes_that_share_only_the_store(
    server: str, swept: Path, cells: Path, tmp_path: Path
) -> None:
    out = stored_run(server, swept, cells, tmp_path / "run")
    shutil.copytree(swept, tmp_path / "near")
    near = run("analysis.run", "near", *QUICK, cwd=tmp_path)
    assert near.returncode == 0, near.stdout + near.stderr
    nodes = [store_environment(server, tmp_path / name) for name in ("one", "two")]
    driver = store_environment(server, tmp_path / "driver")
    with cluster_of_nodes(*nodes) as cluster:
        words = (out, *QUICK, "--address", cluster.address)
        far = run("analysis.run", *words, cwd=tmp_path, **driver)
    assert far.returncode == 0, far.stdout + far.stderr
    assert far.stderr == ""
    expected = {
        path.relative_to(tmp_path / "near").as_posix(): path.read_text()
        for pattern in ("report/**/*.csv", "checkpoints/*/calibration.json")
        for path in (tmp_path / "near").glob(pattern)
    }
    assert len(expected) > 15
    assert content(server, "runs/swept/") == expected
    image = next((cells / "images").iterdir()).name
    for name in ("one", "two"):
        kept = tmp_path / name / "s3" / BUCKET
        assert (kept / "cells" / "images" / image).is_file()
        assert list((kept / "runs" / "swept" / "checkpoints").glob("*/weights.*"))
    assert len(asked(f"GET /lab/cells/images/{image}")) == 3  # by the driver and each node, once
    assert keys_of(server, "runs/swept/.nodes") == []
    page = client(server).get_object(Bucket=BUCKET, Key="runs/swept/report/index.html")
    assert str(tmp_path).encode() not in page["Body"].read()


@pytest.mark.slow
def test_segmenting_with_a_model_in_the_store(server: str, model: Path, tmp_path: Path) -> None:
    import tifffile

    where = upload(server, model, "models/discs")
    (tmp_path / "images").mkdir()
    for number in range(6):
        tifffile.imwrite(tmp_path / "images" / f"i{number}.tif", picture(number)[0])
    near = run("analysis.segment", "--model", model, "images", "--out", "near", cwd=tmp_path)
    assert near.returncode == 0, near.stdout + near.stderr
    nodes = [store_environment(server, tmp_path / name) for name in ("one", "two")]
    driver = store_environment(server, tmp_path / "driver")
    with cluster_of_nodes(*nodes) as cluster:
        words = ("--model", where, "images", "--out", "far", "--address", cluster.address)
        far = run("analysis.segment", *words, cwd=tmp_path, **driver)
    assert far.returncode == 0, far.stdout + far.stderr
    for name in ("objects.csv", "objects_plain.csv"):
        assert (tmp_path / "far" / name).read_text() == (tmp_path / "near" / name).read_text()
    for name in ("one", "two"):
        kept = tmp_path / name / "s3" / BUCKET / "models" / "discs"
        assert (kept / "weights.pt").is_file()
    assert not (tmp_path / "far" / ".nodes").exists()
    again = run("analysis.segment", *words[:-2], cwd=tmp_path, **driver)
    assert "is finished" in again.stdout
