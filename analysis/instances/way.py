"""A way from a network's maps to single cells, and the free parameters of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainables.config import TrialConfig

Parameters = Mapping[str, float]
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Range:
    """Values that a free parameter may take."""

    low: float
    high: float
    scale: Literal["linear", "log", "logit"] = "linear"
    """On which values are drawn evenly. A trained network gives most pixels of a cell more than
    0.99: on the logit scale 0.99 and 0.999 are as far apart as 0.5 and 0.9."""
    whole: bool = False
    areas: float = 0.0
    """In pixels, `high` is so many areas of a typical cell, if that is more."""
    radii: float = 0.0
    """In pixels, `high` is so many radii of a typical cell, if that is more."""

    def limits(self, area: float) -> tuple[float, float]:
        """Return the smallest and the largest value where a typical cell has `area` pixels."""
        high = max(self.high, self.areas * area, self.radii * math.sqrt(area / math.pi))
        return self.low, float(int(high)) if self.whole else high

    def stretch(self, value: float) -> float:
        """Return a value's place on the scale."""
        if self.scale == "logit":
            return math.log(value / (1 - value))
        return math.log(value) if self.scale == "log" else value

    def shrink(self, place: float) -> float:
        """Return the value of a place on the scale, in digits that keep 0.999999 from 1."""
        if self.scale == "logit":
            return round(1 / (1 + math.exp(-place)), 9)
        return round(math.exp(place) if self.scale == "log" else place, 3)


PROBABILITY = Range(0.01, 0.9999, scale="logit")
MIN_SIZE = Range(0, 1, whole=True, areas=0.5)
SMOOTHING = Range(0, 3, radii=0.25)


class Way:
    """The half of a task that begins where the network ends; the other is in `trainables.tasks`.

    A subclass is the record of one way. Its parameters are calibrated with the same budget as
    those of all others (`analysis.evaluation.calibration`).
    """

    name: ClassVar[str]
    """What people read on the page and in tables."""
    ranges: ClassVar[Mapping[str, Range]]
    """Free parameters, and where they are searched."""
    has_gap: ClassVar[bool] = False
    """Whether cells are cut apart by a line that belongs to none of them."""

    def defaults(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return the parameters without any calibration of ours.

        Parameters
        ----------
        info : mapping
            The checkpoint's manifest, where a trial may have stored parameters of its own.
        """
        raise NotImplementedError

    def instances(
        self,
        config: TrialConfig,
        maps: Maps,
        shape: tuple[int, int],
        *,
        give_back_gap: bool,
        **parameters: Any,
    ) -> NDArray[np.int32]:
        """Turn (C, h, w) maps into the (H, W) label image of an image of that shape."""
        raise NotImplementedError

    def probability(self, config: TrialConfig, maps: Maps, shape: tuple[int, ...]) -> Maps:
        """Return the (H, W) probability of any cell for the maps of an image of a shape."""
        raise NotImplementedError

    def mirrored(self, maps: Maps, down: bool, along: bool) -> Maps:
        """Return the values that maps have once their pixels are mirrored (down: top to bottom,
        along: left to right); pixels are in place already.
        """
        return maps

    def wasteful(
        self, config: TrialConfig, maps: Maps, labels: NDArray[np.integer], parameters: Parameters
    ) -> tuple[int, int]:
        """Count the background pixels that propose a cell, and all background pixels: where most
        do, parameters are not worth the time of trying them.
        """
        return 0, 0
