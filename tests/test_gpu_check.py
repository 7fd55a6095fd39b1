"""The program of ``make test-gpu``, as far as it goes without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        capture_output=True,
        text=True,
        timeout=590,
        env={**os.environ, **environment},
    )


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: nvidia-smi names no GPU here")
    assert not done.stdout


@pytest.mark.slow
def test_its_own_lines_run(tmp_path: Path) -> None:
    done = run("--rehearse", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "gpu_check.md").read_text()
    assert text.startswith("REHEARSAL WITHOUT A GPU")
    assert text.count("| passed |") == 6
