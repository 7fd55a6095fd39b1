"""What `make mutate` reads is there, and its table says how many planted bugs were found."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.mutate import table

ROOT = Path(__file__).parents[1]
OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]


@pytest.mark.parametrize("name", ["only_mutate", "pytest_add_cli_args_test_selection"])
def test_modules_and_tests_exist(name: str) -> None:
    assert OPTIONS[name]
    for path in OPTIONS[name]:
        assert (ROOT / path).exists(), path


def write(folder: Path, name: str, *codes: int | None) -> None:
    path = folder / f"{name}.meta"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"exit_code_by_key": {f"x__mutmut_{n}": code for n, code in enumerate(codes)}}
    path.write_text(json.dumps(content))


def test_bugs_that_are_found_by_module(tmp_path: Path) -> None:
    """Killed by a failure or for want of time; survived; met by no test; not tried."""
    write(tmp_path, "sweep/plan.py", 1, 1, 3, 36, -24, 1, 1, 1, 1, 0, None)
    write(tmp_path, "trainables/data/splits.py", None)
    lines, enough = table(tmp_path)
    assert lines[2:] == ["| `sweep.plan` | 10 | 9 | 0 | 90.0 |", "| all | 10 | 9 | 0 | 90.0 |"]
    assert enough
    write(tmp_path, "trainables/labels.py", 1, 33, 0, -11)
    lines, enough = table(tmp_path)
    assert lines[3:] == [
        "| `trainables.labels` | 4 | 1 | 1 | 25.0 |",
        "| all | 14 | 10 | 1 | 71.4 |",
    ]
    assert not enough
    chosen, enough = table(tmp_path, ["sweep.plan"])
    assert chosen[2:] == ["| `sweep.plan` | 10 | 9 | 0 | 90.0 |", "| all | 10 | 9 | 0 | 90.0 |"]
    assert enough
