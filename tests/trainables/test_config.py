from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.config import (
    ARCHITECTURES,
    RunOptions,
    TrialConfig,
    architecture_name,
    recorded_config,
)


def test_unknown_keys_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrialConfig(learningrate=1)  # type: ignore[call-arg]
    config = TrialConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        RunOptions(threads=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("U-Net++", "UnetPlusPlus"),
        ("unet", "Unet"),
        ("MA-Net", "MAnet"),
        ("deeplabv3+", "DeepLabV3Plus"),
        ("LinkNet", "Linknet"),
        ("pan", "PAN"),
        ("stardist", "StarDist"),
    ],
)
def test_architecture_names(name: str, expected: str) -> None:
    assert architecture_name(name) == expected


def test_unknown_architecture() -> None:
    with pytest.raises(ValidationError, match="unknown architecture 'SegNet'; known: Unet"):
        TrialConfig(architecture="SegNet")


@pytest.mark.parametrize(
    "bad",
    [
        {"crop_size": 100},
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0},
        {"loss": "l2"},
        {"architecture": "PAN", "crop_size": 96},
        {"architecture": "StarDist"},
        {"seed": -1},
        {"task": "segment"},
        {"loss": "stardist"},
        {"task": "stardist", "rays": 4},
        {"task": "semantic3", "boundary": "thick"},
    ],
)
def test_values_that_cannot_work(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrialConfig(**bad)


CHANGES = {
    "architecture": "FPN",
    "encoder": "vgg19",
    "encoder_weights": "pretrained",
    "seed": 1,
    "fold": 2,
    "crop_size": 256,
    "epochs": 7,
    "batch_size": 4,
    "learning_rate": 0.5,
    "weight_decay": 0.5,
    "lr_schedule": "constant",
    "loss": "focal",
    "augmentation": "strong",
    "validate_every": 2,
    "early_stopping": 3,
    "precision": "32",
    "normalization": {"low": 2},
}


def test_every_field_is_part_of_the_trial_id() -> None:
    assert {*CHANGES, "gap", "task", "boundary", "rays", "grid", "weights_id"} == set(
        TrialConfig.model_fields
    )
    ids = {TrialConfig(**{k: v}).trial_id("f") for k, v in CHANGES.items()}
    ids |= {TrialConfig().trial_id("f"), TrialConfig().trial_id("g")}
    assert len(ids) == len(CHANGES) + 2


def test_trials_without_folds_keep_the_names_of_earlier_versions() -> None:
    config = TrialConfig()
    assert config.trial_id("f") == "semantic2-Unet-resnet18-s0-df06ebecec"
    assert config.candidate_key() == "semantic2-Unet-resnet18-c5464c9433"
    folded = TrialConfig(fold=3)
    assert folded.trial_id("f").startswith("semantic2-Unet-resnet18-s0-f3-")
    assert folded.candidate_key() == config.candidate_key()


def test_which_bytes_an_encoder_starts_from_is_part_of_the_trial_id() -> None:
    plain = TrialConfig(encoder_weights="pretrained")
    ids = {plain.model_copy(update={"weights_id": w}).trial_id("f") for w in ("", "a#1", "a#2")}
    assert len(ids) == 3
    assert TrialConfig(weights_id="a#1") == TrialConfig()  # none: nothing to name


def test_what_a_task_does_not_use_makes_no_other_trial() -> None:
    assert TrialConfig(boundary="touching", rays=64, grid=1) == TrialConfig()
    assert TrialConfig(gap=1).trial_id("f") != TrialConfig().trial_id("f")
    assert TrialConfig(task="semantic3", gap=1) == TrialConfig(task="semantic3")
    three = TrialConfig(task="semantic3", boundary="touching")
    assert three.trial_id("f") != TrialConfig(task="semantic3").trial_id("f")
    star = TrialConfig(task="stardist", architecture="Unet", loss="focal", rays=64)
    assert (star.loss, star.rays, star.encoder) == ("stardist", 64, "resnet18")
    official = TrialConfig(task="stardist", architecture="star-dist", encoder="vgg19")
    assert (official.architecture, official.encoder) == ("StarDist", "none")
    decay = TrialConfig(task="stardist", architecture="StarDist", weight_decay=0.1)
    assert decay == TrialConfig(task="stardist", architecture="StarDist")
    assert TrialConfig(task="stardist", weight_decay=0.1).weight_decay == 0.1
    assert TrialConfig.model_validate(official.model_dump()) == official


def test_trial_ids_stay_the_same() -> None:
    # runs of this recipe are found again by these names
    assert TrialConfig().trial_id("f") == "semantic2-Unet-resnet18-s0-df06ebecec"
    assert TrialConfig(architecture="u-net", learning_rate=1e-3) == TrialConfig()
    named = TrialConfig(encoder="tu-efficientnet_b0.ra/in1k").trial_id("f")
    assert named.startswith("semantic2-Unet-tu_efficientnet_b0_ra_in1k-s0-")


def test_a_candidate_is_everything_but_seed_and_fold() -> None:
    keys = {TrialConfig(**{k: v}).candidate_key() for k, v in CHANGES.items()}
    assert len(keys) == len(CHANGES) - 1  # those of seed and fold are that of the defaults
    assert TrialConfig().candidate_key() == TrialConfig(seed=5).candidate_key() in keys
    three = [
        TrialConfig(task="semantic3", boundary=b).candidate_key() for b in ("outline", "touching")
    ]
    assert three[0] != three[1]
    unusual: list[dict[str, Any]] = [
        {},
        {"gap": 1},
        {"task": "stardist"},
        {"task": "stardist", "rays": 16},
        {"task": "stardist", "grid": 4},
        {"encoder_weights": "pretrained", "weights_id": "a#1"},
        {"encoder_weights": "pretrained", "weights_id": "a#2"},
        {"normalization": "dataset"},
        {"normalization": {"mean": 0.4}},
        {"normalization": {"std": 0.4}},
        {"normalization": {"high": 99}},
    ]
    keys = {TrialConfig(**fields, seed=n).candidate_key() for n, fields in enumerate(unusual)}
    assert len(keys) == len(unusual)


def test_configurations_of_recipe_1_had_a_gap() -> None:
    old = TrialConfig().model_dump(mode="json")
    del old["gap"]
    assert recorded_config(old) == TrialConfig(gap=1)
    assert recorded_config(TrialConfig().model_dump(mode="json")) == TrialConfig()
    three = TrialConfig(task="semantic3").model_dump(mode="json")
    del three["gap"]
    assert recorded_config(three) == TrialConfig(task="semantic3")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["mean", "std", "high"])
def test_numbers_that_json_does_not_know_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        TrialConfig(normalization={name: value})


@given(st.sampled_from(ARCHITECTURES), st.floats(1e-6, 1), st.integers(0, 2**31 - 1))
def test_trial_id_survives_json(architecture: str, rate: float, seed: int) -> None:
    config = TrialConfig(architecture=architecture, learning_rate=rate, seed=seed)
    back = TrialConfig.model_validate_json(config.model_dump_json())
    assert back == config
    assert back.trial_id("f") == config.trial_id("f")
    assert len(config.trial_id("f")) < 128
