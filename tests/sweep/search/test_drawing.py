"""What a search draws from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError
from ray import tune

from search_spaces import COMMON_DIMENSIONS, SearchSpace, grid
from search_spaces._dimensions import Range, dimension
from sweep.plan import Plan
from sweep.request import Request, RequestError, load_space, make_request
from sweep.run import main
from sweep.search.dimensions import to_json

ONE = grid(architecture="Unet", encoder="resnet18")
RATES: dict[str, Any] = {"learning_rate": ("loguniform", 1e-4, 1e-2), "batch_size": [4, 8]}


def request(
    *changes: str, trials: Any = ONE, seeds: int | None = None, **dimensions: Any
) -> Request:
    space = SearchSpace(trials=trials, dimensions=dimensions, settings={"search": "optuna"})
    return make_request("mine", space, changes, seeds)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FloatDistribution(1e-4, 1e-2, log=True), Range(1e-4, 1e-2, log=True)),
        (FloatDistribution(0, 1, step=0.25), Range(0, 1, step=0.25)),
        (IntDistribution(4, 16, step=4), Range(4, 16, step=4, integer=True)),
        (IntDistribution(4, 16, log=True), Range(4, 16, log=True, integer=True)),
        (CategoricalDistribution(("dice", "focal")), ["dice", "focal"]),
        (tune.loguniform(1e-4, 1e-2), Range(1e-4, 1e-2, log=True)),
        (tune.uniform(0, 1), Range(0, 1)),
        (tune.quniform(0.25, 1, 0.25), Range(0.25, 1, step=0.25)),
        (tune.randint(4, 17), Range(4, 16, integer=True)),
        (tune.qrandint(4, 16, 4), Range(4, 16, step=4, integer=True)),
        (tune.lograndint(4, 17), Range(4, 16, log=True, integer=True)),
        (tune.choice(["dice", "focal"]), ["dice", "focal"]),
        (("uniform", 0, 1), Range(0, 1)),
        (("loguniform", 1, 2), Range(1, 2, log=True)),
        ((4, 8, 8), [4, 8]),
    ],
)
def test_dimensions_of_optuna_and_ray_tune(given: Any, expected: Any) -> None:
    assert dimension(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tune.randn(0, 1), "a normal distribution"),
        (tune.grid_search([1, 2]), "give a list"),
        (tune.sample_from(lambda _: 1), "give a list"),
        (("uniform", 1), "write"),
        ([], "at least one value"),
        (("loguniform", 0, 1), "must start above 0"),
        (("uniform", 2, 1), "is not a range"),
        ([[1], [2]], "a choice must be between"),
        (3, "give a list"),
        (tune.qloguniform(2, 8, 2), "cannot have steps"),
    ],
)
def test_what_is_no_dimension(given: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        dimension(given)
    with pytest.raises(ValidationError, match=expected):
        SearchSpace(trials=ONE, dimensions={"learning_rate": given})


def test_fields_that_cannot_be_drawn_are_refused_where_they_stand() -> None:
    for name, expected in (
        ("lr", "is not a setting"),
        ("learning_rat", "did you mean learning_rate"),
        ("seed", "cannot be searched"),
    ):
        with pytest.raises(ValidationError, match=expected):
            SearchSpace(trials=ONE, dimensions={name: [1, 2]})


def test_set_fixes_a_dimension_or_gives_its_values() -> None:
    made = request("learning_rate=0.003", **RATES)
    assert made.configs[0].learning_rate == 0.003
    assert made.space.dimensions == {"batch_size": [4, 8]}
    made = request("learning_rate=0.003,0.01", "architecture=u-net,fpn", **RATES)
    assert made.space.dimensions == {
        "batch_size": [4, 8],
        "learning_rate": [0.003, 0.01],
        "architecture": ["Unet", "FPN"],
    }
    assert len(made.configs) == 1
    assert request("seed=4", **RATES).configs[0].seed == 4


def test_trials_that_are_all_combinations_are_drawn() -> None:
    several = grid({"architecture": ["Unet", "FPN"], "encoder": ["resnet18", "resnet34"]})
    made = request(trials=several, **RATES)
    assert made.space.dimensions["architecture"] == ["Unet", "FPN"]
    assert made.space.dimensions["encoder"] == ["resnet18", "resnet34"]
    with pytest.raises(RequestError, match="not all combinations of architecture, encoder"):
        request(trials=several[:3], **RATES)
    assert "encoder" not in request("encoder=vgg19", trials=several[:3], **RATES).space.dimensions


@pytest.mark.parametrize(
    ("changes", "seeds", "expected"),
    [
        ((), 3, "--seeds 3: search=optuna trains each draw once"),
        (("seed=1,2",), None, "--set seed: search=optuna"),
        (("batch_size=4", "learning_rate=0.1"), None, "--set fixes every dimension"),
        (("batch_size=1,4",), None, "--set batch_size: .*greater than or equal to 2"),
        (("gap=0,1", "task=stardist"), None, "gap has no effect in trials of task stardist"),
        (("gap=0,1", "task=stardist", "architecture=Unet,FPN"), None, "gap has no effect"),
        (("architecture=Unet,SegNet",), None, "unknown architecture 'SegNet'"),
        (("architecture=Unet,PAN", "crop_size=64"), None, "PAN needs crop_size of at least 128"),
    ],
)
def test_what_a_search_cannot_honour_is_refused(
    changes: tuple[str, ...], seeds: int | None, expected: str
) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        request(*changes, seeds=seeds, **RATES)
    assert len(str(caught.value).splitlines()) == 1


def test_ranges_of_whole_numbers() -> None:
    with pytest.raises(RequestError, match=r"batch_size=.*IntDistribution"):
        request(batch_size=("uniform", 4, 16))
    assert request(batch_size=IntDistribution(4, 16)).space.dimensions["batch_size"].integer


@pytest.mark.parametrize("name", ["demo", "study"])
def test_spaces_without_dimensions_are_refused_with_advice(name: str) -> None:
    with pytest.raises(RequestError, match=r"no dimensions to draw from; use the space hpo"):
        make_request(name, load_space(name)[1], ["search=optuna"], None)


def test_no_more_trials_than_there_are() -> None:
    def samples(*changes: str, **dimensions: Any) -> int:
        return Plan(request("samples=50", *changes, **dimensions), "", "", ()).samples

    assert samples(**RATES) == 50
    assert samples("learning_rate=0.1,0.2", batch_size=[4, 8, 16]) == 6
    assert samples(batch_size=tune.qrandint(4, 16, 4), gap=[0, 1]) == 8
    # rays count with stardist only: 1 + 3
    assert samples(task=["semantic2", "stardist"], rays=[16, 32, 64]) == 4


def test_a_run_of_an_earlier_version_is_the_same_search() -> None:
    """What plan.json held for hpo before Optuna's distributions could be given."""
    name, space = load_space("hpo")
    made = make_request(name, space, [], None)
    assert to_json(made.space.dimensions) == json.loads(json.dumps(space.dimensions))
    assert json.loads(json.dumps(to_json(COMMON_DIMENSIONS)))
    ints = {"batch_size": dimension(IntDistribution(4, 8))}
    assert json.loads(json.dumps(to_json(ints))) == to_json(ints)


def test_spaces_with_distributions_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "mine.py").write_text(
        "from optuna.distributions import FloatDistribution, IntDistribution\n"
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(encoder='resnet18'), settings={'search': 'optuna'},\n"
        "    dimensions={'learning_rate': FloatDistribution(1e-4, 1e-2, log=True),\n"
        "                'batch_size': IntDistribution(4, 16, step=4), 'gap': [0, 1]})\n"
    )
    assert main(["mine.py", "--plan", "--set", "gap=1"]) == 0
    text = capsys.readouterr().out
    assert "learning_rate: 0.0001 to 0.01, logarithmic" in text
    assert "batch_size: 4 to 16, steps of 4" in text
    assert "gap" not in text
    assert optuna.__version__
