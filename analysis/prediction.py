"""Networks on whole images of any size: at once where that fits, in blended tiles where not.

A tile is normalised with its whole image's percentiles. Its outermost pixels, which lack context,
count nothing; further inside its weight rises linearly, so that neighbours are blended over a wide
band and no seam appears. Networks that pool the whole view (PAN, the DeepLabs, MA-Net's attention)
see a tile's view instead of the image's: their tiles differ everywhere, not at seams.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.config import STARDIST, TrialConfig
from trainables.labels import BOUNDARY, CELL

Maps = NDArray[np.float32]
TILE = 1024
"""Side of a tile, in pixels; a multiple of 32, as networks need."""
OVERLAP = 256
"""Pixels that neighbouring tiles share."""
MARGIN = 64
"""Pixels at a tile's inner borders that are not used."""
SMALL = 1280 * 928
"""Pixels of an image that is always predicted at once; larger ones are, if memory allows."""
SHARE_OF_MEMORY = 0.5
"""Share of the free memory that one prediction may take."""


class MapPredictor(Protocol):
    """What this module needs of `trainables.checkpoint.load`'s predictors."""

    config: TrialConfig

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Scale a raw (H, W) image as those of the training were."""

    def maps(self, normalized: NDArray[np.float32]) -> Maps:
        """Return (C, h, w) maps of a normalised image."""


def map_grid(config: TrialConfig) -> int:
    """Return of how many pixels in a row the maps hold one."""
    return config.grid if config.task == "stardist" else 1


def predict_maps(
    predictor: MapPredictor,
    image: NDArray[Any],
    *,
    tile: int | Literal["auto", "whole"] = "auto",
    overlap: int = OVERLAP,
    flips: bool = False,
) -> Maps:
    """Predict what instances are made from.

    Parameters
    ----------
    predictor : Predictor or StarDistPredictor
        As `trainables.checkpoint.load` gives it.
    image : (H, W) array
        Raw intensities of any integer or float type.
    tile : int, "auto" or "whole"
        Side of the tiles in pixels, a multiple of 32; ``whole``: the image at once; ``auto``: at
        once where the estimated memory is at most half of what is free, else tiles of `TILE`.
    overlap : int
        Pixels that neighbouring tiles share; at least 32 and at most half the tile.
    flips : bool
        Average over the image and its three mirror images (four times the time).

    Returns
    -------
    (C, h, w) float32 array
        As `trainables.tasks.Task.maps` says; ``h = ceil(H / grid)``.

    Raises
    ------
    ValueError
        For an image that is not two-dimensional or holds no pixel, or wrong tiles.
    """
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"an image of shape {image.shape}; segsweep predicts single (H, W) images")
    normalized = predictor.normalize(image)
    side = _side(predictor.config, normalized.shape, tile)
    if side is not None and (side % 32 or side < 64 or not 32 <= overlap <= side // 2):
        raise ValueError(
            f"tiles of {side} pixels that share {overlap}: the side must be a multiple of 32 of at "
            "least 64, the shared part from 32 to half of it"
        )

    def once(part: NDArray[np.float32]) -> Maps:
        return predictor.maps(np.ascontiguousarray(part))

    def maps(part: NDArray[np.float32]) -> Maps:
        if side is None or max(part.shape) <= side:
            return once(part)
        return tiled(once, part, side, overlap, map_grid(predictor.config))

    if not flips:
        return maps(normalized)
    return _average_of_flips(maps, normalized, predictor.config)


def foreground_probability(
    config: TrialConfig, maps: Maps, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the (H, W) probability of any cell for the maps of an image of a shape."""
    if config.task == "semantic3":
        return np.asarray(maps[CELL] + maps[BOUNDARY])
    if config.task == "stardist":
        full = np.repeat(np.repeat(maps[0], config.grid, 0), config.grid, 1)
        return full[: shape[0], : shape[1]]
    return maps[0]


def _side(config: TrialConfig, shape: tuple[int, ...], tile: int | str) -> int | None:
    """Return the tiles' side; None: the whole image."""
    if isinstance(tile, int):
        return tile
    if tile not in ("auto", "whole"):
        raise ValueError(f"tile={tile!r}; known: a number of pixels, auto, whole")
    if tile == "whole" or shape[0] * shape[1] <= SMALL:
        return None
    needed = _needed_mb(config.model_dump_json(), (shape[0], shape[1]))
    return None if needed <= SHARE_OF_MEMORY * _free_mb() else TILE


@lru_cache(maxsize=64)
def _needed_mb(config_json: str, shape: tuple[int, int]) -> float:
    config = TrialConfig.model_validate_json(config_json)
    if config.architecture == STARDIST:
        # its first layers keep 32 channels, in float32, several at a time; and a map of the output
        return shape[0] * shape[1] * (32 * 4 * 4 + (1 + config.rays) * 4) / 2**20
    from trainables.footprint import inference_mb

    # in float32, since the maps of a device that emulates bfloat16 are as large
    return inference_mb(config, shape)


def _free_mb() -> float:
    """Return the free memory of the GPU if there is one, else of this machine, in MiB."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]) / 2**20
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        return int(fields["MemAvailable"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**21


def positions(length: int, side: int, overlap: int, grid: int = 1) -> list[int]:
    """Return where tiles start along an axis: evenly spread, the last ending at the border.

    Examples
    --------
    >>> positions(100, 64, 32)
    [0, 36]
    >>> positions(50, 64, 32)
    [0]
    """
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    starts = np.linspace(0, length - side, count)
    # on the maps' grid; the last tile may then reach past the border by less than one of its steps
    rounded = [int(np.floor(s / grid)) * grid for s in starts[:-1]]
    return [*rounded, -(-(length - side) // grid) * grid]


def _ramp(start: int, side: int, length: int, overlap: int) -> NDArray[np.float32]:
    """Return a tile's weights along an axis: 0 at inner borders, rising, 1 inside."""
    margin = min(MARGIN, overlap // 4)
    here = np.arange(side, dtype=np.float32) + 0.5
    rise = overlap - 2 * margin
    weight = np.ones(side, np.float32)
    if start > 0:
        weight *= np.clip((here - margin) / rise, 0, 1)
    if start + side < length:
        weight *= np.clip((side - here - margin) / rise, 0, 1)
    return weight


def tiled(
    predict: Callable[[NDArray[np.float32]], Maps],
    image: NDArray[np.float32],
    side: int,
    overlap: int = OVERLAP,
    grid: int = 1,
) -> Maps:
    """Predict an image in overlapping tiles and blend them.

    Parameters
    ----------
    predict : callable
        Gives (C, h, w) maps of a part.
    image : (H, W) float32 array
    side, overlap : int
        Of the tiles, in pixels.
    grid : int
        One pixel in so many is in the maps.

    Returns
    -------
    (C, ceil(H / grid), ceil(W / grid)) float32 array
    """
    height, width = image.shape
    shape = (-(-height // grid), -(-width // grid))
    total: Maps | None = None
    weights = np.zeros(shape, np.float32)
    for y, x in _corners(height, width, side, overlap, grid):
        part = predict(image[y : y + side, x : x + side])
        if total is None:
            total = np.zeros((part.shape[0], *shape), np.float32)
        rows, columns = part.shape[1:]
        at = (slice(y // grid, y // grid + rows), slice(x // grid, x // grid + columns))
        down = _ramp(y, min(side, height - y), height, overlap)[::grid]
        along = _ramp(x, min(side, width - x), width, overlap)[::grid]
        weight = np.outer(down, along)
        total[:, *at] += part * weight
        weights[at] += weight
    assert total is not None
    total /= weights
    return total


def _corners(
    height: int, width: int, side: int, overlap: int, grid: int
) -> Iterator[tuple[int, int]]:
    for y in positions(height, side, overlap, grid):
        for x in positions(width, side, overlap, grid):
            yield y, x


def _average_of_flips(
    maps: Callable[[NDArray[np.float32]], Maps], image: NDArray[np.float32], config: TrialConfig
) -> Maps:
    grid = map_grid(config)
    height, width = image.shape
    # mirrored pixels fall on the maps' grid when the sides are one more than its multiple
    padding = [(0, (1 - side) % grid) for side in image.shape]
    padded = np.pad(image, padding, mode="edge")
    rows, columns = -(-height // grid), -(-width // grid)
    total: Maps | None = None
    for down in (False, True):
        for along in (False, True):
            flip = tuple(axis for axis, on in ((0, down), (1, along)) if on)
            found = np.flip(maps(np.flip(padded, flip)), tuple(axis + 1 for axis in flip))
            if config.task == "stardist":
                found = np.concatenate([found[:1], _mirror_rays(found[1:], down, along)])
            found = found[:, :rows, :columns]
            total = found.copy() if total is None else total + found
    assert total is not None
    return total / np.float32(4)


def _mirror_rays(distances: Maps, down: bool, along: bool) -> Maps:
    """Put radial distances of a mirrored image into the order of the image's own rays.

    Ray number k points to ``(sin(2 pi k / n), cos(2 pi k / n))``: turning y over makes it number
    ``-k``, turning x over ``n / 2 - k``.
    """
    count = len(distances)
    order = np.arange(count)
    if down:
        order = -order % count
    if along:
        if count % 2:
            raise ValueError(f"mirror images need an even number of rays, not {count}")
        order = (count // 2 - order) % count
    return distances[order]
