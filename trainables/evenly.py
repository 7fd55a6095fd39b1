"""Choose some of many, evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")


def evenly(things: Sequence[Thing], most: int) -> list[Thing]:
    """Return at most so many of the things, in their order: all, or the first, the last, and others
    evenly spread between them.

    Examples
    --------
    >>> evenly("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if len(things) <= most:
        return list(things)
    return [things[n] for n in np.linspace(0, len(things) - 1, most).round().astype(int)]
