"""A further way of making cells is a file and a line in each half: nothing else knows them by name.

The way is that of recipe 2 in CONTRIBUTING.md, registered in this process.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from analysis.instances.methods import WAYS, make_instances, way_of
from search_spaces import grid, override
from sweep.leaderboard import ceilings
from sweep.recorder import short_name
from sweep.request import RequestError, load_space, make_request
from tests.recipes import PACKAGES, ROOT, files, recipe
from trainables import tasks
from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.tasks import TASKS, Semantic3
from trainables.train import train

REGISTRIES = {"trainables/tasks/__init__.py", "analysis/instances/methods.py"}


@pytest.fixture
def centres(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Register the recipe's task and way; return their classes."""
    found = []
    for path, name in {
        "trainables/tasks/centres.py": "Centres",
        "analysis/instances/centres.py": "FromCentres",
    }.items():
        module = ModuleType(path.removesuffix(".py").replace("/", "."))
        exec(compile(files(recipe(2))[path], path, "exec"), module.__dict__)
        found.append(getattr(module, name))
    monkeypatch.setitem(TASKS, "centres", found[0])
    monkeypatch.setitem(WAYS, "centres", found[1]())
    return found[0], found[1]


def names_of_tasks(tree: ast.AST) -> Iterator[int]:
    """Give the lines that compare with the name of a task, or look something up by it."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            asked = [part for one in (node.left, *node.comparators) for part in ast.walk(one)]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key is not None and not _is_library(key)]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        for one in asked:
            if isinstance(one, ast.Constant) and one.value in (*TASKS,):
                yield one.lineno
                break


def _is_library(key: ast.expr) -> bool:
    """Whether a dictionary's key may mean the package that is called like a task."""
    return isinstance(key, ast.Constant) and key.value == "stardist"


def test_nothing_asks_which_task_it_is() -> None:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if lines := list(names_of_tasks(ast.parse(path.read_text()))):
                found[path.relative_to(ROOT).as_posix()] = lines
    assert {name: len(lines) for name, lines in found.items()} == dict.fromkeys(REGISTRIES, 1)


@pytest.mark.parametrize(
    "code",
    [
        "task == 'semantic2'",
        "row['task'] != 'stardist'",
        "task in ('semantic3', 'x')",
        "{'semantic2': 1}[task]",
        "match task:\n  case 'stardist': pass",
    ],
)
def test_such_questions_would_be_found(code: str) -> None:
    assert list(names_of_tasks(ast.parse(code))) != []
    assert list(names_of_tasks(ast.parse("grid(task='stardist'); task == name"))) == []


@pytest.mark.usefixtures("centres")
def test_another_task_takes_its_own_loss() -> None:
    (trial,) = grid(task="centres", loss="focal")
    assert trial.loss == "centres"
    assert short_name(trial).startswith("U-Net, ResNet-18, centres")
    there = override([trial], {"task": ["semantic2", "centres"]})
    assert {one.task: one.loss for one in there} == {"semantic2": "dice", "centres": "centres"}
    with pytest.raises(ValueError, match="loss 'centres' needs task 'centres', not 'semantic2'"):
        TrialConfig(loss="centres")


def test_a_setting_of_another_task_is_refused(
    centres: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centres[0], "settings", ("crop_size",))
    name, space = load_space("paper")
    with pytest.raises(RequestError, match="--set crop_size: no trial of this space uses it"):
        make_request(name, space, ["crop_size=128"], None)
    request = make_request(name, space, ["crop_size=128", "task=centres"], None)
    assert {config.crop_size for config in request.configs} == {128}


@pytest.mark.usefixtures("centres")
def test_what_limits_a_perfect_network_is_named() -> None:
    row = {"gap": None, "rays": None, "ceiling_iou": 0.9}
    rows = [
        {**row, "task": "centres"},
        {**row, "task": "semantic2", "gap": 1},
        {**row, "task": "stardist", "rays": 32},
    ]
    said = [line.partition(" with ")[2] for line in ceilings(rows)]
    assert said == ["the targets of task centres.", "2 classes with a gap.", "32 rays."]


@pytest.mark.usefixtures("centres")
def test_whole_numbers_come_to_a_way_as_such() -> None:
    deep = np.zeros((2, 20, 44), np.float32)
    for column in (12, 30):
        y, x = np.ogrid[:20, :44]
        deep = np.maximum(deep, np.clip(1 - np.hypot(y - 10, x - column) / 10, 0, 1))
    maps = np.stack([deep[0] > 0.1, deep[1]]).astype(np.float32)
    parameters = {"threshold": 0.5, "apart": 5.0, "min_size": 20.0}
    labels = make_instances(TrialConfig(task="centres"), maps, parameters, (20, 44))
    assert labels.max() == 2
    assert labels[10, 12] != labels[10, 30]
    assert ((labels > 0) == (maps[0] > 0)).all()
    none = make_instances(TrialConfig(task="centres"), 0 * maps, parameters, (20, 44))
    assert not none.any()


class Nuclei(Semantic3):
    """Three classes, one of them with a name that no table has a column for."""

    name = "nuclei"
    class_names = ("background", "nucleus", "boundary")


def test_classes_may_be_called_anything(
    monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(tasks.TASKS, "nuclei", Nuclei)
    config = TrialConfig(
        task="nuclei", encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=1
    )
    result = train(config, open_dataset(tiny_dataset), tmp_path / "trial")
    (epoch,) = result.history
    assert epoch.val_boundary_iou is not None
    assert epoch.val_cell_iou is None
    assert result.class_iou is not None
    assert set(result.class_iou["test"]) == set(Nuclei.class_names)


@pytest.mark.usefixtures("centres")
def test_a_gap_is_named_after_its_own_way() -> None:
    config = TrialConfig(task="centres")
    assert way_of(config) == "centres + watershed"
    assert way_of(config, give_back_gap=True) == "centres + watershed, gap given back"
