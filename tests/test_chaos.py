"""The program that kills parts of a sweep: how it counts, and a short run of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(PROGRAMS)
    import counted  # type: ignore[import-not-found]

    return counted


def test_epochs_computed_once_more(counted: Any, tmp_path: Path) -> None:
    """Trial a: killed in its 3rd epoch of two steps, which begins anew; b: never disturbed."""
    record = tmp_path / "steps.txt"
    lines = [f"a first 1 {number} {number}.5" for number in (1, 2, 3, 4, 5)]
    lines += [f"b only 2 {number} {number}.5" for number in (1, 2, 3)]
    lines += [f"a second 3 {number} {number}.5" for number in (5, 6)]
    lines += [f"a third 4 {number} {number}.5" for number in (5, 6, 7)]
    record.write_text("\n".join([*lines, "a third 4"]))  # the last line is cut short
    steps = counted.read_steps(record)
    assert len(steps) == len(lines)
    assert steps[0] == ("a", "first", 1, 1, 1.5)
    assert counted.repeated(steps, per_epoch=2) == [0.5, 1.0]
    assert counted.read_steps(tmp_path / "nothing.txt") == []


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--nodes", "2"]])
def test_a_few_kills(more: list[str], tmp_path: Path) -> None:
    words = ["--kills", "4", "--trials", "2", "--epochs", "10", "--seed", "5"]
    done = subprocess.run(
        [sys.executable, PROGRAMS / "chaos.py", *words, "--folder", tmp_path / "kept", *more],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left running" in done.stdout
