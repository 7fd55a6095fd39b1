"""Checkpoints that are not as `checkpoint.save` left them; no training is needed for these."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import checkpoint
from trainables.architectures import build_model
from trainables.config import TrialConfig
from trainables.errors import CheckpointError
from trainables.predict import Predictor, Scaling
from trainables.tasks import build_task

CONFIG = TrialConfig(encoder="mobilenet_v2", precision="32")
SCALING = Scaling(0.4, 0.3)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(CONFIG.architecture, CONFIG.encoder, in_channels=1, classes=1).eval()


@pytest.fixture
def folder(network: torch.nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "trial"
    data = {"fingerprint": "f", "pixel_size_um": None}
    checkpoint.save(path, network.state_dict(), CONFIG, SCALING, data=data, metrics={})
    return path


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text())
    return content


def put(folder: Path, content: Any) -> None:
    (folder / "checkpoint.json").write_text(json.dumps(content))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rehash(folder: Path) -> None:
    content = manifest(folder)
    digest = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
    put(folder, {**content, "weights": {"file": "weights.pt", "sha256": digest}})


def test_a_loaded_network_predicts_what_the_saved_one_did(
    folder: Path, network: torch.nn.Module
) -> None:
    loaded = checkpoint.load(folder)
    assert isinstance(loaded, Predictor)
    assert loaded.config == CONFIG
    assert loaded.scaling == SCALING
    assert not loaded.network.training
    image = np.random.default_rng(0).integers(0, 4000, (70, 90)).astype(np.uint16)
    network = network.to(memory_format=torch.channels_last)
    original = Predictor(CONFIG, network, SCALING, build_task(CONFIG), {})
    np.testing.assert_array_equal(loaded.probability(image), original.probability(image))
    by_file = checkpoint.load(folder / "checkpoint.json")
    np.testing.assert_array_equal(by_file.probability(image), loaded.probability(image))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch.save"])
def test_malicious_weights_are_refused_and_not_executed(folder: Path, plain: bool) -> None:
    proof = folder.parent / "executed"
    content = {"encoder.weight": Evil(proof)}
    if plain:
        (folder / "weights.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / "weights.pt")
    rehash(folder)
    assert "cannot be read" in refused(folder)
    assert not proof.exists()
    if plain:
        pickle.loads((folder / "weights.pt").read_bytes())
    else:
        torch.load(folder / "weights.pt", weights_only=False)
    assert proof.exists()  # the file was a danger indeed


def test_a_folder_without_manifest_or_weights(folder: Path) -> None:
    (folder / "weights.pt").unlink()
    assert "weights file weights.pt is missing" in refused(folder)
    (folder / "checkpoint.json").unlink()
    assert "is not a checkpoint: it has no checkpoint.json" in refused(folder)


def test_weights_outside_the_folder_are_not_read(folder: Path) -> None:
    (folder / "weights.pt").rename(folder.parent / "weights.pt")
    content = manifest(folder)
    for name in ("../weights.pt", str(folder.parent / "weights.pt")):
        put(folder, {**content, "weights": {**content["weights"], "file": name}})
        assert "is missing" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe{}", b"{}"])
def test_a_damaged_manifest(folder: Path, content: bytes) -> None:
    (folder / "checkpoint.json").write_bytes(content)
    assert "checkpoint.json is damaged" in refused(folder)


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m.update(format=99), "has format 99, but this version reads 1"),
    (lambda m: m.update(format=99, versions=None), "is damaged"),
    (lambda m: m.pop("config"), "is damaged: it has no 'config'"),
    (lambda m: m["weights"].pop("file"), "is damaged: it has no 'file'"),
    (lambda m: m["weights"].pop("sha256"), "is damaged: it has no 'sha256'"),
    (lambda m: m["input"].pop("std"), "is damaged: it has no 'std'"),
    (lambda m: m["input"].update(mean="grey"), "is damaged: could not convert"),
    (lambda m: m["config"].update(colour=1), "config.colour: Extra inputs are not permitted"),
    (lambda m: m["config"].update(epochs=0), "config.epochs"),
    (lambda m: m["weights"].update(sha256="0"), "its SHA-256 differs from the recorded one"),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_changed_manifest(
    folder: Path, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    content = manifest(folder)
    change(content)
    put(folder, content)
    assert expected in refused(folder)


@pytest.mark.parametrize("state", [torch.zeros(3), [torch.zeros(3)], {"a": 1}])
def test_weights_that_are_not_named_tensors(folder: Path, state: Any) -> None:
    torch.save(state, folder / "weights.pt")
    rehash(folder)
    assert "may contain only named tensors" in refused(folder)


def test_weights_of_another_network(folder: Path) -> None:
    torch.save({"a": torch.zeros(3)}, folder / "weights.pt")
    rehash(folder)
    assert "does not fit semantic2/Unet/mobilenet_v2" in refused(folder)


def test_damaged_weights(folder: Path) -> None:
    content = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(content[: len(content) // 2])
    assert "is damaged: its SHA-256" in refused(folder)
    rehash(folder)  # damaged before it was recorded
    assert "cannot be read" in refused(folder)
