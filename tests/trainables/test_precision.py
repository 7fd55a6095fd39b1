"""Checkpoints say in which precision they were trained, and predict in it anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import override
from trainables import checkpoint
from trainables.architectures import build_model
from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.machine.hardware import cpu_computes_bf16
from trainables.predict import Scaling
from trainables.train import train

STARDIST = {"task": "stardist", "architecture": "StarDist"}


@pytest.mark.parametrize("limit", ["DEFAULT", "AVX512_CORE"])
def test_auto_is_stored_as_what_it_was(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    expected = "bf16" if cpu_computes_bf16() else "32"
    assert expected == "32" or limit == "DEFAULT"
    config = TrialConfig(encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=1)
    assert config.precision == "auto"
    train(config, open_dataset(tiny_dataset), tmp_path / "trial")
    assert checkpoint.load(tmp_path / "trial").config.precision == expected


def test_stardist_computes_in_float32() -> None:
    for precision in ("auto", "bf16", "32"):
        assert TrialConfig(**STARDIST, precision=precision).precision == "32"
    assert TrialConfig(task="stardist", precision="bf16").precision == "bf16"  # our own head
    (one,) = override([TrialConfig(**STARDIST)], {"task": ["semantic2"], "architecture": ["Unet"]})
    assert one.precision == "auto"


PREDICT = """
import sys, numpy as np
from trainables.checkpoint import load
image = np.load(sys.argv[1])
np.save(sys.argv[2], [load(path).logits(image).numpy() for path in sys.argv[3:]])
"""


def test_bf16_is_the_same_where_it_is_emulated(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (96, 128)).astype(np.uint16)
    np.save(tmp_path / "image.npy", image)
    torch.manual_seed(0)
    state = build_model("Unet", "mobilenet_v2", in_channels=1, classes=1).state_dict()
    for precision in ("32", "bf16"):
        config = TrialConfig(encoder="mobilenet_v2", precision=precision)
        checkpoint.save(tmp_path / precision, state, config, Scaling(0.4, 0.3), data={}, metrics={})
    found = {}
    for limit in ("DEFAULT", "AVX2"):
        words = [tmp_path / name for name in ("image.npy", "out.npy", "32", "bf16")]
        # in a process of its own: oneDNN reads its limit once
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit}
        subprocess.run([sys.executable, "-c", PREDICT, *words], env=environment, check=True)
        found[limit] = np.load(tmp_path / "out.npy")
    full, native = found["DEFAULT"]
    emulated = found["AVX2"][1]
    rounding = np.abs(native - full).max()
    assert 0 < rounding < 0.05 * np.ptp(full)
    assert np.abs(emulated - full).max() > 0.1 * rounding, "it computed in float32"
    assert np.abs(emulated - native).max() <= 2 * rounding
