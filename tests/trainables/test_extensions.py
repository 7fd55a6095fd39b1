"""Code that is not this project's: looked for without importing it, and refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables import extensions
from trainables.architectures import build_model, build_own
from trainables.config import TrialConfig
from trainables.errors import CheckpointError, TrainingError
from trainables.footprint import footprint_key
from trainables.losses import build_loss

RAISES = "raise RuntimeError('imported')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules are found; their importing is an error."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    extensions.look_in(tmp_path)
    (tmp_path / "ownnet.py").write_text(f"import json, numpy, blocks\n{RAISES}def build(): ...\n")
    (tmp_path / "blocks.py").write_text(f"from ownlayers.deep import Conv\n{RAISES}")
    (tmp_path / "ownlayers").mkdir()
    (tmp_path / "ownlayers" / "__init__.py").write_text(RAISES)
    (tmp_path / "ownlayers" / "deep.py").write_text(f"import ownnet\n{RAISES}class Conv: ...\n")
    (tmp_path / "typo.py").write_text("def build(:\n")
    return tmp_path


@pytest.mark.parametrize("name", ["ownnet:build", "ownlayers.deep:Conv", "torch.nn:Module", "Unet"])
def test_what_is_there_is_found_unimported(name: str, folder: Path) -> None:
    extensions.check_found(name, extensions.ARCHITECTURES)
    assert not {"ownnet", "ownlayers"} & set(sys.modules)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:build", "no module nowhere is found here; put nowhere.py beside"),
        ("ownlayers.flat:Conv", "no module ownlayers.flat is found here"),
        ("ownnet.deep:build", "no module ownnet.deep is found here"),
        ("ownnet:built", "ownnet.py defines no built"),
        ("typo:build", "typo.py, line 1: invalid syntax"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        extensions.check_found(name, extensions.ARCHITECTURES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a:", ":b", "a b:c", "a:b:c", "../a:b", "a.:b"])
def test_no_names(name: str) -> None:
    for field in ("architecture", "loss"):
        with pytest.raises(ValueError, match="write module:function"):
            TrialConfig(**{field: name})


def test_workers_get_what_is_not_installed(folder: Path) -> None:
    sent = extensions.sources(["ownnet:build", "torch.nn:Module", "json:loads", "sweep.run:main"])
    assert set(sent) == {folder / "ownnet.py", folder / "blocks.py", folder / "ownlayers"}


def test_memory_is_estimated_anew_when_the_code_changes(folder: Path) -> None:
    config = TrialConfig(architecture="ownnet:build", encoder="none")
    before = footprint_key(config, "cpu")
    assert before == footprint_key(config, "cpu")
    (folder / "ownlayers" / "deep.py").write_text("class Conv: pass\n")
    assert footprint_key(config, "cpu") != before
    assert "code" not in footprint_key(TrialConfig(), "cpu")


def test_trials_of_ones_own_have_names_of_their_own() -> None:
    mine = [TrialConfig(architecture=a, encoder="none") for a in ("a.b:c", "a_b:c")]
    assert mine[0].trial_id("f") != mine[1].trial_id("f")
    assert all(one.trial_id("f").startswith("semantic2-a_b_c-none-s0-") for one in mine)
    assert mine[0] == TrialConfig(architecture="a.b:c", encoder="none", encoder_weights="swsl")


def test_what_a_checkpoint_may_name() -> None:
    for name in ("Unet", *extensions.TRUSTED):
        extensions.check_registered(name, Path("c"))
    for name in ("os:system", "segmentation_models_pytorch:from_pretrained"):
        with pytest.raises(CheckpointError, match=f"its network is {name}"):
            extensions.check_registered(name, Path("c"))


def test_networks_that_break_the_contract(folder: Path, tmp_path: Path) -> None:
    network = build_own(lambda *_, **__: nn.Conv2d(1, 2, 3), "own:build", "none")
    with pytest.raises(TrainingError, match=r"own:build gives \(1, 2, 6, 6\) for .*\(1, 1, 8, 8\)"):
        network(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"own:build\('none', .*raises TypeError: .*in_channels"):
        build_own(lambda encoder: nn.Identity(), "own:build", "none")
    with pytest.raises(ValueError, match=r"own:build gives a int, not a torch\.nn\.Module"):
        build_own(lambda *_, **__: 1, "own:build", "none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ownnet:build: RuntimeError: imported"):
        build_model("ownnet:build", "none")
    (folder / "plain.py").write_text(
        "from torch import nn\ndef build(*_, **__): return nn.Conv2d(1, 1, 1)\n"
    )
    with pytest.raises(ValueError, match="plain:build has no part named encoder"):
        build_model("plain:build", "resnet18", encoder_weights=tmp_path / "w.pth")
    del sys.modules["plain"]


def test_losses_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"unknown loss 'l2'; known: dice, .*module:function"):
        TrialConfig(loss="l2")
    with pytest.raises(ValueError, match=r"builtins:dict gives a dict, not a torch\.nn.Module"):
        build_loss("builtins:dict", classes=3)
