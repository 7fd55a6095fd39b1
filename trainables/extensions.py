"""Networks and losses from outside this project.

A name is *registered* where an installed package announces it as an entry point (`ARCHITECTURES`,
`LOSSES`), and *own* where it says ``module:function``. Both are looked up without importing what
they name; `load_object` imports it, and loading a checkpoint never does so for an own name.
Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from trainables.errors import CheckpointError

ARCHITECTURES = "segsweep.architectures"
"""Group of entry points that name builders of networks."""
LOSSES = "segsweep.losses"
"""Group of entry points that name makers of losses."""

TRUSTED = ("segmentation_models_pytorch:UPerNet", "segmentation_models_pytorch:Segformer")
"""Own names that stand for code of a library that this project needs anyway."""

_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_PACKAGES = ("analysis", "search_spaces", "sweep", "trainables")


def is_own(name: str) -> bool:
    """Whether a name is meant as ``module:function``.

    Examples
    --------
    >>> is_own("my_module:build"), is_own("Unet")
    (True, False)
    """
    return ":" in name


def own_name(name: str) -> str:
    """Return ``module:function`` as it is.

    Raises
    ------
    ValueError
        When it cannot be the name of something in a module.
    """
    if not _OWN.fullmatch(name):
        raise ValueError(f"{name!r}: write module:function, such as my_module:build")
    return name


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name.

    Raises
    ------
    ValueError
        When two packages register different things under one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ValueError(
                f"two packages register {point.name!r} as {group}: {other.value} and "
                f"{point.value}; uninstall one of them"
            )
    return found


def target_of(name: str, group: str) -> str | None:
    """Return ``module:function`` of an own or registered name; None of any other."""
    if is_own(name):
        return name
    point = registered(group).get(name)
    return f"{point.module}:{point.attr}" if point else None


def load_object(name: str, group: str) -> Any:
    """Import what an own or registered name stands for.

    Raises
    ------
    ValueError
        When it cannot be imported.
    """
    point = registered(group).get(name) or EntryPoint(name, own_name(name), group)
    try:
        return point.load()
    except Exception as error:  # the module is the user's own code
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: {type(error).__name__}: {reason}") from error


def check_found(name: str, group: str) -> None:
    """Check, without importing it, that the module of a name is there and can be read.

    Parameters
    ----------
    name : str
        Names that are neither own nor registered pass.
    group : str
        `ARCHITECTURES` or `LOSSES`.

    Raises
    ------
    ValueError
        In one line.
    """
    target = target_of(name, group)
    if target is None:
        return
    module, _, function = target.partition(":")
    spec = _find(module)
    if spec is None:
        raise ValueError(
            f"{name!r}: no module {module} is found here; put {module.partition('.')[0]}.py beside "
            "the search space's file or into the current folder, or install it"
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        return
    text = Path(spec.origin).read_text(encoding="utf-8")
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{name!r}: {spec.origin}, line {error.lineno}: {error.msg}") from error
    first = function.partition(".")[0]
    if not re.search(rf"\b{first}\b|__getattr__|import \*", text):
        raise ValueError(f"{name!r}: {spec.origin} defines no {first}")


def check_registered(architecture: str, checkpoint: Path) -> None:
    """Refuse a checkpoint whose network is an own one: loading it would run that code.

    One that an installed package registers, under whatever name, is trusted as the package is.

    Raises
    ------
    trainables.errors.CheckpointError
        Saying how the network is loaded all the same.
    """
    if not is_own(architecture) or architecture in TRUSTED:
        return
    points = registered(ARCHITECTURES).values()
    if any(f"{point.module}:{point.attr}" == architecture for point in points):
        return
    raise CheckpointError(
        f"{checkpoint}: its network is {architecture}, and loading a checkpoint imports no code "
        "that the checkpoint names; in Python, checkpoint.load(path, builder=...) loads it with "
        "your own builder; for analysis.run and analysis.segment, install a package with the entry "
        f"point {ARCHITECTURES}: NAME = {architecture} (CONTRIBUTING.md, recipe 1)"
    )


def look_in(folder: Path) -> None:
    """Find modules in a folder, too, after all other places."""
    if (place := str(folder.absolute())) not in sys.path:
        sys.path.append(place)


def sources(targets: Iterable[str]) -> list[Path]:
    """Return the files and package folders of modules that are not installed, with those that
    they import: what another process or machine needs.

    Parameters
    ----------
    targets : iterable of str
        ``module:function``.

    Returns
    -------
    list of Path
        Of top-level modules, each once; none of this project's.
    """
    found: dict[str, Path] = {}
    todo = [target.partition(":")[0] for target in targets]
    while todo:
        top = todo.pop().partition(".")[0]
        if top in found or top in _PACKAGES or (path := _source(top)) is None:
            continue
        found[top] = path
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        todo += [module for file in files for module in _imports(file)]
    return list(found.values())


def code_of(name: str, group: str) -> str:
    """Return a hash of the code that a name stands for; empty where that is this project's.

    Of an installed package only the file of its module counts.
    """
    target = target_of(name, group)
    if target is None:
        return ""
    spec = _find(target.partition(":")[0])
    paths = [*sources([target]), *([Path(spec.origin)] if spec and spec.origin else [])]
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*.py"))]
    content = b"".join(file.read_bytes() for file in sorted(set(files)))
    return hashlib.sha256(content).hexdigest()[:16]


def _find(module: str) -> ModuleSpec | None:
    """Find a module, without importing it or the packages that it lies in."""
    name, *rest = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _source(top: str) -> Path | None:
    """Return the file or folder of a top-level module that is not installed."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # of __main__, and of what tests put in its place
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    path = Path(folders[0] if folders else spec.origin or "")
    if path.suffix != ".py" and not folders:  # built in, or compiled
        return None
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return None if installed or path.is_relative_to(sysconfig.get_path("stdlib")) else path


def _imports(file: Path) -> list[str]:
    """Return the modules that a file imports, wherever in it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return []  # whoever imports it is told
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return names
