"""Ways from a network's maps to instances, and their free parameters: one table, nothing else.

Every way has the same budget in `analysis.calibration`, whatever its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.instances import from_3class, from_star_convex, watershed_2class
from trainables.config import STARDIST, TrialConfig

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Range:
    """Values that a free parameter may take."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    of_cell: bool = False
    """Whether `high` is in units of a typical cell's area."""


_MIN_SIZE = Range(0, 0.5, whole=True, of_cell=True)
_SMOOTHING = Range(0, 3)
RANGES: dict[str, dict[str, Range]] = {
    "semantic2": {
        "threshold": Range(0.1, 0.9),
        "seed_depth": Range(0.25, 6, log=True),
        "min_size": _MIN_SIZE,
        "smoothing": _SMOOTHING,
    },
    "semantic3": {
        "threshold": Range(0.1, 0.9),
        "seed_threshold": Range(0.1, 0.9),
        "min_size": _MIN_SIZE,
        "smoothing": _SMOOTHING,
    },
    "stardist": {
        "prob_threshold": Range(0.1, 0.9),
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
        As `analysis.prediction.predict_maps` gives them.
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
