"""All ways of making cells, by task, and functions that use a configuration's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.instances.semantic2 import Watershed
from analysis.instances.semantic3 import ThreeClasses
from analysis.instances.stardist import StarConvexPolygons
from analysis.instances.way import Parameters, Way
from trainables.config import STARDIST, TrialConfig

WAYS: dict[str, Way] = {
    "semantic2": Watershed(),
    "semantic3": ThreeClasses(),
    "stardist": StarConvexPolygons(),
}
"""Ways by task, as in `trainables.tasks.TASKS`. To add one, write its file and a line here."""
OFFICIAL = "StarDist"
"""Name of the way that StarDist's own model uses."""
GIVEN_BACK = ", gap given back"
"""Ends the name of a way that has a gap, and of its method, where the line that is cut between
cells goes back to them: our option."""


def way_of(config: TrialConfig, *, give_back_gap: bool = False) -> str:
    """Return the name of a trial's way of making instances, and whether the gap is given back."""
    name = OFFICIAL if config.architecture == STARDIST else WAYS[config.task].name
    return f"{name}{GIVEN_BACK}" if give_back_gap else name


def default_parameters(config: TrialConfig, info: Mapping[str, Any]) -> dict[str, float]:
    """Return the parameters used without calibration.

    Parameters
    ----------
    config : TrialConfig
    info : mapping
        The checkpoint's manifest, in which a star-convex trial stores its own thresholds.
    """
    return WAYS[config.task].defaults(info)


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
        The result of `analysis.evaluation.prediction.predict_maps`.
    parameters : mapping
        Values for the parameters in `Way.ranges`.
    shape : (int, int)
        Shape of the image.
    give_back_gap : bool
        See `analysis.instances.watershed_2class`; other ways have no gap.

    Returns
    -------
    (H, W) int32 array
    """
    way = WAYS[config.task]
    whole = {name for name, one in way.ranges.items() if one.whole}
    keywords: dict[str, Any] = {
        name: int(value) if name in whole else value for name, value in parameters.items()
    }
    return way.instances(config, maps, shape, give_back_gap=give_back_gap, **keywords)
