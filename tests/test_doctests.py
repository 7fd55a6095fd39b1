"""Every example in a docstring runs, and gives what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "trainables", "sweep", "analysis")


def modules_with_examples() -> list[str]:
    """Find them by their text: importing all modules would take every test run seconds."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if any(line.lstrip().startswith(">>> ") for line in path.read_text().splitlines()):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(p for p in parts if p != "__init__"))
    return found


def examples_of(path: Path) -> int:
    """Count the examples in docstrings, those marked to be skipped left out."""
    parser, count = doctest.DocTestParser(), 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            examples = parser.get_examples(ast.get_docstring(node) or "")
            count += sum(not example.options.get(doctest.SKIP) for example in examples)
    return count


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert module.__file__ is not None
    done = doctest.testmod(module)
    assert done.failed == 0
    assert done.attempted == examples_of(Path(module.__file__)), "some examples were not run"


def test_examples_are_found() -> None:
    assert len(modules_with_examples()) >= 18
