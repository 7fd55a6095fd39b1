"""What a sweep can be made of: search spaces, and the settings that ``--set`` changes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

import search_spaces
from sweep.request import SweepSettings
from trainables import extensions
from trainables.config import ARCHITECTURES, LOSSES, PAPER_ENCODERS, STARDIST, TrialConfig
from trainables.data.splits import DataOptions
from trainables.encoders.names import SMP_ENCODERS
from trainables.tasks import TASKS

SET_BY_THE_SWEEP = ("seed", "fold", "weights_id")
"""Settings of a trial that ``--seeds``, ``folds`` and the weights themselves determine."""


def spaces() -> dict[str, str]:
    """Return the first line of the documentation of each space in ``search_spaces/``, by name."""
    files = sorted(Path(search_spaces.__file__).parent.glob("[!_]*.py"))
    texts = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in files)
    return {path.stem: (text or "").split("\n")[0] for path, text in zip(files, texts, strict=True)}


def settings() -> dict[str, dict[str, tuple[str, str]]]:
    """Return default and possible values of each setting, by name, under a heading."""
    models: dict[str, type[BaseModel]] = {
        "Trials": TrialConfig,
        "Data": DataOptions,
        "Sweep": SweepSettings,
    }
    return {
        heading: {
            name: (_text(field.get_default()), _values(name, field.annotation))
            for name, field in model.model_fields.items()
            if name not in SET_BY_THE_SWEEP or model is not TrialConfig
        }
        for heading, model in models.items()
    }


def print_choices(console: Console) -> None:
    """Print search spaces and settings, for ``--list``."""
    console.print("Search spaces (or the path of your own .py file)")
    _print(console, spaces().items())
    for heading, rows in settings().items():
        console.print(f"\n{heading}: --set NAME=VALUE")
        _print(console, ((name, *texts) for name, texts in rows.items()))
    console.print(
        "\nAfter each name: its value if the search space gives none, and what is possible."
        "\nSeveral values for a setting of trials, separated by commas, make a grid."
    )


def _print(console: Console, rows: Any) -> None:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row("", *row)
    console.print(table, markup=False)


def _text(value: Any) -> str:
    """Return a default as one would write it after ``--set NAME=``."""
    if isinstance(value, BaseModel):
        return str(next(iter(value.model_dump().values())))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _values(name: str, annotation: Any) -> str:
    special = {
        "task": ", ".join(TASKS),
        "architecture": ", ".join(
            (*ARCHITECTURES, STARDIST, *extensions.registered(extensions.ARCHITECTURES))
        )
        + ", or module:function of your own",
        "encoder": f"{', '.join(PAPER_ENCODERS)} and {len({*SMP_ENCODERS} - {*PAPER_ENCODERS})} "
        "others of segmentation-models-pytorch, tu-NAME of timm, none",
        "encoder_weights": "none, pretrained, the name of other published weights, or a path",
        "loss": ", ".join((*LOSSES, *extensions.registered(extensions.LOSSES)))
        + ", or module:function of your own",
        "normalization": "image, dataset",
    }
    return special.get(name) or ", ".join(_choices(annotation))


def _choices(annotation: Any) -> list[str]:
    """Return the values of a type that has few, else the name of the type."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if annotation is bool:
        return ["true", "false"]
    names = {int: "whole number", float: "number", str: "text", type(None): "null"}
    if annotation in names:
        return [names[annotation]]
    parts = [part for part in get_args(annotation) if part in names or get_args(part)]
    return [text for part in parts for text in _choices(part)]
