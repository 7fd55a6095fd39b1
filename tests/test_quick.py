"""The files of `make test-quick` cover every package, and need neither Ray nor TensorFlow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import FIRST

ROOT = Path(__file__).parents[1]
QUICK = (ROOT / "tests" / "quick.txt").read_text().split()
NEED_RAY = {"swept", "sweep_of_cells"}
"""Fixtures that run a sweep."""


def packages_of(path: Path) -> set[str]:
    """Return the top packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("name", QUICK)
def test_listed_files_need_neither(name: str) -> None:
    path = ROOT / name
    assert not packages_of(path) & {"ray", "tensorflow"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert not {argument.arg for argument in node.args.args} & NEED_RAY, node.name


def test_files_that_are_begun_first_are_there() -> None:
    assert [name for name in FIRST.split() if not (ROOT / "tests" / name).is_file()] == []


def test_every_package_is_covered() -> None:
    covered = set.union(*(packages_of(ROOT / name) for name in QUICK))
    assert covered >= {"sweep", "trainables", "search_spaces", "analysis"}
