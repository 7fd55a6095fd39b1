"""Images shared among the workers of a real Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from analysis.runfolder import AnalysisError
from analysis.segment.cli import main
from analysis.segment.cluster import plan_workers
from tests.analysis.ray_cluster import OPEN, ray_cluster
from trainables import checkpoint
from trainables.architectures import build_model
from trainables.config import TrialConfig
from trainables.predict import Scaling

ROOT = Path(__file__).parents[3]


def node(**resources: float) -> dict[str, object]:
    return {"Alive": True, "Resources": resources}


def test_as_many_workers_as_fit() -> None:
    gb = 2**30
    assert plan_workers([node(CPU=8, memory=9 * gb)], 2 * gb, 100)[0] == 4
    assert plan_workers([node(CPU=2, memory=90 * gb)] * 3, 2 * gb, 100)[0] == 6
    assert plan_workers([node(CPU=2, memory=90 * gb)] * 3, 2 * gb, 5)[0] == 5
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "memory": 90.0 * gb}}
    assert plan_workers([node(CPU=1, memory=9 * gb), dead], 2 * gb, 5)[0] == 1
    gpus = plan_workers([node(CPU=1, memory=gb), node(CPU=8, GPU=2, memory=gb)], 2 * gb, 5)
    assert gpus == (2, {"num_gpus": 1, "num_cpus": 1}, "cuda")
    with pytest.raises(AnalysisError, match="no node"):
        plan_workers([node(CPU=8, memory=gb)], 2 * gb, 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = TrialConfig(encoder="mobilenet_v2", precision="32")
    network = build_model(config.architecture, config.encoder, in_channels=1, classes=1)
    path = tmp_path_factory.mktemp("model") / "trial"
    data = {"fingerprint": "f"}
    checkpoint.save(path, network.state_dict(), config, Scaling(0.4, 0.3), data=data, metrics={})
    return path


@pytest.fixture
def address() -> Iterator[str]:
    with ray_cluster() as found:
        yield found


def segment(*words: object, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.segment", *map(str, words)],
        cwd=cwd,
        text=True,
        env={**os.environ, **OPEN, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=500,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives(model: Path, tmp_path: Path, address: str) -> None:
    rng = np.random.default_rng(0)
    film = rng.integers(0, 60000, (7, 90, 130)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "film.tif", film, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "film.tif") as tiff:
        offset = tiff.pages[3].dataoffsets[0]
    content = (tmp_path / "film.tif").read_bytes()
    (tmp_path / "film.tif").write_bytes(content[:offset] + b"\xff" * 40 + content[offset + 40 :])
    words = ("--model", model, "film.tif", "--track", "--out")
    code, text, err = segment(*words, "far", "--address", address, cwd=tmp_path)
    assert code == 1, text + err
    assert err.count("\n") == 1
    assert "film.tif: page 3" in err
    assert segment(*words, "near", cwd=tmp_path)[0] == 1
    near, far = (pd.read_csv(tmp_path / n / "objects_plain.csv") for n in ("near", "far"))
    assert len(far)
    pd.testing.assert_frame_equal(near, far)
    code, text, err = segment(*words, "near", "--address", address, cwd=tmp_path)
    assert code == 1
    assert "6 of 7 images are already done" in text


def test_no_cluster_is_said(model: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint16))
    words = ("--model", model, "a.tif", "--out", "out", "--address", "127.0.0.1:1")
    code, _, err = segment(*words, cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: no Ray cluster responds at '127.0.0.1:1'")
    assert err.count("\n") == 1


def test_without_an_address_there_is_no_ray(model: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint16))
    code = (
        "import sys; from analysis.segment import main; code = main(sys.argv[1:]);"
        "assert code == 0 and 'ray' not in sys.modules, code"
    )
    words = ["--model", str(model), "a.tif", "--out", "out"]
    subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"},
    )
    assert main([*words[:2], str(tmp_path / "a.tif"), "--out", str(tmp_path / "b")]) == 0, (
        "in this process as well"
    )
