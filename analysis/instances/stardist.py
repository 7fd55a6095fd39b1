"""The way of task ``stardist``: polygons, of which the more probable suppress the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.instances.separate import from_star_convex
from analysis.instances.way import MIN_SIZE, PROBABILITY, Maps, Parameters, Range, Way

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class StarConvexPolygons(Way):
    """StarDist's non-maximum suppression and rendering (doi 10.1007/978-3-030-00934-2_30)."""

    name = "star-convex head"
    ranges = {  # noqa: RUF012 - a constant of the class
        "prob_threshold": PROBABILITY,
        "nms_threshold": Range(0.1, 0.7),
        "min_size": MIN_SIZE,
    }

    def defaults(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return the thresholds that the trial chose on its validation images."""
        stored = info.get("task", {}).get("thresholds", {})
        prob, nms = float(stored.get("prob", 0.5)), float(stored.get("nms", 0.4))
        return {"prob_threshold": prob, "nms_threshold": nms, "min_size": 0}

    def instances(
        self,
        config: TrialConfig,
        maps: Maps,
        shape: tuple[int, int],
        *,
        give_back_gap: bool,
        **parameters: Any,
    ) -> NDArray[np.int32]:
        """Decode (1 + rays, h, w) object probability and radial distances."""
        return from_star_convex(maps[0], maps[1:], grid=config.grid, shape=shape, **parameters)

    def probability(self, config: TrialConfig, maps: Maps, shape: tuple[int, ...]) -> Maps:
        """Return the object probability, repeated for all pixels of each grid cell."""
        full = np.repeat(np.repeat(maps[0], config.grid, 0), config.grid, 1)
        return np.asarray(full[: shape[0], : shape[1]])

    def mirrored(self, maps: Maps, down: bool, along: bool) -> Maps:
        """Put the radial distances of a mirrored image into the order of the original rays.

        Ray number k points to ``(sin(2 pi k / n), cos(2 pi k / n))``. Mirroring y turns it into
        number ``-k``, mirroring x into ``n / 2 - k``.
        """
        count = len(maps) - 1
        order = np.arange(count)
        if down:
            order = -order % count
        if along:
            if count % 2:
                raise ValueError(f"mirror images need an even number of rays, not {count}")
            order = (count // 2 - order) % count
        return np.concatenate([maps[:1], maps[1:][order]])

    def wasteful(
        self, config: TrialConfig, maps: Maps, labels: NDArray[np.integer], parameters: Parameters
    ) -> tuple[int, int]:
        """Count the background pixels that propose a cell, and all background pixels."""
        empty = labels[:: config.grid, :: config.grid] == 0
        proposed = (maps[0] >= parameters["prob_threshold"]) & empty
        return int(np.count_nonzero(proposed)), int(np.count_nonzero(empty))
