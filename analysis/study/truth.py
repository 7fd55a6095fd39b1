"""Read the true cells once: measure them, and choose the images that the report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.images import LabelledImage
from analysis.evidence import Crop, Picture
from analysis.study.effects import measured_again
from analysis.study.study import Study
from trainables.config import Normalization
from trainables.data.dataset import Item
from trainables.data.normalization import normalize

MOST_PICTURES = 4
"""Most images in the report's viewer."""
CROP_SIDE = 224
"""Side in pixels of the window that is shown for every network; the paper's value."""


@dataclass(frozen=True)
class Window:
    """The part of one image that is shown for every network."""

    item: Item
    slices: tuple[slice, slice]
    crop: Crop


@dataclass
class Truth:
    """What is known from the true cells of the measured images, before any prediction."""

    pictured: Sequence[str]
    """Stems of the images in the report's viewer."""
    objects: list[pd.DataFrame] = field(default_factory=list)
    """The true cells of each image."""
    remeasured: list[pd.DataFrame] = field(default_factory=list)
    """Those of known populations, in every convention (`analysis.study.effects`)."""
    empty: list[str] = field(default_factory=list)
    """Stems of images without a true cell."""
    pictures: list[Picture] = field(default_factory=list)
    """Pictures that do not yet have the methods' cells."""
    window: Window | None = None
    """None if no image shows a cell."""

    def missing(self) -> list[str]:
        """Say which images show no cell."""
        shown = ", ".join(self.empty[:8])
        return [f"Images without any true cell: {shown}."] if self.empty else []


def measure_truth(study: Study, tick: Callable[[], None]) -> Truth:
    """Measure the true cells, and choose the images that the report shows.

    Parameters
    ----------
    study : Study
    tick : callable
        Called after every image. One image at a time is in memory, besides those in `study`.

    Raises
    ------
    trainables.data.DataError
        When an image or its mask cannot be used.
    """
    found, split = Truth(pictured(study.items)), study.measurer.split
    for item in study.items:
        image = study.images.read(item)
        found.objects.append(study.measurer.true_cells(image))
        found.remeasured += measured_again(study.measurer, found.objects[-1], image.truth)
        if found.objects[-1].empty:
            found.empty.append(item.stem)
        if item.stem in found.pictured:
            pixels = normalize(image.image, Normalization())
            found.pictures.append(Picture(item.stem, split, pixels, image.truth, {}))
        if found.window is None and image.truth.any():
            found.window = _window(image)
        tick()
    return found


def pictured(items: Sequence[Item]) -> list[str]:
    """Return the stems of the images to show, spread evenly."""
    count = min(MOST_PICTURES, len(items))
    return [items[i].stem for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _window(image: LabelledImage) -> Window:
    rows, columns = densest(image.truth, min(CROP_SIDE, *image.shape))
    pixels = normalize(image.image, Normalization())[rows, columns]
    corner = (rows.start, columns.start)
    crop = Crop(image.item.stem, corner, pixels, image.truth[rows, columns])
    return Window(image.item, (rows, columns), crop)


def densest(truth: NDArray[np.int32], side: int) -> tuple[slice, slice]:
    """Return the window of `side` pixels with the most foreground, in steps of a quarter side."""
    step = max(1, side // 4)
    corners = [
        (y, x)
        for y in range(0, truth.shape[0] - side + 1, step)
        for x in range(0, truth.shape[1] - side + 1, step)
    ]
    y, x = max(
        corners, key=lambda c: np.count_nonzero(truth[c[0] : c[0] + side, c[1] : c[1] + side])
    )
    return slice(y, y + side), slice(x, x + side)
