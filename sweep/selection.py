"""The trials of a request, and which of them ``--only`` selects."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from sweep.request import Request, RequestError, load_space, make_request, weights_value
from trainables.config import TrialConfig, architecture_name
from trainables.data.splits import some

FIELDS = tuple(name for name in TrialConfig.model_fields if name != "weights_id")
"""Settings by which ``--only`` can select trials."""
SHOWN = 12
"""Most values that a message lists."""


def requested(
    space_name: str, changes: Sequence[str], seeds: int | None, filters: Sequence[str]
) -> Request:
    """Return the request on the command line.

    Parameters
    ----------
    space_name : str
        See `sweep.request.load_space`.
    changes, seeds
        See `sweep.request.make_request`.
    filters : sequence of str
        See `only`. A trial that they leave out need not be valid.

    Raises
    ------
    RequestError
        When one of them is wrong.
    """
    name, space = load_space(space_name)
    return only(make_request(name, space, changes, seeds, partial(is_left_out, filters)), filters)


def only(request: Request, filters: Sequence[str]) -> Request:
    """Keep only the trials of a request that have given values.

    Parameters
    ----------
    request : Request
    filters : sequence of str
        ``key=value[,value]`` with fields of `TrialConfig`. A trial is kept if it has one of the
        values for every key.

    Returns
    -------
    Request
        The filters are in `Request.only`, the other trials in `Request.left_out`.

    Raises
    ------
    RequestError
        When a filter names an unknown setting or a value that no trial has (the message lists the
        existing ones), or when no trial has all of them.
    """
    if not filters:
        return request
    if request.settings.search != "grid":
        raise RequestError(
            f"--only: does not work with search={request.settings.search}, which draws its trials; "
            "use --set key=value,value to set what it draws from"
        )
    wanted: dict[str, set[str]] = {}
    for text in filters:
        key, values = _read(text)
        known = dict.fromkeys(_text(config, key) for config in request.configs)
        for value in values:
            found = {name for name in known if _equal(_meant(key, value), name)}
            if not found:
                raise RequestError(
                    f"--only {key}={value}: no trial of this space has this value; choose from "
                    f"{some(list(known), SHOWN)}"
                )
            wanted[key] = wanted.get(key, set()) | found
    chosen = tuple(config for config in request.configs if _passes(config, wanted))
    if not chosen:
        raise RequestError(f"--only {' '.join(filters)}: {_why_none(request, wanted)}")
    rest = tuple(config for config in request.configs if config not in set(chosen))
    return replace(request, configs=chosen, only=tuple(filters), left_out=rest)


def is_left_out(filters: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Whether filters leave out a trial whose values are not valid together.

    Parameters
    ----------
    filters : sequence of str
        See `only`.
    values : mapping
        Fields of `TrialConfig` as a space and ``--set`` give them, unchecked.

    Raises
    ------
    RequestError
        When a filter is not valid.
    """
    for text in filters:
        key, wanted = _read(text)
        if key in values:
            name = _meant(key, _as_text(key, values[key]))
            if not any(_equal(_meant(key, value), name) for value in wanted):
                return True
    return False


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
    return _as_text(key, getattr(config, key))


def _as_text(key: str, value: Any) -> str:
    if key == "normalization" and not isinstance(value, str):
        value = value["mode"] if isinstance(value, Mapping) else value.mode
    return str(value).removesuffix(".0")


def _meant(key: str, value: str) -> str:
    """Return a value as configurations spell it."""
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
    """Return which values match all conditions but one."""
    for key in reversed(wanted):
        others = {name: values for name, values in wanted.items() if name != key}
        left = dict.fromkeys(_text(c, key) for c in request.configs if _passes(c, others))
        if left:
            return f"no trial has all of these; with the others, {key} is {some(list(left), SHOWN)}"
    return "no trial has all of these"
