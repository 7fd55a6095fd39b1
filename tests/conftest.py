"""Fixtures shared by all tests; what takes long is made once per session."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from filelock import FileLock
from hypothesis import settings
from skimage.draw import disk

from tests.hub import Hub

# the same examples every time; --hypothesis-profile=default draws new ones
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


if os.environ.get("SEGSWEEP_QUICK"):  # make test-quick: whoever imports them is told so
    for absent in ("ray", "tensorflow"):
        sys.modules[absent] = None  # type: ignore[assignment]

# a sweep that is told of GPUs (--gpus, or a node's resources) trains on the CPU here
os.environ.setdefault("SEGSWEEP_PRETEND_GPUS", "1")


FIRST = """
sweep/test_sweep.py
analysis/report/test_report.py
sweep/test_resume.py
analysis/evaluation/test_calibration.py
sweep/cluster/test_blind_nodes.py
analysis/test_run.py
trainables/stardist/test_stardist.py
sweep/test_shortage.py
trainables/stardist/test_stardist_scripted.py
sweep/doctor/test_doctor.py
analysis/report/figures/test_figures.py
sweep/test_wandb_online.py
analysis/kernels/test_kernels.py
sweep/cluster/test_lost_node.py
sweep/test_precision.py
trainables/records/test_resumable.py
sweep/test_learning.py
analysis/segment/test_interrupted.py
sweep/test_own_networks.py
trainables/tasks/test_tasks.py
"""
"""Files that take longest: begun first, so that pytest-xdist's two processes end together, and in
turn those that wait for Ray and those that compute. The first makes `swept`, which others need.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand out the files of `FIRST` before all others."""
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(FIRST.split())}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real microscopy images; the test skips where they are absent."""
    named = os.environ.get("SEGSWEEP_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "yeastvision_phase" / "images").is_dir():
        pytest.skip("no real images: set SEGSWEEP_DATA to the folder that holds them")
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often this process hashes which file."""
    counts: Counter[Path] = Counter()
    real = hashlib.file_digest

    def counting(handle: Any, digest: Any) -> Any:
        counts[Path(handle.name)] += 1
        return real(handle, digest)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return counts


TINY = {
    "train": [((90, 100), 4), ((90, 100), 4), ((90, 100), 4)],
    "val": [((90, 100), 4), ((82, 108), 1)],
    "test": [((90, 100), 3), ((88, 97), 1), ((95, 110), 4)],
}
"""Shapes and numbers of discs: no two images of val or test alike, so that means can be wrong.
Padded for StarDist they are alike again: TensorFlow compiles once.
"""


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of eight noisy images of bright discs, of sides no network likes: see `TINY`."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    images = [(split, *one) for split, many in TINY.items() for one in many]
    stems: dict[str, list[str]] = {split: [] for split in TINY}
    for number, (split, shape, discs) in enumerate(images):
        stems[split].append(f"i{number}")
        labels = np.zeros(shape, np.uint16)
        for label, center in enumerate([(20, 20), (20, 60), (60, 30), (65, 70)][:discs], 1):
            labels[disk(np.add(center, rng.integers(-5, 6, 2)), 10, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    lines = [f"  {name}: [{', '.join(members)}]" for name, members in stems.items()]
    (root / "dataset.yaml").write_text("\n".join(["split:", *lines]) + "\n")
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Hub of Hugging Face (tests/hub.py) with one weights file, asked by subprocesses too."""
    import torch
    from safetensors.torch import save

    config = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    server = Hub(
        {
            "model.safetensors": save({"conv1.weight": torch.arange(6.0)}),
            "config.json": json.dumps(config).encode(),
        }
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_cells(root: Path) -> Path:
    """Write 18 images of touching small and large discs; one of each split shows no cell."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rows = ["image,label,track,population"]
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(18):
        stem = f"i{number:02d}"
        split = ("train", "val", "test")[number // 6]
        splits[split].append(stem)
        labels = np.zeros((96, 110), np.uint16)
        if number % 6 != 5:
            centers = [(20, 20), (20, 38), (60, 30), (65, 80), (30, 80)]
            for label, center in enumerate(centers, 1):
                radius = 7 if label % 2 else 11
                place = np.add(center, rng.integers(-3, 4, 2))
                labels[disk(place, radius, shape=labels.shape)] = label
            present = np.unique(labels[labels > 0])
            rows += [f"{stem},{i},,{'small' if i % 2 else 'large'}" for i in present]
        image = rng.normal(1000, 30, labels.shape) + 400 * (labels > 0)
        tifffile.imwrite(root / "images" / f"{stem}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"{stem}.tif", labels)
    (root / "objects.csv").write_text("\n".join(rows) + "\n")
    lines = [f"  {name}: [{', '.join(stems)}]" for name, stems in splits.items()]
    (root / "dataset.yaml").write_text("\n".join(["pixel_size_um: 0.5", "split:", *lines]) + "\n")
    return root


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of this session, the same one for all of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cells(shared: Path) -> Path:
    """Folder of the data set of `swept`."""
    with FileLock(shared / "cells.lock"):
        return shared / "cells" if (shared / "cells").exists() else make_cells(shared / "cells")


SPACE = """
from search_spaces import SearchSpace, grid
SHARED = dict(crop_size=64, batch_size=4, epochs=6, learning_rate=5e-3, augmentation="none")
NETWORKS = (
    *grid({"architecture": ["Unet", "FPN"]}, encoder="mobilenet_v2", **SHARED),
    *grid(task="semantic3", architecture="Unet", encoder="mobilenet_v2", **SHARED),
)
SPACE = SearchSpace(trials=(
    *NETWORKS,
    *grid(task="stardist", architecture="Unet", encoder="mobilenet_v2", **SHARED),
    *grid(architecture="Unet", encoder="tu-no_such_network", **SHARED),
))
"""
SHARE_ONE_GPU = (
    "--gpus",
    "1",
    "--set",
    "gpus_per_trial=0.5",
    "--set",
    "cpus_per_trial=0.5",
)
"""Or what Ray takes for one: nothing here needs a real GPU."""


@dataclass(frozen=True)
class Swept:
    """A finished sweep, as the command line left it; to be read only."""

    out: Path
    space: Path
    data: Path
    code: int
    text: str
    err: str


@pytest.fixture(scope="session")
def sweep_of_cells(cells: Path, shared: Path) -> Swept:
    """The one undisturbed sweep of this session, by the real command line.

    Three ways of making instances, trials that share a GPU, W&B and TensorBoard, one trial that
    fails.
    """
    folder = shared / "swept"
    with FileLock(shared / "swept.lock"):
        said = folder / "said.json"
        if not said.exists():
            said.write_text(json.dumps(_sweep(cells, folder)))
        code, text, err = json.loads(said.read_text())
    return Swept(folder / "run", folder / "space.py", cells, code, text, err)


def _sweep(cells: Path, folder: Path) -> tuple[int, str, str]:
    folder.mkdir()
    (folder / "space.py").write_text(SPACE)
    words = (
        "space.py",
        "--data",
        cells,
        "--out",
        folder / "run",
        *SHARE_ONE_GPU,
        "--wandb",
        "offline",
        "--set",
        "tensorboard=true",
    )
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    done = subprocess.run(
        [sys.executable, "-m", "sweep.run", *map(str, words)],
        cwd=folder,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in drop},
        capture_output=True,
        timeout=500,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="session")
def swept(sweep_of_cells: Swept) -> Path:
    """Run folder of a sweep in which exactly the trial failed that had to, for its reason."""
    told = sweep_of_cells.text + sweep_of_cells.err
    assert sweep_of_cells.code == 1, told
    with open(sweep_of_cells.out / "leaderboard.csv", newline="") as handle:
        board = list(csv.DictReader(handle))
    found = sorted((row["task"], row["architecture"], row["status"]) for row in board)
    assert found == [
        ("semantic2", "FPN", "done"),
        ("semantic2", "Unet", "done"),
        ("semantic2", "Unet", "failed"),
        ("semantic3", "Unet", "done"),
        ("stardist", "Unet", "done"),
    ], told
    (failed,) = (row for row in board if row["status"] == "failed")
    assert failed["encoder"] == "tu-no_such_network"
    assert "no_such_network" in failed["error"]
    return sweep_of_cells.out
