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
# images and networks can be shared among a cluster's workers, from these modules only
ALLOWED = {"analysis/cluster.py": {"ray"}, "analysis/segment/cluster.py": {"ray"}}


def imports(path: Path) -> list[tuple[str, str]]:
    """Return the module of each import of a file, and the name taken from it, if any."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that they can be looked up"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        there = {module.partition(".")[0] for module, _ in imports(path)}
        wrong = there & FORBIDDEN[package] - ALLOWED.get(name, set())
        assert not wrong, f"{name} imports {wrong}"


def test_only_sweep_knows_tune() -> None:
    knows = {
        package
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        for module, name in imports(path)
        if f"{module}.{name}.".startswith("ray.tune.")
    }
    assert knows == {"sweep"}


def test_no_file_takes_a_neighbours_private_names() -> None:
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            for module, name in imports(path):
                ours = module.partition(".")[0] in OURS
                assert not (ours and name.startswith("_")), f"{path} imports {name} of {module}"


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
        for package in (*OURS, "tests")
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long
