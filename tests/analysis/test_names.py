"""Names of candidates: told apart by what differs."""

from __future__ import annotations

import re

import hypothesis.strategies as st
from hypothesis import given

from analysis.names import candidate_names
from trainables.config import Normalization, TrialConfig

UNET = "U-Net, ResNet-18, 2-class"


def names_of(*configs: TrialConfig) -> list[str]:
    return list(candidate_names(configs).values())


def test_a_network_that_is_alone_is_called_by_its_name() -> None:
    seeds = [TrialConfig(seed=seed, fold=fold) for seed in (0, 1) for fold in (1, 2)]
    assert candidate_names(seeds) == {seeds[0].candidate_key(): UNET}
    assert names_of(TrialConfig(), TrialConfig(architecture="FPN")) == [
        UNET,
        "FPN, ResNet-18, 2-class",
    ]


def test_candidates_of_a_network_are_called_by_what_differs() -> None:
    assert names_of(TrialConfig(loss="dice"), TrialConfig(loss="focal", seed=3)) == [
        f"{UNET} (dice loss)",
        f"{UNET} (focal loss)",
    ]
    assert names_of(
        TrialConfig(batch_size=8, learning_rate=1e-3),
        TrialConfig(batch_size=4, learning_rate=1e-3),
        TrialConfig(batch_size=4, learning_rate=0.0123456),
    ) == [
        f"{UNET} (batch size 8, learning rate 0.001)",
        f"{UNET} (batch size 4, learning rate 0.001)",
        f"{UNET} (batch size 4, learning rate 0.0123)",
    ]


def test_only_candidates_of_the_same_network_count() -> None:
    found = names_of(
        TrialConfig(loss="dice"),
        TrialConfig(loss="focal"),
        TrialConfig(architecture="FPN", learning_rate=0.1),
        TrialConfig(task="semantic3", learning_rate=0.1),
    )
    assert found[2:] == ["FPN, ResNet-18, 2-class", "U-Net, ResNet-18, 3-class"]


def test_settings_of_other_tasks_are_not_named() -> None:
    """The number of rays does not matter to a 2-class network."""
    one, other = TrialConfig(epochs=5), TrialConfig(epochs=6)
    assert names_of(one, other) == [f"{UNET} (5 epochs)", f"{UNET} (6 epochs)"]


def test_values_that_are_written_alike_get_a_number() -> None:
    assert names_of(TrialConfig(learning_rate=0.0010001), TrialConfig(learning_rate=0.001)) == [
        f"{UNET} (learning rate 0.001)",
        f"{UNET} (learning rate 0.001) (2)",
    ]
    weights = (TrialConfig(encoder_weights="/a/w.pt", weights_id="x"),)
    assert names_of(*weights, TrialConfig(encoder_weights="none")) == [
        f"{UNET} (weights w.pt)",
        f"{UNET} (weights none)",
    ]


def test_normalisation_and_its_percentiles() -> None:
    found = names_of(
        TrialConfig(),
        TrialConfig(normalization=Normalization(mode="dataset")),
    )
    assert found == [f"{UNET} (normalised by image)", f"{UNET} (normalised by dataset)"]


@given(
    st.lists(
        st.builds(
            TrialConfig,
            seed=st.integers(0, 2),
            batch_size=st.sampled_from([2, 4]),
            epochs=st.sampled_from([1, 2]),
            loss=st.sampled_from(["dice", "focal"]),
            learning_rate=st.floats(1e-4, 1e-2),
            early_stopping=st.sampled_from([None, 3]),
        ),
        max_size=12,
    )
)
def test_no_name_occurs_twice(configs: list[TrialConfig]) -> None:
    found = candidate_names(configs)
    assert set(found) == {config.candidate_key() for config in configs}
    assert len(set(found.values())) == len(found)
    for name in found.values():
        assert name.startswith(UNET)
        inside = re.search(r"\((.*?)\)", name)
        assert inside is None or inside.group(1).count(",") <= 4
