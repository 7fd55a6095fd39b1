"""What the tests of sweeps share: small data, and an end of what they start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Swept
from tests.sweep.command_line import STARTED, make_data

Finished = tuple[Path, int, str, str]
"""Run folder of a sweep, its exit code, what it printed, and its errors."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of five images, to be read only."""
    return make_data(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    """A sweep that a failed test leaves behind would slow down all that follow."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()
    STARTED.clear()


@pytest.fixture(scope="session")
def finished(sweep_of_cells: Swept) -> Finished:
    """The session's undisturbed run, with one trial that fails."""
    return sweep_of_cells.out, sweep_of_cells.code, sweep_of_cells.text, sweep_of_cells.err
