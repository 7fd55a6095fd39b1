"""``--list``: what it prints is what the command line takes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from sweep import run
from sweep.listing import settings, spaces
from sweep.request import SweepSettings, load_space
from trainables.config import ARCHITECTURES, LOSSES, TrialConfig
from trainables.data.splits import DataOptions
from trainables.tasks import TASKS

MODELS: dict[str, type[BaseModel]] = {
    "Trials": TrialConfig,
    "Data": DataOptions,
    "Sweep": SweepSettings,
}


def test_every_space_can_be_loaded_and_says_what_it_is() -> None:
    assert {"compare", "demo", "hpo", "paper", "stardist", "study", "three_class"} <= {*spaces()}
    for name, text in spaces().items():
        assert load_space(name)[0] == name
        assert text.endswith(".")


@pytest.mark.parametrize("heading", [*MODELS])
def test_defaults_and_choices_are_taken(heading: str) -> None:
    model, rows = MODELS[heading], settings()[heading]
    hidden = {"seed", "fold", "weights_id"} if model is TrialConfig else set()
    assert {*rows} == {*model.model_fields} - hidden
    counted = 0
    for name, (default, values) in rows.items():
        assert values, name
        given = {name: None if default == "null" else default}
        assert getattr(model.model_validate(given), name) == getattr(model(), name)
        if "number" in values or "text" in values or "own" in values or " of " in values:
            continue
        for value in values.split(", "):
            if (name, value) != ("task", "stardist"):
                model.model_validate({name: value})
                counted += 1
    assert counted > 1


def test_names_of_the_registries_are_there() -> None:
    rows = settings()["Trials"]
    for name, known in (("architecture", ARCHITECTURES), ("loss", LOSSES), ("task", TASKS)):
        assert {*known} <= {*rows[name][1].split(", ")}
    assert rows["normalization"] == ("image", "image, dataset")
    assert rows["early_stopping"] == ("null", "whole number, null")


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for word in ("three_class", "UnetPlusPlus", "keep_last_state", "split_seed", "make a grid"):
        assert word in printed
    assert run.main(["paper", "--list", "--max-hours", "3"]) == 2
    assert capsys.readouterr().err == (
        "error: --list takes nothing else; remove SPACE, --max-hours\n"
    )
