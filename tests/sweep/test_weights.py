"""Encoder weights through the command line: what they are called, and which trials they make."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import SearchSpace, grid
from sweep.request import RequestError, make_request
from sweep.run import main
from sweep.trial import config_of
from sweep.weights import name_weights, weights_ids
from trainables.config import TrialConfig

SPACE = """
from search_spaces import SearchSpace, grid
SPACE = SearchSpace(trials=grid(encoder="resnet18", epochs=1, crop_size=64))
"""


Planned = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Planned:
    """Plan in this process, in the test's own folder; return exit code, text and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "mine.py").write_text(SPACE)

    def planned(*words: str) -> tuple[int, str, str]:
        space = () if words and words[0] == "paper" else ("mine.py",)
        code = main([*space, *words, "--plan"])
        return (code, *capsys.readouterr())

    return planned


def trial_ids(output: str) -> list[str]:
    return re.findall(r"^semantic2-\S+", output, re.M)


def test_other_content_at_the_same_path_is_another_trial(
    tiny_dataset: Path, tmp_path: Path, plan: Planned
) -> None:
    path = tmp_path / "resnet18.pth"
    found: list[str] = []
    for value in (1.0, 2.0, 1.0):
        torch.save({"conv1.weight": torch.full((3,), value)}, path)
        words = ("--data", str(tiny_dataset), "--set", "encoder_weights=resnet18.pth")
        code, text, err = plan(*words)
        assert code == 0, err
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
        assert "licence not known" in text
        found += trial_ids(text)
    first, second, third = found
    assert first == third != second


def test_the_plan_names_training_data_licence_and_revision(
    hub: Any, tiny_dataset: Path, plan: Planned
) -> None:
    words = ("--data", str(tiny_dataset), "--set", "encoder_weights=pretrained,swsl")
    code, text, err = plan(*words)
    assert code == 0, err
    lines = [line for line in text.splitlines() if line.startswith("encoder weights")]
    imagenet, swsl = lines
    assert "resnet18.imagenet: trained on ImageNet-1k; BSD-3-Clause" in imagenet
    assert "resnet18.swsl: trained on 940 million public images with hashtags" in swsl
    assert "CC-BY-NC-4.0 (no commercial use)" in swsl
    digest = hub.digests["model.safetensors"]
    assert all(re.search(rf"revision [0-9a-f]{{40}}; SHA-256 {digest}", line) for line in lines)
    assert len(set(trial_ids(text))) == 2
    assert hub.asked["GET", "model.safetensors"] == 0
    hub.digests["model.safetensors"] = "2" * 64  # the hub now holds another file
    _, again, _ = plan(*words)
    assert not set(trial_ids(again)) & set(trial_ids(text))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["paper", "--set", "encoder_weights=pretrained"],
            [
                "resnext101_32x32d",
                "encoder_weights=instagram",
                "CC-BY-NC-4.0",
                "--set encoder=inceptionresnetv2,resnest269,resnet152,vgg19",
            ],
        ),
        (
            ["--set", "encoder_weights=noisy-student"],
            [
                "encoder_weights=noisy-student: no such weights are published for resnet18",
                "encoder_weights=pretrained (trained on ImageNet-1k; BSD-3-Clause)",
            ],
        ),
        (["--set", "encoder_weights=swsll"], ["encoder_weights=swsll: no such weights"]),
        (["--set", "encoder_weights=./nowhere"], ["no such file or folder"]),
        (["--set", "encoder_weights=nowhere.pth"], ["no such file or folder"]),
        (["--set", "weights_id=a"], ["--set weights_id: cannot be set; set encoder_weights"]),
    ],
)
def test_weights_that_there_are_not(words: list[str], expected: list[str], plan: Planned) -> None:
    code, _, err = plan(*words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    for text in expected:
        assert text in err


def test_names_are_not_taken_for_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swsl").mkdir()
    (tmp_path / "mine").mkdir()
    space = SearchSpace(trials=grid(encoder="resnet18"))

    def value(text: str) -> set[str]:
        made = make_request("mine", space, [f"encoder_weights={text}"], None)
        return {config.encoder_weights for config in made.configs}

    for text in ("swsl", "ssl", "instagram", "advprop", "noisy-student", "imagenet+background"):
        assert value(text) == {text}
    for text in ("imagenet", "ImageNet", "pretrained", "Pretrained"):
        assert value(text) == {"pretrained"}
    assert value("none") == value("None") == {"none"}
    assert value("in12k_ft_in1k") == {"in12k_ft_in1k"}
    assert value("./swsl") == {str(tmp_path / "swsl")}
    assert value("mine") == {str(tmp_path / "mine")}
    assert value("not/there") == {str(tmp_path / "not" / "there")}


def test_a_search_that_draws_encoders_names_the_weights_of_each(hub: Any, tmp_path: Path) -> None:
    space = SearchSpace(
        trials=grid(encoder="resnet18", encoder_weights="pretrained"),
        dimensions={"encoder": ["resnet18", "resnet34"]},
        settings={"search": "optuna"},
    )
    request = name_weights(make_request("mine", space, [], None), tmp_path, None)
    runtime = {
        "base": request.configs[0].model_dump(mode="json"),
        "weights_ids": weights_ids(request),
    }
    found = {e: config_of({"encoder": e}, runtime).weights_id for e in ("resnet18", "resnet34")}
    digest = hub.digests["model.safetensors"]
    for encoder, identity in found.items():
        assert re.fullmatch(f"smp-hub/{encoder}.imagenet@[0-9a-f]{{40}}#{digest}", identity)
    assert request.configs[0].weights_id == found["resnet18"]


def test_a_recorded_run_is_named_without_network_and_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    path = tmp_path / "resnet18.pth"
    for weights in ("swsl", str(path)):
        config = TrialConfig(encoder="resnet18", encoder_weights=weights, weights_id="a@b#c")
        recorded = {"trials": [{"config": config.model_dump(mode="json")}], "key": {}}
        space = SearchSpace(trials=grid(encoder="resnet18", encoder_weights=weights))
        request = make_request("mine", space, [], None)
        assert name_weights(request, tmp_path, recorded).configs == (config,)
        with pytest.raises(RequestError):
            name_weights(request, tmp_path, None)
    path.write_bytes(b"new")  # a file that is there is read again
    named = name_weights(request, tmp_path, recorded).configs[0].weights_id
    assert named == f"resnet18.pth#{hashlib.sha256(b'new').hexdigest()}"
