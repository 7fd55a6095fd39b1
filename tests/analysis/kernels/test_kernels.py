"""The cache of compiled kernels: every edit is noticed, and no cache at all is no failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import analysis.kernels

CALLER = """
import numpy as np
from analysis.kernels.compiling import compiled
from analysis.kernels.parts import root_of

@compiled
def caller(n, start):
    return root_of(np.arange(n), start)
"""
CALL = """
import sys
import numpy as np
from analysis.kernels.caller import caller
if "full" in sys.argv:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(caller(5, 3), caller(5, np.int32(3)), sum(caller.stats.cache_hits.values()))
"""
COMPILED, CACHED = "0", "2"
"""How many of both signatures came from the cache."""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """Folder of a copy of the kernels, one of which calls another file's."""
    folder = tmp_path / "analysis" / "kernels"
    (real,) = analysis.kernels.__path__
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "analysis" / "__init__.py").touch()
    (folder / "caller.py").write_text(CALLER)
    return folder


def start(kernels: Path, *words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(kernels.parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(kernels.parents[1] / "cache"),
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-c", CALL, *words],
        cwd=kernels.parents[1],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def result(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("ours", [True, False], ids=["compiled", "njit"])
def test_an_edit_in_another_file_is_noticed(kernels: Path, ours: bool) -> None:
    if not ours:  # what numba alone would do, or this test would prove nothing
        (kernels / "compiling.py").write_text("import numba\ncompiled = numba.njit(cache=True)\n")
    assert result(start(kernels)) == ["3", "3", COMPILED]
    edit(kernels / "parts.py", "    return i\n", "    return i + 100\n")
    assert result(start(kernels)) == (["103", "103", COMPILED] if ours else ["3", "3", CACHED])


def test_processes_that_compile_at_once_do_not_mix_up_their_results(kernels: Path) -> None:
    for process in [start(kernels) for _ in range(3)]:
        assert result(process)[:2] == ["3", "3"]
    assert result(start(kernels)) == ["3", "3", CACHED]
    cache = kernels / "__pycache__"
    assert not list(cache.glob("*.tmp.*"))
    for path in cache.glob("caller*.nbc"):
        path.write_bytes(path.read_bytes()[:100])
    assert result(start(kernels)) == ["3", "3", COMPILED], "damaged files count as none"


@pytest.mark.parametrize("reason", ["read-only", "full"])
def test_without_a_place_for_the_cache_every_process_compiles(kernels: Path, reason: str) -> None:
    if reason == "read-only":  # for root, too
        (kernels / "__pycache__").touch()
        (kernels.parents[1] / "cache").touch()
    assert result(start(kernels, reason)) == ["3", "3", COMPILED]
