"""Pictures of predictions for people to look at. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outlined(
    image: NDArray[np.float32], pred: NDArray[np.bool_], true: NDArray[np.bool_], most: int = 512
) -> NDArray[np.uint8]:
    """Draw predicted and true outlines into an image.

    Parameters
    ----------
    image : (H, W) float32 array
        Normalised.
    pred, true : (H, W) bool arrays
    most : int
        Largest side of the picture, in pixels; larger images are cut at the centre.

    Returns
    -------
    (h, w, 3) uint8 array
        Grey image, truth in blue, prediction in orange, both where they agree in white.
    """
    from skimage.segmentation import find_boundaries

    top, left = (max(0, (n - most) // 2) for n in image.shape)
    window = (slice(top, top + most), slice(left, left + most))
    grey = np.clip(image[window], 0, 1) * 200
    rgb = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    p = find_boundaries(pred[window], mode="inner")
    t = find_boundaries(true[window], mode="inner")
    rgb[t] = (0, 114, 178)
    rgb[p] = (230, 159, 0)
    rgb[p & t] = 255
    return rgb


def validation_picture(
    number: int, image: NDArray[np.float32], pred: NDArray[np.bool_], true: NDArray[np.bool_]
) -> tuple[str, NDArray[np.uint8]]:
    """Return caption and `outlined` picture of the validation image with this number."""
    caption = f"validation image {number}: truth blue, prediction orange, both white"
    return caption, outlined(image, pred, true)
