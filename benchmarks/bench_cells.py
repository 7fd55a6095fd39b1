"""Instances and morphology of a 500-cell frame: ours against scikit-image.

From the same foreground, 1024 x 1024 pixels: watershed and seven features of every cell. The
baseline is what a user would write first: ``distance_transform_edt``, ``peak_local_max``,
``watershed``, then ``regionprops_table``. Runs alternate; the ratios of medians are printed. Values
are compared on the same label image, with the convention that is regionprops' own.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from scipy import ndimage
from skimage.draw import ellipse
from skimage.feature import peak_local_max
from skimage.measure import regionprops_table
from skimage.segmentation import watershed

from analysis.instances.separate import watershed_2class
from analysis.morphology.features import measure

CELLS = 500
SIDE = 1024
RUNS = 7
PROPERTIES = ("area", "perimeter", "solidity", "centroid", "eccentricity", "orientation")


def frame(seed: int = 0) -> np.ndarray:
    """Draw ellipses on a jittered grid, so that some touch."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), bool)
    step = SIDE / 23
    for number in range(CELLS):
        row, column = divmod(number, 23)
        y, x = (np.array([row, column]) + 0.5) * step + rng.uniform(-4, 4, 2)
        axes = rng.uniform(13, 21, 2)
        mask[ellipse(y, x, *axes, shape=mask.shape, rotation=rng.uniform(0, np.pi))] = True
    return mask


def plain_instances(mask: np.ndarray) -> np.ndarray:
    """Separate cells as scikit-image's gallery does."""
    distance = ndimage.distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=8, labels=ndimage.label(mask)[0])
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, markers, mask=mask)


def main() -> int:
    """Print the ratios."""
    mask = frame()
    labels = watershed_2class(mask)
    steps = {
        "instances": (lambda: plain_instances(mask), lambda: watershed_2class(mask)),
        "morphology": (
            lambda: regionprops_table(labels, properties=PROPERTIES),
            lambda: measure(labels, convention="skimage"),
        ),
        "morphology as TrackMate": (
            lambda: regionprops_table(labels, properties=PROPERTIES),
            lambda: measure(labels, convention="trackmate"),
        ),
    }
    total = [0.0, 0.0]
    for name, both in steps.items():
        for one in both:
            one()  # compile, warm up
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS):
            for kept, one in zip(seconds, both):
                began = time.perf_counter()
                one()
                kept.append(time.perf_counter() - began)
        plain, ours = map(statistics.median, seconds)
        if name in ("instances", "morphology"):
            total = [total[0] + plain, total[1] + ours]
        print(
            f"{name}: scikit-image {1e3 * plain:.0f} ms, ours {1e3 * ours:.1f} ms, ratio "
            f"{plain / ours:.1f}"
        )
    print(f"instances and morphology of {labels.max()} cells: ratio {total[0] / total[1]:.1f}")
    theirs = regionprops_table(labels, properties=PROPERTIES)
    found = measure(labels, convention="skimage")
    pairs = {"area": "area", "perimeter": "perimeter", "solidity": "solidity", "x": "centroid-1"}
    worst = max(np.abs(found[a] / theirs[b] - 1).max() for a, b in pairs.items())
    print(f"largest relative difference of area, perimeter, solidity, x: {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
