"""Ways from a network's maps to instances, and their free parameters: one table, nothing else.

Every way has the same budget in `analysis.evaluation.calibration`, whatever its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.instances.separate import from_3class, from_star_convex, watershed_2class
from trainables.config import STARDIST, TrialConfig

Parameters = Mapping[str, float]


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


_PROBABILITY = Range(0.01, 0.9999, scale="logit")
# after five epochs, three fourths of a cell's interior were above 0.9999 already
_SEED = Range(0.1, 0.999999, scale="logit")
_MIN_SIZE = Range(0, 1, whole=True, areas=0.5)
_SMOOTHING = Range(0, 3, radii=0.25)
RANGES: dict[str, dict[str, Range]] = {
    "semantic2": {
        "threshold": _PROBABILITY,
        "seed_depth": Range(0.25, 6, scale="log", radii=0.5),
        "min_size": _MIN_SIZE,
        "smoothing": _SMOOTHING,
    },
    "semantic3": {
        "threshold": _PROBABILITY,
        "seed_threshold": _SEED,
        "min_size": _MIN_SIZE,
        "smoothing": _SMOOTHING,
    },
    "stardist": {
        "prob_threshold": _PROBABILITY,
        "nms_threshold": Range(0.1, 0.7),
        "min_size": _MIN_SIZE,
    },
}
"""Free parameters of each task's way of making instances."""
WAYS = {
    "semantic2": "2-class + watershed",
    "semantic3": "3-class",
    "stardist": "star-convex head",
}
OFFICIAL = "StarDist"
GIVEN_BACK = "2-class + watershed, gap given back"
"""Our option of the first way: the line that the watershed cuts goes back to the cells."""


def way_of(config: TrialConfig) -> str:
    """Return the name of a trial's way of making instances."""
    return OFFICIAL if config.architecture == STARDIST else WAYS[config.task]


def default_parameters(config: TrialConfig, info: Mapping[str, Any]) -> dict[str, float]:
    """Return the parameters without any calibration of ours.

    Parameters
    ----------
    config : TrialConfig
    info : mapping
        The checkpoint's manifest: a star-convex trial stores thresholds of its own in it.
    """
    if config.task == "semantic2":
        return {"threshold": 0.5, "seed_depth": 0.5, "min_size": 20, "smoothing": 0.0}
    if config.task == "semantic3":
        return {"threshold": 0.5, "seed_threshold": 0.5, "min_size": 20, "smoothing": 0.0}
    stored = info.get("task", {}).get("thresholds", {})
    prob, nms = float(stored.get("prob", 0.5)), float(stored.get("nms", 0.4))
    return {"prob_threshold": prob, "nms_threshold": nms, "min_size": 0}


def make_instances(
    config: TrialConfig,
    maps: NDArray[np.float32],
    parameters: Parameters,
    shape: tuple[int, int],
    *,
    give_back_gap: bool = False,
) -> NDArray[np.int32]:
    """Turn maps into a label image.

    Parameters
    ----------
    config : TrialConfig
    maps : (C, h, w) float32 array
        As `analysis.evaluation.prediction.predict_maps` gives them.
    parameters : mapping
        Of the task's `RANGES`.
    shape : (int, int)
        Of the image.
    give_back_gap : bool
        Of `analysis.instances.watershed_2class`; other ways have no gap.

    Returns
    -------
    (H, W) int32 array
    """
    keywords: dict[str, Any] = dict(parameters)
    if "min_size" in keywords:
        keywords["min_size"] = int(keywords["min_size"])
    if config.task == "semantic2":
        return watershed_2class(maps[0], give_back_gap=give_back_gap, **keywords)
    if config.task == "semantic3":
        return from_3class(maps, **keywords)
    return from_star_convex(maps[0], maps[1:], grid=config.grid, shape=shape, **keywords)
