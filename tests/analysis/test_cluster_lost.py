"""Nodes and workers that are lost while they analyse, and a driver that is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import tifffile

from tests.analysis.ray_cluster import OPEN, cluster_of_nodes, kill_node, workers_of
from tests.analysis.segment.command_line import picture
from tests.analysis.segment.conftest import model as model
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
QUICK = ("--budget", "12", "--resamples", "99", "--top", "1")


def start(module: str, *words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, **OPEN, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    text, err = process.communicate(timeout=500)
    return process.returncode, text, err


def tables(out: Path) -> dict[str, str]:
    """Return all tables below a folder, and the calibrations."""
    found = [p for pattern in ("*.csv", "calibration.json") for p in out.rglob(pattern)]
    return {str(p.relative_to(out)): p.read_text() for p in found if "wandb" not in p.parts}


def half_written(out: Path) -> list[Path]:
    return [*out.rglob(".*.tmp"), *out.glob(".nodes")]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core; what is lost of them is removed at the end."""
    with cluster_of_nodes({}, {}) as made:
        yield made


def lose(cluster: Any, node: Any) -> None:
    kill_node(node)
    cluster.remove_node(node, allow_graceful=False)


def wait_until_nothing_works(cluster: Any, seconds: float = 60) -> None:
    """What an ended driver has left running is ended by Ray."""
    end = time.monotonic() + seconds
    while left := [one for node in cluster.list_all_nodes() for one in workers_of(node)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def works(node: Any, name: str) -> list[psutil.Process]:
    return [one for one in workers_of(node, name) if one.cpu_times().user > 0]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_report_although_a_worker_and_then_a_node_are_lost(
    swept: Path, tmp_path: Path, cluster: Any
) -> None:
    for name in ("near", "far"):
        shutil.copytree(swept, tmp_path / name)
    assert ended(start("analysis.run", "near", *QUICK, cwd=tmp_path))[0] == 0
    head, second = cluster.list_all_nodes()
    process = start("analysis.run", "far", *QUICK, "--address", cluster.address, cwd=tmp_path)
    wait_for(lambda: works(head, "_work") and works(second, "_work"), process)
    for worker in works(head, "_work"):
        worker.kill()
    wait_for(lambda: works(second, "_work"), process)
    lose(cluster, second)
    code, text, err = ended(process)
    assert (code, err) == (0, ""), text + err
    assert tables(tmp_path / "far") == tables(tmp_path / "near")
    assert half_written(tmp_path / "far") == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_interrupted_report_leaves_nothing_behind(
    swept: Path, tmp_path: Path, cluster: Any
) -> None:
    shutil.copytree(swept, tmp_path / "far")
    process = start("analysis.run", "far", *QUICK, "--address", cluster.address, cwd=tmp_path)
    nodes = cluster.list_all_nodes()
    wait_for(lambda: all(works(node, "_work") for node in nodes), process)
    process.send_signal(signal.SIGINT)
    code, text, err = ended(process)
    assert code == 130, text + err
    assert err == "interrupted; run the same command again to continue (calibrations are kept)\n"
    wait_until_nothing_works(cluster)
    assert not (tmp_path / "far" / "report").exists()
    assert half_written(tmp_path / "far") == []


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(40):
        picture_ = picture(number, (260, 300), 30)[0]
        tifffile.imwrite(tmp_path / "images" / f"i{number:02}.tif", picture_)
    return tmp_path / "images"


def parts(out: Path) -> int:
    return len(list((out / "parts").glob("*.parquet")))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_images_although_a_worker_and_then_a_node_are_lost(
    model: Path, images: Path, tmp_path: Path, cluster: Any
) -> None:
    words = ("--model", model, images, "--out")
    assert ended(start("analysis.segment", *words, "near", cwd=tmp_path))[0] == 0
    _, second = cluster.list_all_nodes()
    far = tmp_path / "far"
    more = ("--address", cluster.address)
    process = start("analysis.segment", *words, far, *more, cwd=tmp_path)
    wait_for(lambda: parts(far) >= 2 and works(second, "Worker"), process)
    for worker in works(second, "Worker"):
        worker.kill()
    now = parts(far)
    wait_for(lambda: parts(far) >= now + 4 and works(second, "Worker"), process)
    assert parts(far) < 40
    lose(cluster, second)
    code, text, err = ended(process)
    assert (code, err) == (0, ""), text + err
    assert tables(far) == tables(tmp_path / "near")
    assert half_written(far) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_interrupted_segmenting_leaves_nothing_behind(
    model: Path, images: Path, tmp_path: Path, cluster: Any
) -> None:
    far = tmp_path / "far"
    words = ("--model", model, images, "--out", far, "--address", cluster.address)
    process = start("analysis.segment", *words, cwd=tmp_path)
    wait_for(lambda: parts(far) >= 2, process)
    process.send_signal(signal.SIGINT)
    code, text, err = ended(process)
    assert code == 130, text + err
    assert err == "interrupted; run the same command again to continue\n"
    wait_until_nothing_works(cluster)
    done = parts(far)
    assert 2 <= done < 40
    code, text, err = ended(start("analysis.segment", *words, cwd=tmp_path))
    assert (code, err) == (0, ""), text + err
    assert f"{done} of 40 images are already done" in text
    assert half_written(far) == []
