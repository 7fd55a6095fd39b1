"""No function is too long to be read at once, unless a comment above it says why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sweep", "trainables", "search_spaces", "analysis", "benchmarks")
MOST_LINES, MOST_PARAMETERS = 60, 8
"""Lines of a function without its docstring; parameters without ``self``."""
MOST_FILE_LINES = 500


def files() -> list[Path]:
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def too_large(text: str) -> list[str]:
    """Name the functions of a file that are too large and have no comment above them."""
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        size = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            size -= docstring.end_lineno - docstring.lineno + 1
        given = node.args
        names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        parameters = len(names) - (names[:1] in (["self"], ["cls"]))
        if size <= MOST_LINES and parameters <= MOST_PARAMETERS:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if not lines[first - 2].lstrip().startswith("# "):
            found.append(f"{node.name}: {size} lines, {parameters} parameters")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert too_large(text) == []
    assert len(text.splitlines()) <= MOST_FILE_LINES


def test_large_functions_are_found() -> None:
    long = "def f():\n" + "    print()\n" * MOST_LINES
    wide = f"def g(self, {', '.join(f'a{i}' for i in range(MOST_PARAMETERS + 1))}):\n    pass\n"
    assert [line.split(":")[0] for line in too_large(long + wide)] == ["f", "g"]
    assert too_large("# a list\n" + long) == []
    assert too_large(wide.replace("self, ", "").replace("a8", "*, a8=1"))
    documented = 'def h():\n    """' + "x\n" * MOST_LINES + '    """\n' + "    print()\n" * 59
    assert too_large(documented) == []
