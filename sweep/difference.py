"""How a plan differs from the run that a folder contains: one line for each setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainables.config import TrialConfig
from trainables.data.splits import DataOptions, some

SHOWN = 6
"""Most values that a line lists."""


def setting_lines(
    asked: Iterable[Mapping[str, Any]], recorded: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return one line for each setting that has other values in recorded trials.

    First those with values that no recorded trial has, then those of which recorded trials have
    further values, which are not asked for.

    Parameters
    ----------
    asked, recorded : iterable of mapping
        Configurations of trials.

    Examples
    --------
    >>> setting_lines([{"epochs": 5, "seed": 0}], [{"epochs": 3, "seed": 0}, {"epochs": 4}])
    ['epochs: 3, 4 in plan.json, 5 in this command']
    """
    now, before = _values(asked), _values(recorded)
    defaults = _values([TrialConfig().model_dump(mode="json")])
    both = {name: (before.get(name) or defaults[name], now[name]) for name in now}
    new = [name for name, (old, values) in both.items() if set(values) - set(old)]
    gone = [name for name, (old, values) in both.items() if set(old) - set(values)]
    return [_line(name, *both[name]) for name in dict.fromkeys([*new, *gone])]


def data_lines(path: str, options: DataOptions, recorded: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference of the data sets.

    Parameters
    ----------
    path : str
        Data set of the request.
    options : DataOptions
    recorded : mapping
        ``data`` of plan.json.
    """
    lines = [] if recorded["path"] == path else [_line("data", [recorded["path"]], [path])]
    old = recorded["options"]
    for name, value in options.model_dump(mode="json").items():
        if name in old and old[name] != value:
            lines.append(_line(name, [_text(old[name])], [_text(value)]))
    return lines or [f"data: {path} has the same settings, but files or dataset.yaml have changed"]


def _line(name: str, before: Sequence[str], now: Sequence[str]) -> str:
    return f"{name}: {some(before, SHOWN)} in plan.json, {some(now, SHOWN)} in this command"


def _values(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the different values of each setting, in the order of the trials."""
    values: dict[str, dict[str, None]] = {}
    for config in configs:
        for name, value in config.items():
            values.setdefault(name, {})[_text(value)] = None
    return {name: list(found) for name, found in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{k}={v}" for k, v in value.items() if k != "mode" and v is not None)
        return f"{value.get('mode', '')} ({rest})" if rest else str(value.get("mode", ""))
    return "none" if value is None else str(value)
