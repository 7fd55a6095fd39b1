"""Estimated and measured footprints, and their cache."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from trainables.config import ARCHITECTURES, PAPER_ENCODERS, TrialConfig
from trainables.footprint import (
    Footprint,
    FootprintCache,
    estimate,
    footprint_key,
    output_channels,
    probe,
)

SMALL = TrialConfig(architecture="Unet", encoder="resnet18", crop_size=64, batch_size=2)
ONE = Footprint(parameters=7, activation_mb=1.5, peak_mb=3.25, gflops=0.125, measured=True)


def _config(**changes: Any) -> TrialConfig:
    """Make a configuration without its checks, which need not know every task."""
    return SMALL.model_copy(update=changes)


def test_output_channels_by_task() -> None:
    assert output_channels(SMALL) == 1
    assert output_channels(_config(task="semantic3")) == 3
    assert output_channels(_config(task="stardist")) == 33
    assert output_channels(_config(task="stardist", rays=64)) == 65


def test_one_convolution_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from trainables import architectures, footprint

    monkeypatch.setattr(footprint, "FRAMEWORK_MB", 0.0)
    monkeypatch.setattr(footprint, "OVERHEAD", 1.0)
    monkeypatch.setattr(
        architectures, "build_model", lambda *_, **__: nn.Conv2d(1, 16, 3, padding=1, bias=False)
    )
    found = estimate(_config(crop_size=256, batch_size=4))
    one = 16 * 256**2 * 4 * 4 / 2**20  # MiB of the output: 16
    assert found.parameters == 144
    assert found.gflops == pytest.approx(2 * 9 * 16 * 256**2 / 1e9, abs=1e-3)
    # the output, its softplus, and the loss's target
    assert one <= found.activation_mb <= 2 * one + 0.1
    # gradients come beside them; the convolution's largest operand is its output
    assert 3 * one + one <= found.peak_mb <= 6 * one + one


def test_estimate_grows_as_it_should() -> None:
    base = estimate(SMALL)
    assert not base.measured
    assert 14e6 < base.parameters < 15e6
    assert base.peak_mb > 16 * base.parameters / 2**20
    double = estimate(_config(batch_size=4))
    assert double.activation_mb == pytest.approx(2 * base.activation_mb, rel=0.1)
    assert double.gflops == pytest.approx(base.gflops, rel=1e-3)
    larger = estimate(_config(crop_size=128))
    assert larger.gflops == pytest.approx(4 * base.gflops, rel=1e-2)
    three = estimate(_config(task="semantic3"))
    assert three.parameters == base.parameters + 2 * (16 * 9 + 1)
    assert estimate(SMALL) == base


def test_bfloat16_keeps_about_half() -> None:
    config = _config(crop_size=224, batch_size=8)
    full, half = estimate(config), estimate(_config(crop_size=224, batch_size=8, precision="bf16"))
    assert 0.45 < half.activation_mb / full.activation_mb < 0.75
    assert half.peak_mb < full.peak_mb
    assert estimate(config, bf16=True) == half  # auto on hardware that computes in it
    assert half.gflops == full.gflops


def test_large_images_take_more_than_small_batches() -> None:
    trained = estimate(SMALL)
    assert estimate(SMALL, image_shape=(64, 64)).peak_mb == trained.peak_mb
    assert estimate(SMALL, image_shape=(2000, 2048)).peak_mb > 2 * trained.peak_mb


@contextmanager
def at_most_more_mb(megabytes: int) -> Iterator[None]:
    """Let this process allocate no more than this beside what it holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_the_limit_holds() -> None:
    import torch

    with at_most_more_mb(100), pytest.raises(RuntimeError, match="memory"):
        torch.empty(500 * 2**20, dtype=torch.uint8)


def test_estimate_takes_no_memory() -> None:
    config = _config(encoder="resnext101_32x32d", crop_size=224, batch_size=8)
    estimate(SMALL)  # imports
    with at_most_more_mb(500):
        found = estimate(config)
    assert found.parameters > 450e6
    assert found.peak_mb > 8000


def test_stardist_network_of_tensorflow() -> None:
    sizes = {"crop_size": 256, "batch_size": 4}
    config = _config(task="stardist", architecture="StarDist", grid=1, **sizes)
    found = estimate(config)
    assert found.parameters == 1_406_689  # as Keras counts Config2D(grid=(1, 1), n_rays=32)
    assert found.gflops == pytest.approx(21.13, abs=0.01)
    for grid, parameters in ((2, 1_425_185), (4, 1_443_681)):  # as Keras counts them
        coarse = estimate(_config(task="stardist", architecture="StarDist", grid=grid, **sizes))
        assert coarse.parameters == parameters
        assert coarse.peak_mb < found.peak_mb
        # the network itself works on a fraction of the pixels; two convolutions per halving do not
        assert 1 / grid**2 < coarse.gflops / found.gflops < 1 / grid**2 + 0.1
    assert 500 < found.peak_mb < 3000
    footprint, reason = probe(config, "cpu")
    assert footprint is None
    assert "TensorFlow" in reason


def test_key_holds_what_determines_it() -> None:
    key = footprint_key(SMALL, "Tesla V100")
    same = {"loss": "focal", "learning_rate": 0.1, "seed": 3, "augmentation": "none"}
    assert footprint_key(_config(**same), "Tesla V100") == key
    for change in (
        {"task": "semantic3"},
        {"architecture": "FPN"},
        {"encoder": "vgg11"},
        {"crop_size": 96},
        {"batch_size": 3},
        {"precision": "32"},
    ):
        assert footprint_key(_config(**change), "Tesla V100") != key
    star = _config(task="stardist", architecture="StarDist")
    keys = {
        footprint_key(star.model_copy(update=change), "Tesla V100")
        for change in ({"grid": 1}, {"grid": 2}, {"grid": 4}, {"grid": 1, "rays": 64})
    }
    assert len(keys) == 4
    assert footprint_key(SMALL, "cpu") != key
    assert footprint_key(SMALL, "Tesla V100", image_shape=(90, 100)) != key
    assert "torch" in key


def test_cache_keeps_entries(tmp_path: Path) -> None:
    cache = FootprintCache(tmp_path / "below" / "footprints.json")
    assert cache.get("a") is None
    cache.put("a", ONE)
    FootprintCache(cache.path).put("b", ONE)  # another process
    assert cache.get("a") == cache.get("b") == ONE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"[[1, 2]]",
        b'"text"',
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"a": 1}',
        b'{"a": {"peak_mb": 1}}',
        b'{"a": {"other": 1}}',
    ],
)
def test_cache_survives_damage(tmp_path: Path, content: bytes) -> None:
    cache = FootprintCache(tmp_path / "footprints.json")
    cache.path.write_bytes(content)
    assert cache.get("a") is None
    cache.put("b", ONE)
    assert cache.get("b") == ONE
    assert isinstance(json.loads(cache.path.read_text()), dict)


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = FootprintCache(tmp_path / "file" / "footprints.json")
    cache.put("a", ONE)
    assert cache.get("a") is None


def _answer(returncode: int, stdout: str = "", stderr: str = "") -> Any:
    done = subprocess.CompletedProcess([], returncode, stdout, stderr)
    return mock.patch("trainables.footprint.subprocess.run", return_value=done)


def test_probe_gives_reasons() -> None:
    with _answer(-9):
        assert probe(SMALL, "cpu") == (
            None,
            "measuring was killed, most likely because memory ran out",
        )
    with _answer(0, '{"error": "OutOfMemoryError: CUDA out of memory"}\n'):
        assert probe(SMALL, "cuda") == (None, "OutOfMemoryError: CUDA out of memory")
    with _answer(1, "", "Traceback\nImportError: no torch\n"):
        assert probe(SMALL, "cpu")[1] == "measuring ended with code 1: ImportError: no torch"
    with _answer(-6, "half a line"):
        assert probe(SMALL, "cpu")[0] is None
    with mock.patch("trainables.footprint.subprocess.run", side_effect=OSError("no memory")):
        assert "no memory" in probe(SMALL, "cpu")[1]
    found, reason = probe(SMALL, "cpu", timeout_s=0.01)
    assert found is None
    assert "more than 0.01 s" in reason


def test_importing_footprint_imports_no_torch() -> None:
    code = "import sys, trainables.footprint; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(
    ("architecture", "encoder", "crop_size", "batch_size"),
    [("Unet", "resnet18", 128, 4), ("FPN", "vgg11", 128, 8), ("PAN", "resnet50", 128, 8)],
)
def test_estimate_agrees_with_probe(
    architecture: str, encoder: str, crop_size: int, batch_size: int, precision: str
) -> None:
    config = TrialConfig(
        architecture=architecture,
        encoder=encoder,
        crop_size=crop_size,
        batch_size=batch_size,
        precision=precision,
    )
    measured, reason = probe(config, "cpu", timeout_s=300)
    assert measured is not None, reason
    assert measured.measured
    found = estimate(config)
    assert found.parameters == measured.parameters
    assert 0.85 < found.peak_mb / measured.peak_mb < 1.6


@pytest.mark.slow
def test_probe_says_why_it_cannot() -> None:
    measured, reason = probe(SMALL, "no-such-device", timeout_s=120)
    assert measured is None
    assert reason.startswith("RuntimeError")


@pytest.mark.slow
def test_all_cells_of_the_paper_are_estimated() -> None:
    for architecture in ARCHITECTURES:
        for encoder in PAPER_ENCODERS:
            found = estimate(
                TrialConfig(architecture=architecture, encoder=encoder, crop_size=224, batch_size=8)
            )
            assert 1000 < found.peak_mb < 32_000
            assert found.gflops > 1
