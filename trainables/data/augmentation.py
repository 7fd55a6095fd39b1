"""Random transforms of training crops, by named strength. Imports no torch.

All strengths keep the shape of cells, because shape is measured afterwards. Flips and quarter
turns are exact symmetries of a microscope image. Turns by any angle and zooms keep ratios. There is
no shear and no elastic deformation: a deformation that changes no cell's axis ratio by more than a
tenth moves outlines by a pixel at most, which teaches nothing. A turned crop shows only what the
image shows: nothing is mirrored or filled in at the image's edges. Intensities change relative to
the background's median, which itself only gets a small offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_pieces

# OpenCV's own thread pool would compete with the pinned compute threads of the trial.
cv2.setNumThreads(0)

LOW, HIGH = -0.5, 1.5
"""Range of normalised images, which augmented crops keep."""
SMALLEST_PIECE = 9
"""Pixels (3 x 3). A smaller piece that breaks off its cell when a crop is turned is an artefact of
pixels, not a cell."""
OPENCV_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.int32)


@dataclass(frozen=True)
class Strength:
    """How much a named strength changes a crop; the defaults change nothing.

    Intensities are those of normalised images: 0 and 1 are the image's low and high percentile.
    """

    flips: bool = False
    """Apply one of the eight exact symmetries of a square, all equally likely."""
    zoom: float = 1.0
    """Above 1: turn by any angle, and magnify by 1 / zoom to zoom (both in 70 % of the crops)."""
    brightness: float = 0.0
    """Largest offset, up or down (80 %)."""
    contrast: float = 1.0
    """Stretch about the background's median by 1 / contrast to contrast (80 %)."""
    gamma: float = 1.0
    """Exponent from 1 / gamma to gamma, the background's median kept (30 %)."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels (20 %)."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise (40 %)."""


STRENGTHS = {
    "none": Strength(),
    "light": Strength(flips=True),
    "medium": Strength(flips=True, zoom=1.1, brightness=0.05, contrast=1.2, gamma=1.18, noise=0.05),
    "strong": Strength(
        flips=True, zoom=1.25, brightness=0.1, contrast=1.4, gamma=1.4, blur=1.5, noise=0.1
    ),
}
"""Brightness: from one image to the next, the normalised background of real films and nuclei has a
standard deviation of 0.02 to 0.04; ``strong`` changes it by up to about three of these."""


class Augmenter:
    """Cuts a crop from an image and transforms it at random.

    Parameters
    ----------
    strength : str
        A key of `STRENGTHS`.

    Raises
    ------
    ValueError
        When the strength is not known.
    """

    def __init__(self, strength: str) -> None:
        if strength not in STRENGTHS:
            raise ValueError(f"unknown augmentation {strength!r}; known: {', '.join(STRENGTHS)}")
        self._strength = STRENGTHS[strength]

    def __call__(
        self,
        image: NDArray[np.float32],
        labels: NDArray[np.integer],
        corner: tuple[int, int],
        size: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """Cut one crop.

        Parameters
        ----------
        image : (H, W) float32 array
            Normalised, from `LOW` to `HIGH`.
        labels : (H, W) integer array
            Of any integer type.
        corner : (y, x)
            Upper left corner of the crop before it is turned.
        size : int
            Side of the crop, in pixels; at most H and W.
        rng : numpy.random.Generator

        Returns
        -------
        crop : (size, size) float32 array
        cells : (size, size) integer array
            Labels of the image; pieces that were separated from their cell have new numbers,
            unique within the crop (see `one_piece_each`).

        Raises
        ------
        ValueError
            When the image is not of floats: raw intensities would be clipped at `HIGH`.
        """
        if image.dtype.kind != "f":
            raise ValueError(
                f"augmentation takes normalised images, not {image.dtype}; scale them with "
                "trainables.data.normalize"
            )
        strength = self._strength
        if strength.zoom > 1 and rng.random() < 0.7:
            zoom, turn = _factor(rng, strength.zoom), rng.uniform(-1, 1)
            crop, cells = _turned(image, labels, corner, size, zoom, turn)
        else:
            window = tuple(slice(start, start + size) for start in corner)
            crop, cells = image[window], labels[window]
        if strength.zoom > 1:
            cells = one_piece_each(cells)
        if strength.flips:
            quarters, flipped = int(rng.integers(4)), bool(rng.integers(2))
            crop, cells = (_symmetry(array, quarters, flipped) for array in (crop, cells))
        return self._intensity(crop, cells, rng), cells

    def _intensity(
        self, crop: NDArray[np.float32], cells: NDArray[np.integer], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        strength, given = self._strength, crop
        if strength.contrast > 1:
            outside = crop[cells == 0]
            level = np.median(outside if outside.size else crop)
            if rng.random() < 0.8:
                crop = level + (crop - level) * np.float32(_factor(rng, strength.contrast))
            if rng.random() < 0.3:
                exponent = np.float32(_factor(rng, strength.gamma))
                crop = level + (_gamma(crop, exponent) - _gamma(level, exponent))
            if rng.random() < 0.8:
                crop = crop + np.float32(rng.uniform(-1, 1) * strength.brightness)
        if strength.blur and rng.random() < 0.2:
            sigma = rng.uniform(0.5, strength.blur)
            crop = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(crop), (0, 0), sigma))
        if strength.noise and rng.random() < 0.4:
            deviation = np.float32(rng.uniform(0, strength.noise))
            crop = crop + rng.standard_normal(crop.shape, np.float32) * deviation
        return crop if crop is given else np.clip(crop, LOW, HIGH)


def _factor(rng: np.random.Generator, most: float) -> float:
    """Draw from 1 / `most` to `most`; a factor is as probable as its reciprocal."""
    return math.exp(rng.uniform(-1, 1) * math.log(most))


def _gamma(values: Any, exponent: np.float32) -> Any:
    scaled = np.clip((values - np.float32(LOW)) / np.float32(HIGH - LOW), 0, 1)
    return scaled**exponent * np.float32(HIGH - LOW)


def _symmetry(array: NDArray[Any], quarters: int, flipped: bool) -> NDArray[Any]:
    turned = np.rot90(array, quarters)
    return turned[:, ::-1] if flipped else turned


def _turned(
    image: NDArray[np.float32],
    labels: NDArray[np.integer],
    corner: tuple[int, int],
    size: int,
    zoom: float,
    turn: float,
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Cut a crop that is turned and zoomed about its centre, and lies inside the image.

    A crop that would reach beyond the image is moved inside. Where the image is too small for
    that (hardly larger than a crop), it is turned less and reduced less.

    Parameters
    ----------
    image, labels : (H, W) arrays
    corner : (y, x)
    size : int
    zoom : float
        Magnification that is wanted.
    turn : float
        From -1 to 1: part of the largest turn that the image has room for, 45 degrees at most
        (quarter turns do the rest).
    """
    room = (min(image.shape) - 1) / (size - 1)
    zoom = max(zoom, 1 / room)
    # the box around a square turned by a is cos a + sin a = sqrt(2) cos(45 degrees - a) wide
    widest = math.pi / 4 - math.acos(min(1.0, room * zoom / math.sqrt(2)))
    cos, sin = math.cos(turn * widest), math.sin(turn * widest)
    half = (size - 1) / 2 * (cos + abs(sin)) / zoom
    middle, window = [], []
    for start, side in zip(corner, image.shape, strict=True):
        at = min(max(start + (size - 1) / 2, half), max(half, side - 1 - half))
        # three pixels more, for interpolation between pixels
        first = max(0, math.floor(at - half) - 3)
        window.append(slice(first, math.ceil(at + half) + 4))
        middle.append(at - first)
    (y, x), c = middle, (size - 1) / 2
    a, b = cos / zoom, sin / zoom
    # from a pixel of the crop to its place in the window
    matrix = np.array([[a, -b, x - a * c + b * c], [b, a, y - b * c - a * c]])
    seen = labels[tuple(window)]
    # OpenCV does not move all other types; floats of 64 bit hold what labels hold
    moved = seen if seen.dtype in OPENCV_INTEGERS else seen.astype(np.float64)
    crop, cells = (
        cv2.warpAffine(
            array,
            matrix,
            (size, size),
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for array, interpolation in (
            (image[tuple(window)], cv2.INTER_CUBIC),
            (moved, cv2.INTER_NEAREST),
        )
    )
    return np.clip(crop, LOW, HIGH), np.asarray(cells).astype(labels.dtype, copy=False)


def one_piece_each(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Give every label one connected piece (pixels that share a corner are connected).

    The largest piece keeps its number. Another piece becomes a new cell, because the image still
    shows it as a cell: the crop's border separated it from the rest, or the label had several
    parts before. Only pieces of fewer than `SMALLEST_PIECE` pixels become background: thin tips
    break off like that when pixels are resampled, and would otherwise be learnt as tiny cells.

    Parameters
    ----------
    labels : (H, W) integer array

    Returns
    -------
    (H, W) integer array

    Examples
    --------
    >>> one_piece_each(np.kron([[4, 0, 4, 4]], np.ones((3, 3), int)))[0]
    array([5, 5, 5, 0, 0, 0, 4, 4, 4, 4, 4, 4], dtype=int32)
    """
    pieces = connected_pieces(labels, background=0, connectivity=2)
    areas = np.bincount(pieces.ravel())
    owner = np.zeros(len(areas), np.int64)
    owner[pieces] = labels
    order = np.lexsort((-areas, owner))
    further = order[1:][owner[order[1:]] == owner[order[:-1]]]
    if not further.size:
        return labels
    kept = areas[further] >= SMALLEST_PIECE
    owner[further] = np.where(kept, owner.max() + np.cumsum(kept), 0)
    # more numbers than the crop had: its own type may not hold them
    wide = np.int64 if owner.max() > np.iinfo(np.int32).max else np.int32
    parted: NDArray[np.integer] = owner.astype(wide)[pieces]
    return parted
