"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real microscopy images; the test skips where they are absent."""
    named = os.environ.get("SEGSWEEP_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "yeastvision_phase" / "images").is_dir():
        pytest.skip("no real images: set SEGSWEEP_DATA to the folder that holds them")
    return folder
