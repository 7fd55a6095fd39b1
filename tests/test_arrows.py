"""The arrows between the packages, read from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"sweep", "trainables", "search_spaces", "analysis"}
FORBIDDEN = {
    "trainables": {"sweep", "analysis", "search_spaces", "ray", "wandb"},
    "search_spaces": {"sweep", "analysis", "torch", "ray", "wandb", "lightning"},
    "sweep": {"analysis"},
    "analysis": {"sweep", "search_spaces", "ray", "wandb"},
}
# images can be shared among a cluster's workers, from one module only
ALLOWED = {"analysis/segment/cluster.py": {"ray"}}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        wrong = imports(path) & FORBIDDEN[package] - ALLOWED.get(name, set())
        assert not wrong, f"{name} imports {wrong}"


def imports_tune(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and any(a.name.startswith("ray.tune") for a in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if any(name.startswith("ray.tune") for name in names):
                return True
    return False


def test_only_sweep_knows_tune() -> None:
    knows = {
        package for package in OURS for path in (ROOT / package).rglob("*.py") if imports_tune(path)
    }
    assert knows == {"sweep"}


def test_plans_import_no_torch() -> None:
    code = (
        "import sys, trainables, trainables.config, trainables.data, trainables.encoders.names;"
        "import search_spaces, search_spaces.demo, search_spaces.paper, sweep.plan, sweep.run;"
        "heavy = {'torch', 'lightning', 'ray', 'tensorflow', 'wandb'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_stay_readable_at_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long
