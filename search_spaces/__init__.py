"""What to try: one space per file, in plain Python. Imports no torch.

A space file defines ``SPACE``, a `SearchSpace`. Your own file works like the built-in ones:
``python -m sweep.run path/to/my_space.py``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from search_spaces._dimensions import dimension
from trainables.config import NO_ENCODER, STARDIST, TrialConfig, with_changes
from trainables.tasks import TASKS, StarConvex


class BuiltinData(BaseModel):
    """Arguments of `trainables.synthetic` for a space with built-in data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: int
    frames: int
    seed: int = 0
    height: int = 904
    width: int = 1224


class SearchSpace(BaseModel):
    """Trials to run, and how to run them.

    Attributes
    ----------
    trials : tuple of TrialConfig
        All trials of the grid; ``--seeds`` repeats them.
    builtin_data : BuiltinData or None
        What to generate when no ``--data`` is given; None: ``--data`` is required.
    settings : dict
        Defaults of the sweep's settings (`sweep.request.SweepSettings`), such as ``scheduler``.
    dimensions : dict
        Values that ``search=optuna`` draws from, by field of `TrialConfig`: a list is a choice;
        ``("loguniform", low, high)`` and ``("uniform", low, high)`` are ranges. Optuna's
        distributions and Ray Tune's domains work, too. `COMMON_DIMENSIONS` suits any network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: tuple[TrialConfig, ...]
    builtin_data: BuiltinData | None = None
    settings: dict[str, Any] = {}
    dimensions: dict[str, Any] = {}

    @field_validator("dimensions")
    @classmethod
    def _can_be_drawn(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, kind in given.items():
            if name not in TrialConfig.model_fields:
                close = difflib.get_close_matches(name, TrialConfig.model_fields, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"{name} is not a setting of a trial{hint}")
            if name in ("seed", "fold", "weights_id"):
                raise ValueError(f"{name} cannot be searched")
            try:
                dimension(kind)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return given


COMMON_DIMENSIONS: dict[str, Any] = {
    "learning_rate": ("loguniform", 1e-4, 1e-2),
    "loss": ["dice", "jaccard", "focal", "tversky", "lovasz", "cross_entropy"],
    "augmentation": ["none", "light", "medium", "strong"],
    "batch_size": [4, 8, 16],
}
"""Dimensions for any network: ``SearchSpace(trials=..., dimensions=COMMON_DIMENSIONS)``."""


def grid(axes: Mapping[str, Sequence[Any]] | None = None, **fixed: Any) -> tuple[TrialConfig, ...]:
    """Return every combination of some settings.

    Parameters
    ----------
    axes : mapping
        Field of `TrialConfig` to the values to try, the first axis varying slowest.
    **fixed
        Fields that all trials share.

    Returns
    -------
    tuple of TrialConfig

    Examples
    --------
    >>> [t.architecture for t in grid({"architecture": ["Unet", "FPN"]}, encoder="resnet18")]
    ['Unet', 'FPN']
    """
    axes = axes or {}
    return tuple(
        TrialConfig(**{**fixed, **dict(zip(axes, values))})
        for values in itertools.product(*axes.values())
    )


def override(
    trials: Iterable[TrialConfig],
    changes: Mapping[str, Sequence[Any]],
    is_left_out: Callable[[Mapping[str, Any]], bool] = lambda values: False,
) -> tuple[TrialConfig, ...]:
    """Replace fields in all trials by each of the given values, and drop duplicates.

    Parameters
    ----------
    trials : iterable of TrialConfig
    changes : mapping
        Field to one or several values.
    is_left_out : callable
        Takes the values of a trial that is not valid; where it returns True, the trial is left out
        and no error is raised, if another trial is valid.

    Returns
    -------
    tuple of TrialConfig

    Raises
    ------
    pydantic.ValidationError
        For a value that the field does not accept.
    """
    changed: dict[TrialConfig, None] = {}
    problem: ValidationError | None = None
    for trial in trials:
        for values in itertools.product(*changes.values()):
            kept, new = _kept(trial, changes), dict(zip(changes, values))
            try:
                changed[with_changes(kept, new)] = None
            except ValidationError as error:
                if not is_left_out({**kept, **new}):
                    raise
                problem = problem or error
    if problem is not None and not changed:
        raise problem
    return tuple(changed)


def _kept(trial: TrialConfig, changes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return a trial's fields without those that only its own task has."""
    fields = trial.model_dump()
    if not {"task", "architecture"} & set(changes):
        return fields
    if TASKS[trial.task].own_loss is not None:
        del fields["loss"]
    if trial.task == StarConvex.name:
        for name, own in (("encoder", NO_ENCODER), ("precision", "32")):
            if fields[name] == own:
                del fields[name]
        if trial.architecture == STARDIST:
            del fields["weight_decay"]
    return fields
