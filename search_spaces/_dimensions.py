"""What a search may draw a setting from: a choice of values, or a range.

Optuna's distributions and Ray Tune's domains are recognised by their attributes: neither library is
imported here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FORMS = (
    "a list of values, ('uniform', low, high), ('loguniform', low, high), or a distribution of "
    "Optuna or Ray Tune"
)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both of them included.

    Raises
    ------
    ValueError
        When the limits or the step are not valid.
    """

    low: float
    high: float
    log: bool = False
    """Whether equal factors, rather than equal differences, are equally likely."""
    step: float | None = None
    """Distance between the numbers; None: any number (of integers: 1)."""
    integer: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.low, self.high))) or self.low > self.high:
            raise ValueError(f"{self.low:g} to {self.high:g} is not a range")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, not at {self.low:g}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"steps must be above 0, not {self.step:g}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range cannot have steps")

    def to_json(self) -> Any:
        """Return the range as plan.json keeps it."""
        kind = "loguniform" if self.log else "uniform"
        plain = [kind, self.low, self.high]
        if not self.integer and self.step is None:
            return plain
        return {"range": plain, "integer": self.integer, "step": self.step}

    def examples(self) -> list[float]:
        """Return numbers at both ends of the range, and one inside."""
        if self.integer:
            return [self.low, self.high]
        return [self.low, self.high, self.low + 0.37 * (self.high - self.low)]

    def __str__(self) -> str:
        scale = ", logarithmic" if self.log else ""
        steps = f", steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{scale}{steps}"


Dimension = list[Any] | Range


def dimension(given: Any) -> Dimension:
    """Read one dimension of a search space.

    Parameters
    ----------
    given : object
        A list or tuple of values to choose from; ``("uniform", low, high)``,
        ``("loguniform", low, high)``; ``optuna.distributions.FloatDistribution``,
        ``IntDistribution`` or ``CategoricalDistribution``; what Ray Tune's ``uniform``,
        ``loguniform``, ``quniform``, ``randint``, ``lograndint``, ``qrandint`` and ``choice``
        return.

    Returns
    -------
    list or Range
        The values of a choice, each once; or a range.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> dimension(["dice", "focal"]), str(dimension(("loguniform", 1e-4, 1e-2)))
    (['dice', 'focal'], '0.0001 to 0.01, logarithmic')
    """
    if isinstance(given, Range):
        return given
    if isinstance(given, list | tuple):
        if given and given[0] in ("uniform", "loguniform"):
            return _written_range(given)
        return _choice(given)
    for name in ("choices", "categories"):  # Optuna's, Ray Tune's
        if hasattr(given, name):
            return _choice(getattr(given, name))
    if hasattr(given, "low") and hasattr(given, "high"):
        return _of_optuna(given)
    if hasattr(given, "lower") and hasattr(given, "upper") and hasattr(given, "get_sampler"):
        return _of_tune(given)
    raise ValueError(f"{given!r}: give {FORMS}")


def _written_range(given: Any) -> Range:
    numbers = given[1:]
    if len(numbers) != 2 or not all(isinstance(n, int | float) for n in numbers):
        raise ValueError(f"{given!r}: write ({given[0]!r}, low, high)")
    low, high = numbers
    return Range(low, high, log=given[0] == "loguniform")


def _choice(values: Any) -> list[Any]:
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    strange = [v for v in plain if not (v is None or isinstance(v, str | int | float))]
    if strange:
        raise ValueError(
            f"{strange[0]!r}: a choice must be between names, numbers, true, false or None"
        )
    if not plain:
        raise ValueError("a choice needs at least one value")
    return list(dict.fromkeys(plain))


def _of_optuna(given: Any) -> Range:
    integer = type(given).__name__.startswith("Int")
    step = getattr(given, "step", None)
    if integer and step == 1:
        step = None
    return Range(given.low, given.high, bool(getattr(given, "log", False)), step, integer)


def _of_tune(given: Any) -> Range:
    sampler, step = given.get_sampler(), None
    if type(sampler).__name__ == "Quantized":
        step, sampler = sampler.q, sampler.sampler
    kind = type(sampler).__name__.lstrip("_")
    if kind not in ("Uniform", "LogUniform"):
        raise ValueError(f"a {kind.lower()} distribution cannot be searched: give {FORMS}")
    integer, low, high = type(given).__name__ == "Integer", given.lower, given.upper
    if step is not None:  # Tune's are multiples of the step, Optuna's begin at the lower end
        low, high = math.ceil(low / step - 1e-9) * step, math.floor(high / step + 1e-9) * step
    elif integer:
        high -= 1  # Tune leaves it out
    if integer and step == 1:
        step = None
    return Range(low, high, kind == "LogUniform", step, integer)
