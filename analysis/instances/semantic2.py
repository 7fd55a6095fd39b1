"""The way of task ``semantic2``, as in the paper: threshold, then watershed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.instances.separate import watershed_2class
from analysis.instances.way import MIN_SIZE, PROBABILITY, SMOOTHING, Maps, Range, Way

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class Watershed(Way):
    """Separates cells along the valleys of the distance map."""

    name = "2-class + watershed"
    has_gap = True
    ranges = {  # noqa: RUF012 - a constant of the class
        "threshold": PROBABILITY,
        "seed_depth": Range(0.25, 6, scale="log", radii=0.5),
        "min_size": MIN_SIZE,
        "smoothing": SMOOTHING,
    }

    def defaults(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return 0.5 for threshold and seed depth, and a smallest size of 20 pixels."""
        return {"threshold": 0.5, "seed_depth": 0.5, "min_size": 20, "smoothing": 0.0}

    def instances(
        self,
        config: TrialConfig,
        maps: Maps,
        shape: tuple[int, int],
        *,
        give_back_gap: bool,
        **parameters: Any,
    ) -> NDArray[np.int32]:
        """Separate the cells in the (1, H, W) foreground probability."""
        return watershed_2class(maps[0], give_back_gap=give_back_gap, **parameters)

    def probability(self, config: TrialConfig, maps: Maps, shape: tuple[int, ...]) -> Maps:
        """Return the only map."""
        return np.asarray(maps[0])
