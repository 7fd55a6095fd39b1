"""What an installed wheel holds: it sweeps and reports outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
TOP = [pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]]
PACKAGES = [
    path.parent.relative_to(ROOT).as_posix()
    for name in TOP
    for path in (ROOT / name).rglob("__init__.py")
]
CACHES = ("__pycache__", ".nbi", ".nbc")
"""Ends of names that Python and numba leave beside the sources."""


def files() -> list[Path]:
    found = [path for name in TOP for path in (ROOT / name).rglob("*") if path.is_file()]
    return [
        path.relative_to(ROOT)
        for path in found
        if not any(part.endswith(CACHES) for part in path.parts)
    ]


def test_every_file_of_the_packages_is_packaged() -> None:
    data = SETUPTOOLS["package-data"]
    assert {path.parts[0] for path in files()} == set(TOP)
    missing = []
    for path in files():
        package = max((n for n in PACKAGES if path.is_relative_to(n)), key=len)
        inside = path.relative_to(package).as_posix()
        patterns = ["*.py"] if "/" not in inside else []
        patterns += data["*"] + data.get(package.replace("/", "."), [])
        if not any(fnmatch(inside, pattern) for pattern in patterns):
            missing.append(str(path))
    assert not missing, "name them in pyproject.toml: packages, or package-data"


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # an environment mostly lies in a project of its own
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    source = folder / "source"  # building leaves files beside the sources
    for path in files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source],
        check=True,
        timeout=300,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        inside = {name for name in content.namelist() if not name.startswith("segsweep-")}
    assert inside == {path.as_posix() for path in files()}


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Python of a fresh environment that holds the wheel, and sees the libraries of this one."""
    home = wheel.parent / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run(
        [*PIP, "--python", python, "install", "--no-deps", wheel], check=True, timeout=300
    )
    places = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # as plain folders: an editable install's own .pth files there are not read
    Path(purelib, "libraries.pth").write_text("\n".join(dict.fromkeys(places)) + "\n")
    return python


@pytest.mark.slow
def test_an_installed_wheel_sweeps_and_reports(
    installed: Path, cells: Path, tmp_path: Path
) -> None:
    drop = ("PYTHONPATH", "RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    environment = {k: v for k, v in os.environ.items() if k not in drop}

    def run(*words: object) -> str:
        done = subprocess.run(
            [installed, *map(str, words)],
            cwd=tmp_path,
            env=environment,
            text=True,
            capture_output=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    code = "import analysis, search_spaces, sweep, trainables as t; print(t.__file__)"
    assert run("-c", code).startswith(str(installed.parents[1])), "not the installed copy"
    quick = {
        "architecture": "Unet,FPN",
        "encoder": "mobilenet_v2",
        "epochs": 2,
        "crop_size": 64,
        "batch_size": 4,
        "task": "semantic2",
    }
    changes = [word for k, v in quick.items() for word in ("--set", f"{k}={v}")]
    out = tmp_path / "run"
    run("-m", "sweep.run", "paper", "--data", cells, "--out", out, *changes, "--wandb", "off")
    assert json.loads((out / "plan.json").read_text())["git_commit"] is None
    run("-m", "analysis.run", out)
    page = (out / "report" / "index.html").read_text()
    for part in ("<style", "<script", "</html>"):
        assert part in page
    segsweep = installed.with_name("segsweep")
    told = subprocess.run([segsweep, "--help"], capture_output=True, text=True, env=environment)
    assert told.returncode == 0, told.stderr
    assert "search_spaces" in told.stdout
