"""``--only``: a part of a space's trials, by the values of their settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sweep.plan import Request, RequestError, weights_value
from trainables.config import TrialConfig, architecture_name
from trainables.data.splits import some

FIELDS = tuple(name for name in TrialConfig.model_fields if name != "weights_id")
"""Settings that trials can be chosen by."""
SHOWN = 12
"""Values that a message lists at most."""


def only(request: Request, filters: Sequence[str]) -> Request:
    """Keep the trials of a request that have given values.

    Parameters
    ----------
    request : Request
    filters : sequence of str
        ``key=value[,value]``: fields of `TrialConfig`. A trial has one of the values of every key.

    Returns
    -------
    Request
        With the filters in `Request.only` and the other trials in `Request.left_out`.

    Raises
    ------
    RequestError
        When a filter names no setting, a value that no trial has (those that exist are named), or
        when no trial has all of them.
    """
    if not filters:
        return request
    if request.settings.search != "grid":
        raise RequestError(
            f"--only: search={request.settings.search} draws its trials, so that there is no list "
            "to choose from; --set key=value,value says what it draws from"
        )
    wanted: dict[str, set[str]] = {}
    for text in filters:
        key, values = _read(text)
        known = dict.fromkeys(_text(config, key) for config in request.configs)
        for value in values:
            found = {name for name in known if _equal(_meant(key, value), name)}
            if not found:
                raise RequestError(
                    f"--only {key}={value}: no trial of this space has it; there are "
                    f"{some(list(known), SHOWN)}"
                )
            wanted[key] = wanted.get(key, set()) | found
    chosen = tuple(config for config in request.configs if _passes(config, wanted))
    if not chosen:
        raise RequestError(f"--only {' '.join(filters)}: {_why_none(request, wanted)}")
    rest = tuple(config for config in request.configs if config not in set(chosen))
    return replace(request, configs=chosen, only=tuple(filters), left_out=rest)


def _read(text: str) -> tuple[str, list[str]]:
    key, equals, value = (part.strip() for part in text.partition("="))
    values = [one.strip() for one in value.split(",") if one.strip()]
    if not equals or not key or not values:
        space = "" if equals else "; SPACE comes before --only"
        raise RequestError(
            f"--only {text!r}: write key=value, such as architecture=Unet,FPN{space}"
        )
    if key not in FIELDS:
        close = difflib.get_close_matches(key, FIELDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(FIELDS)}"
        raise RequestError(f"--only {key}: trials have no such setting{hint}")
    return key, values


def _text(config: TrialConfig, key: str) -> str:
    value: Any = getattr(config, key)
    return str(value.mode if key == "normalization" else value).removesuffix(".0")


def _meant(key: str, value: str) -> str:
    """Return how a configuration spells a value."""
    if key == "architecture":
        with suppress(ValueError):  # an unknown name is no trial's
            return architecture_name(value)
    if key == "encoder_weights":
        return weights_value(value)
    return "None" if value.lower() == "null" else value


def _equal(value: str, name: str) -> bool:
    if value.lower() == name.lower():
        return True
    try:
        return float(value) == float(name)
    except ValueError:
        return False


def _passes(config: TrialConfig, wanted: Mapping[str, set[str]]) -> bool:
    return all(_text(config, key) in values for key, values in wanted.items())


def _why_none(request: Request, wanted: dict[str, set[str]]) -> str:
    """Name the values that go with all conditions but one."""
    for key in reversed(wanted):
        others = {name: values for name, values in wanted.items() if name != key}
        left = dict.fromkeys(_text(c, key) for c in request.configs if _passes(c, others))
        if left:
            return f"no trial has all of these; with the others, {key} is {some(list(left), SHOWN)}"
    return "no trial has all of these"
