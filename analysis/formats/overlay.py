"""Outlines of cells drawn on their image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from trainables.records.files import write_with

COLOURS = ((230, 159, 0), (86, 180, 233), (240, 228, 66))
"""Okabe and Ito's light colours, visible on grey and distinguishable for colour-blind people."""
SMALL = 700
"""Longest side in pixels of images that are drawn at twice their size."""
_BRIGHTEST = 145
"""Grey level of the brightest pixels, darker than every colour."""


def overlay(
    image: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> NDArray[np.uint8]:
    """Draw the outline of every cell on the image.

    Parameters
    ----------
    image : (H, W) float array
        Normalised, 0 to 1.
    labels : (H, W) integer array

    Returns
    -------
    (H, W, 3) or (2 H, 2 W, 3) uint8 array
        The outline consists of the cell's outermost pixels; its colour, one of `COLOURS`, depends
        on the label, so that neighbours mostly differ. Images with sides below `SMALL` are drawn
        at twice their size, so that outlines hide less of them.
    """
    shown = np.clip(image, 0, 1)
    # a few bright spots must not hide dark cells: lift the middle towards a third
    middle = min(max(float(np.median(shown)), 1e-3), 0.999) if shown.size else 0.5
    grey = (shown ** np.clip(np.log(0.33) / np.log(middle), 0.5, 1) * _BRIGHTEST).astype(np.uint8)
    if max(labels.shape) < SMALL:
        grey, labels = (np.repeat(np.repeat(a, 2, 0), 2, 1) for a in (grey, labels))
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    edge = _outermost(labels)
    rgb[edge] = np.asarray(COLOURS, np.uint8)[labels[edge] % len(COLOURS)]
    return rgb


def _outermost(labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return the cells' pixels next to another label or the image border, on any of four sides."""
    padded = np.pad(labels, 1, constant_values=0)
    middle = padded[1:-1, 1:-1]
    differs = np.zeros(labels.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        differs |= other != middle
    return differs & (middle > 0)


def write_overlay(
    image: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], path: Path
) -> None:
    """Write the `overlay` of an image as a PNG."""
    content = imagecodecs.png_encode(overlay(image, labels))
    write_with(path, lambda p: p.write_bytes(content))
