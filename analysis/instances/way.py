"""A way from a network's maps to single cells, and its free parameters."""

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
    """Scale on which values are drawn evenly. A trained network gives most pixels of a cell more
    than 0.99; on the logit scale, 0.99 and 0.999 are as far apart as 0.5 and 0.9."""
    whole: bool = False
    areas: float = 0.0
    """`high` is raised to this multiple of a typical cell's area (pixels)."""
    radii: float = 0.0
    """`high` is raised to this multiple of a typical cell's radius (pixels)."""
    to_smallest: bool = False
    """`high` is raised to the area of a small cell (pixels)."""

    def limits(self, area: float, smallest: float) -> tuple[float, float]:
        """Return the smallest and the largest value.

        Parameters
        ----------
        area : float
            Pixels of a typical cell.
        smallest : float
            Pixels of a small cell: one true cell in a hundred is smaller.
        """
        high = max(self.high, self.areas * area, self.radii * math.sqrt(area / math.pi))
        if self.to_smallest:
            high = max(high, smallest)
        return self.low, float(int(high)) if self.whole else high

    def stretch(self, value: float) -> float:
        """Return the position of a value on the scale."""
        if self.scale == "logit":
            return math.log(value / (1 - value))
        return math.log(value) if self.scale == "log" else value

    def shrink(self, place: float) -> float:
        """Return the value at a position on the scale, with enough digits for 0.999999."""
        if self.scale == "logit":
            return round(1 / (1 + math.exp(-place)), 9)
        return round(math.exp(place) if self.scale == "log" else place, 3)


PROBABILITY = Range(0.01, 0.9999, scale="logit")
MIN_SIZE = Range(0, 1, whole=True, to_smallest=True)
SMOOTHING = Range(0, 3, radii=0.25)


class Way:
    """The part of a task that comes after the network; the other part is in `trainables.tasks`.

    Each way is a subclass. The parameters of all ways are calibrated with the same budget
    (`analysis.evaluation.calibration`).
    """

    name: ClassVar[str]
    """Name on the page and in tables."""
    ranges: ClassVar[Mapping[str, Range]]
    """Free parameters and their search ranges."""
    has_gap: ClassVar[bool] = False
    """Whether cells are separated by a line that belongs to none of them."""

    def defaults(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return the parameters used without calibration.

        Parameters
        ----------
        info : mapping
            The checkpoint's manifest, in which a trial may have stored its own parameters. Empty
            to get parameters that were chosen without any image.
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
        """Turn (C, h, w) maps into the label image of an image of shape (H, W)."""
        raise NotImplementedError

    def probability(self, config: TrialConfig, maps: Maps, shape: tuple[int, ...]) -> Maps:
        """Return the (H, W) probability that a pixel belongs to any cell, from an image's maps."""
        raise NotImplementedError

    def mirrored(self, maps: Maps, down: bool, along: bool) -> Maps:
        """Adapt the values of maps of a mirrored image (down: top to bottom, along: left to right),
        whose pixels have already been mirrored back.
        """
        return maps

    def wasteful(
        self, config: TrialConfig, maps: Maps, labels: NDArray[np.integer], parameters: Parameters
    ) -> tuple[int, int]:
        """Count the background pixels that propose a cell, and all background pixels. If most of
        them do, trying these parameters would waste time.
        """
        return 0, 0
