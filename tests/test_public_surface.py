"""What notebooks and scripts may call is there, with its parameters, and documented."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

Promised = Callable[..., None]
PROMISED: dict[str, Promised] = {
    "trainables.architectures.build_model": (
        lambda architecture, encoder, *, in_channels=1, classes=1, encoder_weights=None: None
    ),
    "trainables.checkpoint.load": lambda path: None,
    "trainables.metrics.dataset_iou": lambda pred, true: None,
    "trainables.metrics.per_image_iou": lambda pred, true: None,
    "analysis.instances.watershed_2class": (
        lambda probability, *, threshold=0.5, seed_depth=0.5, min_size=20, smoothing=0.0: None
    ),
    "analysis.instances.from_3class": (
        lambda probabilities, *, threshold=0.5, seed_threshold=0.5, min_size=20: None
    ),
    "analysis.instances.from_star_convex": (
        lambda prob, dist, *, prob_threshold=0.5, nms_threshold=0.4: None
    ),
    "analysis.morphology.measure": (
        lambda label_image, *, convention="trackmate", pixel_size_um=None: None
    ),
    "analysis.statistics.compare": lambda objects, *, feature, by, unit: None,
    "analysis.statistics.tied_set": lambda scores, *, alpha=0.05, seed=0: None,
    "analysis.statistics.mean_interval": lambda values, *, level=0.95: None,
    "analysis.segment.segment": lambda image, model: None,
}
"""Of each function the parameters that callers may rely on; there may be more with a default."""
SHAPE = re.compile(r"\((\d+|[A-Za-z_]+)(, \w+)*,?\)")
TABLE_UNITS = {
    "analysis.morphology.measure": "pixels",
    "analysis.statistics.compare": "95 %",
    "analysis.statistics.tied_set": "95 %",
}


FORMULAS = {name for name in PROMISED if not name.startswith(("trainables.arch", "trainables.ch"))}
FORMULAS -= {"analysis.segment.segment"}
"""Functions that compute what somebody published."""


def function_of(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    found = importlib.import_module(module)
    assert function in found.__all__
    made: Callable[..., Any] = getattr(found, function)
    return made


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """Return the text below each underlined title of a docstring, and the summary under ''."""
    text = inspect.getdoc(function) or ""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def entries(section: str) -> dict[str, str]:
    """Return of each name of a section its type and description."""
    found = {}
    for entry in re.split(r"^(?=\S)", section, flags=re.MULTILINE):
        names, _, rest = entry.partition("\n")
        names, _, kind = names.partition(" : ")
        found.update({name.strip(): f"{kind}\n{rest}" for name in names.split(",")})
    return found


@pytest.mark.parametrize("name", PROMISED)
def test_promised_parameters_are_there(name: str) -> None:
    there = inspect.signature(function_of(name)).parameters
    promised = inspect.signature(PROMISED[name]).parameters
    for parameter in promised.values():
        found = there[parameter.name]
        assert (found.kind, found.default) == (parameter.kind, parameter.default), parameter.name
    for parameter in there.values():
        assert parameter.name in promised or parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", PROMISED)
def test_docstrings_tell_parameters_result_shapes_and_units(name: str) -> None:
    function = function_of(name)
    told = sections(function)
    assert told[""].strip().splitlines()[0].endswith(".")
    documented, result = entries(told["Parameters"]), told["Returns"]
    for parameter in inspect.signature(function).parameters.values():
        entry = documented[parameter.name]
        if "NDArray" in str(parameter.annotation):
            assert SHAPE.search(entry), f"shape of {parameter.name}"
    returned = str(inspect.signature(function).return_annotation)
    assert result.strip()
    if "NDArray" in returned:
        assert SHAPE.search(result)
    if "DataFrame" in returned:
        assert TABLE_UNITS[name] in result
    if "Module" in returned:
        assert len(SHAPE.findall(told[""])) == 2, "of what goes in and what comes out"


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_formulas_name_their_source(name: str) -> None:
    assert re.search(r"doi:10\.\d{4,}/\S", inspect.getdoc(function_of(name)) or "")
