"""The values that a search draws from: a space's dimensions, changed by the command line."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from search_spaces import SearchSpace, override
from search_spaces._dimensions import Dimension, Range, dimension
from trainables.config import STARDIST, TrialConfig, architecture_name, with_changes

MOST_COMBINATIONS = 2000
"""Up to this number, combinations are counted one by one."""


def for_search(
    name: str, space: SearchSpace, changes: Mapping[str, Sequence[Any]], seeds: int | None
) -> SearchSpace:
    """Return the space that a search draws from: one trial, and the dimensions to draw.

    Parameters
    ----------
    name : str
        Name of the space.
    space : SearchSpace
    changes : mapping
        Values of ``--set``: one value fixes a field, several values are drawn from.
    seeds : int or None
        Value of ``--seeds``, which is refused.

    Returns
    -------
    SearchSpace
        Its dimensions are lists and `Range`. Fields in which the space's trials differ are also
        drawn, if the trials are all their combinations.

    Raises
    ------
    ValueError
        When something cannot be drawn; for invalid single values, pydantic.ValidationError.
    """
    lists = {key: list(dict.fromkeys(v)) for key, v in changes.items() if len(set(v)) > 1}
    if seeds is not None or "seed" in lists:
        given = f"--seeds {seeds}" if seeds is not None else "--set seed"
        raise ValueError(
            f"{given}: search=optuna trains each draw once, with one seed (--set seed=N); train "
            "the best ones with several seeds in a separate run"
        )
    if not space.dimensions and not lists:
        raise ValueError(
            f"search=optuna: space {name} has no dimensions to draw from; use the space hpo, give "
            "values to choose from (--set learning_rate=0.001,0.003), or write a space with "
            "SearchSpace(dimensions=...)"
        )
    fixed = {key: list(v)[:1] for key, v in changes.items() if key not in lists}
    trials = override(space.trials, fixed)
    base = trials[0]
    drawn = {key: dimension(kind) for key, kind in space.dimensions.items() if key not in fixed}
    if isinstance(named := drawn.get("architecture"), list):
        drawn["architecture"] = _distinct(map(architecture_name, named))
    drawn |= {key: _distinct(_typed(key, v) for v in values) for key, values in lists.items()}
    drawn |= _differences(name, trials, drawn)
    if not drawn:
        raise ValueError("search=optuna: --set fixes every dimension; leave at least one to draw")
    for key, kind in drawn.items():
        _check(key, kind, base, drawn)
    return space.model_copy(update={"trials": (base,), "dimensions": drawn})


def _typed(key: str, value: Any) -> Any:
    """Return a value in its field's form: a number for its text, an architecture's own name."""
    if key == "normalization":
        return value
    if key == "architecture":
        return architecture_name(value)
    field = TrialConfig.model_fields[key]
    kind: Any = field.annotation
    if field.metadata:
        kind = Annotated[kind, *field.metadata]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"--set {key}: {error.errors()[0]['msg']}, not {value!r}") from error


def _differences(
    name: str, trials: Sequence[TrialConfig], drawn: Mapping[str, Dimension]
) -> dict[str, Dimension]:
    """Return the fields in which a space's trials differ, to be drawn like its dimensions."""
    rows = [trial.model_dump() for trial in trials]
    differing = {
        key: values
        for key in TrialConfig.model_fields
        if key not in drawn and len(values := _distinct(row[key] for row in rows)) > 1
    }
    found = {tuple(str(row[key]) for key in differing) for row in rows}
    if "seed" in differing or "normalization" in differing:
        raise ValueError(
            f"search=optuna: the trials of space {name} differ in {', '.join(differing)}; give one "
            "trial, and the values to draw as dimensions"
        )
    if len(found) < math.prod(map(len, differing.values())):
        raise ValueError(
            f"search=optuna: the trials of space {name} are not all combinations of "
            f"{', '.join(differing)}, but each of these is drawn separately; give one trial and "
            "dimensions, or fix some of them with --set"
        )
    return dict(differing)


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({str(value): value for value in values}.values())


def _check(key: str, kind: Dimension, base: TrialConfig, drawn: Mapping[str, Dimension]) -> None:
    """Refuse values that are not valid, and a dimension that has no effect."""
    values = kind.examples() if isinstance(kind, Range) else kind
    configs = []
    for value in values:
        try:
            configs.append(with_changes(base.model_dump(), {key: value}))
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            hint = ""
            if isinstance(kind, Range) and value not in (kind.low, kind.high):
                hint = "; give a list of values, or optuna.distributions.IntDistribution"
            raise ValueError(f"search=optuna: {key}={value}: {message}{hint}") from error
    named = drawn.get("architecture")
    # with another task, or without StarDist's own model, it may count
    if "task" in drawn or (isinstance(named, list) and STARDIST in [*named, base.architecture]):
        return
    if len(values) > 1 and len(set(configs)) == 1:
        raise ValueError(
            f"search=optuna: {key} has no effect in trials of task {base.task}; fix it with --set "
            f"{key}={getattr(base, key)}"
        )


def combinations(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]] | None:
    """Return all combinations that can be drawn; None if there are too many to list."""
    values = []
    for kind in dimensions.values():
        if isinstance(kind, Range):
            if not kind.integer or (kind.log and kind.step):
                return None
            kind = list(range(int(kind.low), int(kind.high) + 1, int(kind.step or 1)))
        values.append(kind)
    if math.prod(map(len, values)) > MOST_COMBINATIONS:
        return None
    return (dict(zip(dimensions, one)) for one in itertools.product(*values))


def count(base: TrialConfig, dimensions: Mapping[str, Dimension]) -> int | None:
    """Return how many different trials can be drawn; None if there are too many to count."""
    listed = combinations(dimensions)
    if listed is None:
        return None
    fields, found = base.model_dump(), set()
    for one in listed:
        with contextlib.suppress(ValidationError):  # of values that do not go together
            found.add(with_changes(fields, one))
    return len(found)


def difference(key: Mapping[str, Any], recorded: Mapping[str, Any]) -> str | None:
    """Return how the search of a recorded run differs; None if it does not.

    Parameters
    ----------
    key, recorded : mapping
        `sweep.plan.Plan.key`, and that of the recorded run.
    """
    if key.keys() != recorded.keys():
        return f"it was made with search={recorded.get('search', 'grid')}"
    if "search" not in key:
        return None
    now, before = key["dimensions"], recorded["dimensions"]
    other = [name for name in {**before, **now} if now.get(name) != before.get(name)]
    if other:
        return f"its search draws {', '.join(other)} from different values"
    defaults = TrialConfig().model_dump(mode="json")
    bases = [[{**defaults, **one} for one in of["base"]] for of in (key, recorded)]
    if bases[0] != bases[1] or key["search"] != recorded["search"]:
        return "its search has different settings"
    return None


def to_json(dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return dimensions as plan.json keeps them."""
    return {k: v.to_json() if isinstance(v, Range) else v for k, v in dimensions.items()}


def say(dimensions: Mapping[str, Dimension]) -> list[str]:
    """Return one line for each dimension."""
    return [
        f"  {key}: {kind}" if isinstance(kind, Range) else f"  {key}: {', '.join(map(str, kind))}"
        for key, kind in dimensions.items()
    ]
