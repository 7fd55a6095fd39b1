"""Predict a network's maps as its checkpoint says, averaged over mirror images on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation.images import LabelledImage, LabelledImages
from analysis.instances.methods import WAYS
from trainables.config import TrialConfig
from trainables.data.dataset import Item
from trainables.tasks import TASKS
from trainables.tiling import Inference, Maps, chosen_inference


class MapPredictor(Protocol):
    """What this module needs from the predictors of `trainables.checkpoint.load`."""

    config: TrialConfig
    inference: Inference
    info: dict[str, Any]
    """``checkpoint.json``."""

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Scale a raw (H, W) image in the same way as the training images."""

    def maps(self, normalized: NDArray[np.float32], inference: Inference | None = None) -> Maps:
        """Return (C, h, w) maps of a normalised image."""

    def close(self) -> None:
        """Release its resources, such as processes."""


class Predicted(NamedTuple):
    """One image, its true cells, and a network's prediction for it."""

    image: LabelledImage
    maps: Maps
    config: TrialConfig
    """Configuration of the network."""


class OnePass:
    """Lets a network predict the images of a study, each only once.

    The maps of one image at a time are in memory, and those that `keep` keeps.

    Parameters
    ----------
    predictor : MapPredictor
    images : LabelledImages
    flips : bool
        See `predict_maps`.
    tick : callable
        Called after every prediction.
    """

    def __init__(
        self,
        predictor: MapPredictor,
        images: LabelledImages,
        *,
        flips: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.predictor, self.images, self.flips, self.tick = predictor, images, flips, tick
        self._kept: dict[Item, Predicted] = {}

    def keep(self, items: Sequence[Item]) -> list[Predicted]:
        """Predict images whose maps are needed twice, and keep the maps until `take`."""
        self._kept = {item: self._predict(item) for item in items}
        return list(self._kept.values())

    def take(self, item: Item) -> Predicted:
        """Predict an image, or return a kept prediction and forget it."""
        return self._kept.pop(item, None) or self._predict(item)

    def _predict(self, item: Item) -> Predicted:
        image = self.images.read(item)
        maps = predict_maps(self.predictor, image.image, flips=self.flips)
        self.tick()
        return Predicted(image, maps, self.predictor.config)


def map_grid(config: TrialConfig) -> int:
    """Return the grid of the maps: they contain every n-th pixel in each direction."""
    return TASKS[config.task].grid_of(config)


def predict_maps(
    predictor: MapPredictor,
    image: NDArray[Any],
    *,
    tile: int | str = "auto",
    flips: bool = False,
) -> Maps:
    """Predict the maps from which instances are made.

    Parameters
    ----------
    predictor : Predictor or StarDistPredictor
        The result of `trainables.checkpoint.load`.
    image : (H, W) array
        Raw intensities of any integer or float type.
    tile : int or str
        ``auto`` (as the checkpoint says), ``whole`` (the whole image at once, whatever its size),
        or the side of tiles in pixels, a multiple of 32.
    flips : bool
        Average over the image and its three mirror images, which takes four times as long.

    Returns
    -------
    (C, h, w) float32 array
        See `trainables.tasks.Task.maps`; ``h = ceil(H / grid)``.

    Raises
    ------
    ValueError
        When the image is empty or not two-dimensional, or the tiles are not valid.
    """
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"an image of shape {image.shape}; give a single (H, W) image")
    inference = chosen_inference(predictor.inference, tile)
    normalized = predictor.normalize(image)

    def maps(part: NDArray[np.float32]) -> Maps:
        return predictor.maps(np.ascontiguousarray(part), inference)

    if not flips:
        return maps(normalized)
    return _average_of_flips(maps, normalized, predictor.config)


def foreground_probability(
    config: TrialConfig, maps: Maps, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the (H, W) probability that a pixel belongs to any cell, from the maps of an image."""
    return WAYS[config.task].probability(config, maps, shape)


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
            found = WAYS[config.task].mirrored(found, down, along)[:, :rows, :columns]
            total = found.copy() if total is None else total + found
    assert total is not None
    return total / np.float32(4)
