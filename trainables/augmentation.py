"""Training transforms by named strength, by albumentations.

Every strength keeps what a cell is: flips and quarter turns are exact symmetries of a
microscope image; stronger ones add what differs between dishes, days and focus.
"""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV's own thread pool would compete with the pinned compute threads of the trial.
cv2.setNumThreads(0)

_LIGHT: list[Any] = [A.D4(p=1.0)]
_INTENSITY: list[Any] = [
    A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.7),
    A.RandomGamma(gamma_limit=(85, 118), p=0.3),
]


def _affine(rotate: float, scale: float, shear: float) -> A.Affine:
    return A.Affine(
        rotate=(-rotate, rotate),
        scale=(1 - scale, 1 + scale),
        shear=(-shear, shear),
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REFLECT_101,
        p=0.7,
    )


def _medium() -> list[Any]:
    return [*_LIGHT, _affine(45, 0.1, 0), *_INTENSITY, A.GaussNoise(std_range=(0.0, 0.03), p=0.3)]


def _strong() -> list[Any]:
    return [
        *_LIGHT,
        _affine(45, 0.25, 8),
        A.ElasticTransform(
            alpha=30, sigma=6, border_mode=cv2.BORDER_REFLECT_101, approximate=True, p=0.3
        ),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.35, p=0.8),
        A.RandomGamma(gamma_limit=(70, 140), p=0.4),
        A.GaussianBlur(blur_limit=(3, 5), p=0.2),
        A.GaussNoise(std_range=(0.0, 0.06), p=0.4),
    ]


STRENGTHS = {"none": list, "light": lambda: list(_LIGHT), "medium": _medium, "strong": _strong}


class Augmenter:
    """Random transform of a crop and its labels, reproducible from a seed.

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
        transforms = STRENGTHS[strength]()
        self._compose = A.Compose(transforms) if transforms else None

    def reseed(self, seed: int) -> None:
        """Restart the random stream; the calls that follow repeat for an equal seed."""
        if self._compose is not None:
            self._compose.set_random_seed(seed)

    def __call__(
        self, image: NDArray[np.float32], labels: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """Transform an image in [-0.5, 1.5] and its label image together.

        Parameters
        ----------
        image : (H, W) float32 array
        labels : (H, W) integer array

        Returns
        -------
        (image, labels)
            Of the same shapes; labels hold no value that was not there before.
        """
        if self._compose is None:
            return image, labels
        # albumentations takes float images in [0, 1] and OpenCV no 32-bit label images, so
        # the crop's labels are numbered anew for the journey.
        values, index = np.unique(labels, return_inverse=True)
        moved = self._compose(
            image=(image + 0.5) / 2, mask=index.reshape(labels.shape).astype(np.int16)
        )
        return moved["image"] * 2 - 0.5, values[moved["mask"]]
