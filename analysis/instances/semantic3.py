"""The way of task ``semantic3``: cells from the class cell, which get their boundary back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.instances.separate import from_3class
from analysis.instances.way import MIN_SIZE, PROBABILITY, SMOOTHING, Maps, Range, Way
from trainables.labels import BOUNDARY, CELL

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class ThreeClasses(Way):
    """Uses no watershed: the class boundary separates cells."""

    name = "3-class"
    ranges = {  # noqa: RUF012 - a constant of the class
        "threshold": PROBABILITY,
        # after five epochs, three fourths of a cell's interior were above 0.9999 already
        "seed_threshold": Range(0.1, 0.999999, scale="logit"),
        "min_size": MIN_SIZE,
        "smoothing": SMOOTHING,
    }

    def defaults(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return 0.5 for both thresholds, and a smallest size of 20 pixels."""
        return {"threshold": 0.5, "seed_threshold": 0.5, "min_size": 20, "smoothing": 0.0}

    def instances(
        self,
        config: TrialConfig,
        maps: Maps,
        shape: tuple[int, int],
        *,
        give_back_gap: bool,
        **parameters: Any,
    ) -> NDArray[np.int32]:
        """Separate the cells in the (3, H, W) class probabilities."""
        return from_3class(maps, **parameters)

    def probability(self, config: TrialConfig, maps: Maps, shape: tuple[int, ...]) -> Maps:
        """Return the sum of cell and boundary."""
        return np.asarray(maps[CELL] + maps[BOUNDARY])
