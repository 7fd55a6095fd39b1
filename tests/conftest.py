"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import settings

# the same examples every time; --hypothesis-profile=default draws new ones
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real microscopy images; the test skips where they are absent."""
    named = os.environ.get("SEGSWEEP_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "yeastvision_phase" / "images").is_dir():
        pytest.skip("no real images: set SEGSWEEP_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of five noisy images with four bright discs each, of sides no network likes."""
    from skimage.draw import disk

    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(5):
        labels = np.zeros((90, 100), np.uint16)
        for label, center in enumerate([(20, 20), (20, 60), (60, 30), (65, 70)], 1):
            labels[disk(np.add(center, rng.integers(-5, 6, 2)), 10, shape=labels.shape)] = label
        image = rng.normal(1000, 30, labels.shape) + 300 * (labels > 0)
        tifffile.imwrite(root / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"i{number}.tif", labels)
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Hub of Hugging Face (tests/hub.py) with one weights file, asked by subprocesses too."""
    import torch
    from safetensors.torch import save

    path = Path(__file__).with_name("hub.py")
    spec = importlib.util.spec_from_file_location("segsweep_test_hub", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    server = module.Hub(
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
