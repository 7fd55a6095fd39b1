"""``analysis.run --address``: the same report from the nodes of a real Ray cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from analysis.cluster import Nodes
from analysis.evaluation.images import LabelledImages
from analysis.run import main
from analysis.runfolder import AnalysisError
from analysis.spread import Here, Job
from tests.analysis.ray_cluster import OPEN, ray_cluster
from trainables.config import TrialConfig

ROOT = Path(__file__).parents[2]
QUICK = ("--budget", 6, "--resamples", 99)


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analysis.run", *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, **OPEN, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=500,
        check=False,
    )


def results(out: Path) -> dict[str, str]:
    """Return every table of a report, and the calibrations."""
    tables = {path.name: path.read_text() for path in (out / "report").glob("*.csv")}
    for path in out.glob("checkpoints/*/calibration.json"):
        tables[path.parent.name] = path.read_text()
    return tables


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_report_is_that_of_one_machine(swept: Path, cells: Path, tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.mkdir()
    for path in sorted((cells / "images").glob("*.tif"))[:5]:
        tifffile.imwrite(film / path.name, tifffile.imread(path))
    for name in ("near", "far"):
        shutil.copytree(swept, tmp_path / name)
    words = (*QUICK, "--unlabelled", film)
    near = run("near", *words, cwd=tmp_path)
    assert near.returncode == 0, near.stdout + near.stderr
    with ray_cluster() as address:
        far = run("far", *words, "--address", address, cwd=tmp_path)
    assert far.returncode == 0, far.stdout + far.stderr
    assert far.stderr == ""
    assert len(results(tmp_path / "far")) > 15
    assert results(tmp_path / "far") == results(tmp_path / "near")
    settings = json.loads((tmp_path / "far/report/settings.json").read_text())
    assert "--address" in settings["command"]


def test_no_cluster_is_said_before_any_work(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(swept), "--address", "127.0.0.1:1"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: no Ray cluster responds at '127.0.0.1:1'")
    assert said.err.count("\n") == 1
    assert said.out == ""


class FakeRay:
    """Only what is asked before any job begins."""

    def __init__(self, *nodes: dict[str, float], dead: int = 0) -> None:
        self.alive, self.dead = nodes, dead

    def nodes(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = [{"Alive": True, "Resources": r} for r in self.alive]
        dead: list[dict[str, object]] = [{"Alive": False, "Resources": {"CPU": 64.0}}] * self.dead
        return found + dead

    def put(self, value: object) -> object:
        return value


def test_a_cluster_without_room_is_refused(tmp_path: Path) -> None:
    ray = FakeRay({"CPU": 4.0, "memory": 2e9}, {"CPU": 3.0, "memory": 1e9}, dead=1)
    nodes = Nodes(ray, tmp_path, (), (100, 100))
    assert nodes.pieces == 7
    job = Job((), TrialConfig(encoder="resnet18"), 1)
    with pytest.raises(AnalysisError, match=r"no node .* has a CPU and \d\.\d GB .* Unet resnet18"):
        nodes.start(print, (), [job])


def test_here_the_calls_are_made_in_order_when_they_are_asked_for() -> None:
    said: list[object] = []

    def call(common: str, number: int, tick: object) -> int:
        said.append((common, number, tick))
        return number**2

    jobs = [Job((number,), TrialConfig(), 1) for number in (2, 3)]
    calls = Here().start(call, ("all",), jobs)
    assert said == []
    assert [one(print) for one in calls] == [4, 9]
    assert said == [("all", 2, print), ("all", 3, print)]


def test_another_process_gets_no_images() -> None:
    import pickle

    kept = LabelledImages(77)
    kept._held = {None: np.zeros(3)}  # type: ignore[dict-item]
    copy = pickle.loads(pickle.dumps(kept))
    assert (copy._held, copy._free) == ({}, 77)
