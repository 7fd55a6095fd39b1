"""The user's own networks and losses: found before a sweep starts, and sent to its workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.request import Request, RequestError
from trainables import extensions

FIELDS = {"architecture": extensions.ARCHITECTURES, "loss": extensions.LOSSES}
"""Settings of a trial that may name code, and the groups in which packages register such code."""


def check_own_code(request: Request) -> None:
    """Check that the modules that a request names exist, without importing them.

    Raises
    ------
    RequestError
        When a module is missing or does not contain the name.
    """
    for name, group in _names(request):
        try:
            extensions.check_found(name, group)
        except ValueError as error:
            raise RequestError(str(error)) from error


def modules_to_send(request: Request, recorded: Mapping[str, Any] | None) -> list[Path]:
    """Return the files and folders of modules that workers need but do not have installed.

    Parameters
    ----------
    request : Request
    recorded : mapping or None
        Contents of plan.json, whose trials may run again.
    """
    trials = recorded["trials"] if recorded else []
    before = [(str(t["config"].get(key)), FIELDS[key]) for t in trials for key in FIELDS]
    found = [extensions.target_of(*one) for one in dict.fromkeys([*_names(request), *before])]
    return extensions.sources(filter(None, found))


def _names(request: Request) -> Iterator[tuple[str, str]]:
    for key, group in FIELDS.items():
        drawn = request.space.dimensions.get(key, ())
        names = [*(getattr(config, key) for config in request.configs), *drawn]
        yield from ((str(name), group) for name in dict.fromkeys(names))
