"""A run folder that was moved is analysed where it is now."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Swept


@pytest.mark.slow
def test_a_run_that_was_moved_is_analysed_twice(sweep_of_cells: Swept, tmp_path: Path) -> None:
    """Where it was before does not matter: here there is nothing at all."""
    out, other = tmp_path / "moved", tmp_path / "moved again"
    shutil.copytree(sweep_of_cells.out, out)
    plan = out / "plan.json"
    text = plan.read_text().replace(str(sweep_of_cells.out), str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in text
    plan.write_text(text)

    def analyse(folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "analysis.run", str(folder), "--top", "1"],
            env=dict(os.environ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return (folder / "report" / "table1.csv").read_text()

    first = analyse(out)
    assert json.loads(plan.read_text())["folder"]["path"] == str(tmp_path / "nowhere")
    out.rename(other)
    assert analyse(other) == first
    assert not out.exists()
