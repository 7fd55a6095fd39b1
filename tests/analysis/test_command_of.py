"""The command that trains a trial again asks for that trial, and for no other."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.runfolder import Run, command_of
from sweep.precision import Precision, settle
from sweep.request import Request, load_space, make_request
from sweep.run import parser
from sweep.selection import only
from sweep.trial import config_of
from trainables.config import TrialConfig


def asked(command: str) -> tuple[Request, str]:
    """Read a command as `sweep.run` does; return the request and the run folder."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "sweep.run"]
    arguments = parser().parse_args(words[3:])
    name, space = load_space(arguments.space)
    request = make_request(name, space, arguments.changes, arguments.seeds)
    return only(request, arguments.only), str(arguments.out)


def a_run(commands: list[str], configs: tuple[TrialConfig, ...]) -> Run:
    empty = pd.DataFrame()
    named = {config.trial_id("data"): config for config in configs}
    return Run(Path("runs/x"), {"commands": commands}, empty, empty, empty, named)


def check(run: Run) -> None:
    """Every trial of a run is what its command asks for, and nothing else is."""
    assert len(run.configs) > 1
    for trial_id, config in run.configs.items():
        command = command_of(run, trial_id)
        request, out = asked(command)
        assert "--resume" not in command
        assert request.configs == (config,), command
        assert out == f"runs/again-{trial_id}"
        assert request.settings.search == "grid"


@pytest.mark.parametrize(
    "words",
    [
        "demo",
        "demo --seeds 3 --out here --resume --gpus 1 --wandb off",
        "demo --seeds=2 --out=here --set encoder=resnet18,vgg19",
        "demo --set=learning_rate=0.001,0.00031 --set=batch_size=2",
        "demo --set early_stopping=null,5 --set normalization=image,dataset",
        "demo --set gap=0,1 --set architecture=Unet",
        "demo --seeds 2 --set folds=3",
        "compare",
        "study",
        "three_class",
        "stardist",
        "paper",
    ],
)
def test_the_command_asks_for_the_trial_alone(words: str) -> None:
    command = f"python -m sweep.run {words}"
    check(a_run([command], asked(command)[0].configs))


@pytest.mark.parametrize("auto", ["32", "bf16"])
def test_where_auto_has_become_a_precision(auto: str) -> None:
    command = "python -m sweep.run demo"
    request = settle(asked(command)[0], Precision(auto, False, ""))
    run = a_run([command], request.configs)
    for trial_id, config in run.configs.items():
        (found,) = settle(asked(command_of(run, trial_id))[0], Precision(auto, False, "")).configs
        assert found == config


def test_weights_are_named_and_not_their_hash() -> None:
    """A sweep adds to a trial which bytes its weights are; that cannot be asked for."""
    command = (
        "python -m sweep.run demo --set encoder=resnet18,vgg19 --set encoder_weights=pretrained"
    )
    known = [
        c if c.encoder == "none" else c.model_copy(update={"weights_id": f"of {c.encoder}"})
        for c in asked(command)[0].configs
    ]
    run = a_run([command], tuple(known))
    for trial_id, config in run.configs.items():
        (found,) = asked(command_of(run, trial_id))[0].configs
        assert found == config.model_copy(update={"weights_id": ""})


def test_a_part_of_a_grid_first_and_the_rest_later() -> None:
    """The first command left trials out that a later one ran, or that nothing has run yet."""
    first = "python -m sweep.run demo --only architecture=Unet task=semantic2,semantic3 --wandb off"
    everything = asked("python -m sweep.run demo")[0].configs
    check(a_run([first, "python -m sweep.run demo"], everything))
    check(a_run([first], asked(first)[0].configs))
    apart = "python -m sweep.run demo --only=architecture=Unet --only task=semantic2,semantic3"
    check(a_run([apart], asked(apart)[0].configs))


def test_a_trial_that_a_search_drew_is_trained_without_a_search() -> None:
    command = (
        "python -m sweep.run hpo --set samples=2 --set loss=dice,focal --set batch_size=4 "
        "--set project=lab"
    )
    base = asked(command)[0].configs[0].model_dump(mode="json")
    shared = {"architecture": "MAnet", "encoder": "vgg19", "learning_rate": 0.00012345678901}
    drawn = tuple(config_of({**shared, "loss": loss}, {"base": base}) for loss in ("dice", "focal"))
    run = a_run([command], drawn)
    check(replace(run, plan={**run.plan, "key": {"search": "optuna"}}))


def test_own_space_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my space.py").write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=(*grid(architecture='Unet', epochs=3),\n"
        "    *grid({'rays': [16, 32]}, task='stardist', crop_size=64)))\n"
    )
    command = "python -m sweep.run 'my space.py' --data 'my data'"
    run = a_run([command], asked(command)[0].configs)
    check(run)
    assert "--data 'my data'" in command_of(run, next(iter(run.configs)))
