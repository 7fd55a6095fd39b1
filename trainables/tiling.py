"""How images are predicted: as a whole, or in overlapping tiles that are blended. Imports no torch.

The image is normalised as a whole before it is cut into tiles. A tile's outer pixels, which lack
context, are ignored; weight then increases linearly, so that neighbours are blended over a wide
band and no seam appears. Networks that pool over everything that they see (PAN, the DeepLabs,
MA-Net's attention) predict differently in tiles, and often better in tiles of the training crops'
size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]

STRIDE = 32
"""Sides of a network's input are multiples of this."""
SMALLEST_TILE = 64
"""Side of the smallest tile, in pixels."""
USUAL_OVERLAP = 112
"""Pixels that neighbouring tiles share: half a tile of 224, a quarter of large tiles."""
MARGIN = 64
"""Pixels at a tile's inner borders that are ignored; at most a quarter of the overlap."""
OLD_PIXELS = 1280 * 928
"""Checkpoints of recipe 1 do not say how to predict: up to this many pixels at once."""


@dataclass(frozen=True)
class Inference:
    """How a network predicts an image; stored in its checkpoint.

    Examples
    --------
    >>> str(Inference(None, 904 * 1224)), str(Inference(224))
    ('whole', 'tiles of 224')
    """

    tile: int | None = None
    """Side of the tiles in pixels, a multiple of 32; None: the whole image at once."""
    most_pixels: int = OLD_PIXELS
    """Without tiles: the largest image that is predicted at once, in pixels (that of the
    validation images). Larger ones are predicted in tiles that hold no more than that."""

    def __post_init__(self) -> None:
        if self.tile is not None and (self.tile % STRIDE or self.tile < SMALLEST_TILE):
            raise ValueError(
                f"tiles of {self.tile} pixels: the side must be a multiple of {STRIDE}, at least "
                f"{SMALLEST_TILE}"
            )

    def side(self, shape: tuple[int, ...]) -> int | None:
        """Return the side of the tiles for an image of a shape (H, W); None: at once.

        Examples
        --------
        >>> Inference(None, 300_000).side((500, 600)), Inference(None, 300_000).side((904, 1224))
        (None, 544)
        """
        if self.tile is not None:
            return self.tile if max(shape) > self.tile else None
        if shape[0] * shape[1] <= self.most_pixels:
            return None
        side = math.isqrt(self.most_pixels) // STRIDE * STRIDE
        return max(side, SMALLEST_TILE)

    def state(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {"tile": self.tile, "most_pixels": self.most_pixels}

    def __str__(self) -> str:
        return "whole" if self.tile is None else f"tiles of {self.tile}"


WHOLE = Inference()
"""What checkpoints of recipe 1 do."""


def stored_inference(manifest: Mapping[str, Any]) -> Inference:
    """Return how a checkpoint predicts; checkpoints of recipe 1 predict whole frames.

    Parameters
    ----------
    manifest : mapping
        Content of ``checkpoint.json``.

    Raises
    ------
    ValueError, TypeError
        When the stored values are not valid.
    """
    stored = manifest.get("inference")
    return WHOLE if stored is None else Inference(**stored)


def chosen_inference(stored: Inference, tile: str | int) -> Inference:
    """Return how to predict, as the user asks for it.

    Parameters
    ----------
    stored : Inference
        The checkpoint's own.
    tile : str or int
        ``auto``: as the checkpoint says; ``whole``: the image as a whole, whatever its size; or
        the side of tiles in pixels.

    Raises
    ------
    ValueError
        When it is none of these.
    """
    text = str(tile)
    if text == "auto":
        return stored
    if text == "whole":
        return replace(stored, tile=None, most_pixels=2**62)
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"tile={text}; choose auto, whole, or a number of pixels")
    return replace(stored, tile=int(text))


def overlap_of(side: int) -> int:
    """Return the overlap in pixels of neighbouring tiles with a given side."""
    return max(side // 4, min(side // 2, USUAL_OVERLAP))


def positions(length: int, side: int, overlap: int, grid: int = 1) -> list[int]:
    """Return where tiles start along an axis: evenly spread, the last ending at the border.

    Examples
    --------
    >>> positions(100, 64, 32)
    [0, 18, 36]
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
    *,
    grid: int = 1,
) -> Maps:
    """Predict an image in overlapping tiles and blend them.

    Parameters
    ----------
    predict : callable
        Gives (C, h, w) maps of a part of the image.
    image : (H, W) float32 array
    side : int
        Side of the tiles, in pixels.
    grid : int
        The maps contain every `grid`-th pixel in both directions.

    Returns
    -------
    (C, ceil(H / grid), ceil(W / grid)) float32 array
    """
    height, width = image.shape
    overlap = overlap_of(side)
    shape = (-(-height // grid), -(-width // grid))
    total: Maps | None = None
    weights = np.zeros(shape, np.float32)
    corners = [
        (y, x)
        for y in positions(height, side, overlap, grid)
        for x in positions(width, side, overlap, grid)
    ]
    for y, x in corners:
        part = predict(np.ascontiguousarray(image[y : y + side, x : x + side]))
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
