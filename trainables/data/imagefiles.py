"""Reading microscopy images and label images from TIFF and PNG files."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray


class ImageFileError(ValueError):
    """A file that cannot be used; the message says why, and what to do."""


# What the decoders raise on damaged files; sizes and counts in a header may be anything.
_DAMAGED = (
    OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, MemoryError,
    struct.error,
)


# what it would print of a damaged file is said in the error, with the file's name
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Labels:
    """A label image as read."""

    labels: NDArray[np.int32]
    was_binary: bool
    """True if the file was a binary mask, whose connected components became the labels."""


MOST_PIXELS = 2**28
"""Most pixels of an image: 16384 x 16384. A file of a few kilobytes can hold a hundred times that."""


def check_size(shape: Sequence[int]) -> None:
    """Refuse an image of a shape that is too large, before its pixels are read.

    Raises
    ------
    ImageFileError
    """
    if math.prod(shape) > MOST_PIXELS:
        raise ImageFileError(
            f"has {' x '.join(map(str, shape))} pixels; at most {MOST_PIXELS} (such as 16384 x 16384) are "
            "read, so that no file can fill the memory; cut it into smaller images"
        )


def _png_shape(content: bytes) -> tuple[int, int]:
    """Return height and width as a PNG file's header states them; zeros if it has none."""
    if content[12:16] != b"IHDR" or len(content) < 24:
        return 0, 0
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def _read(path: Path) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".png":
            content = path.read_bytes()
            check_size(_png_shape(content))
            return np.asarray(imagecodecs.png_decode(content))
        with tifffile.TiffFile(path) as tiff:
            series = [f"{one.shape} {one.dtype}" for one in tiff.series]
            if len(series) > 1:  # only the first would be read
                raise ImageFileError(
                    f"contains {len(series)} images ({', '.join(series[:3])}); save one per file"
                )
            if series:
                check_size(tiff.series[0].shape)
            return np.asarray(tiff.asarray())
    except ImageFileError:
        raise
    except _DAMAGED as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ImageFileError(f"cannot be read ({reason[:120]}); is the file damaged?") from e


def _plane(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Drop axes of length one; refuse colours and stacks."""
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.shape[0] > 4:
        raise ImageFileError(f"colour {what} {array.shape}; save it in greyscale, with one channel")
    if array.ndim == 3 and array.shape[0] in (3, 4) and 1 not in array.shape:
        raise ImageFileError(
            f"{what} with {array.shape[0]} channels or pages {array.shape}; save one greyscale plane"
        )
    squeezed = array.squeeze() if array.ndim > 2 else array
    if squeezed.ndim != 2:
        raise ImageFileError(f"{what} of shape {array.shape}; save one file per plane and frame")
    if 0 in squeezed.shape:
        raise ImageFileError(f"{what} of shape {array.shape} has no pixels")
    return squeezed


def read_image(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read a grey image of 8 or 16 bit.

    Parameters
    ----------
    path : Path
        TIFF or PNG file.

    Returns
    -------
    (H, W) uint8 or uint16 array

    Raises
    ------
    ImageFileError
        For colour images, stacks, other number types, and files that cannot be read.
    """
    image = _plane(_read(path), "image")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(f"image of type {image.dtype}; save it as 8 or 16 bit unsigned integers")
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def read_labels(path: Path) -> Labels:
    """Read a label image; in a binary mask each connected component becomes a label.

    Parameters
    ----------
    path : Path
        TIFF or PNG file of integers, 0 = background, one number per cell.

    Returns
    -------
    Labels
        (H, W) int32 array.

    Raises
    ------
    ImageFileError
        For colour images, stacks, floats, impossible labels, and files that cannot be read.
    """
    from skimage.measure import label

    mask = _plane(_read(path), "mask")
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    if mask.dtype.kind not in "ui":
        raise ImageFileError(f"mask of type {mask.dtype}; label images must be integers")
    if mask.dtype.kind == "i" and mask.size and mask.min() < 0:
        raise ImageFileError("mask contains negative labels; background is 0, cells are 1, 2, ...")
    if mask.max() > np.iinfo(np.int32).max:
        raise ImageFileError("mask contains labels above 2147483647; renumber the cells")
    labels = mask.astype(np.int32)
    value = int(labels.max())
    single = not ((labels != 0) & (labels != value)).any()
    if value > labels.size and not single:  # of 0 and 255 a small mask may be, too
        raise ImageFileError(
            f"mask contains label {value} but has only {labels.size} pixels; cells must be numbered "
            "1, 2, ...; is this an intensity image?"
        )
    if value and single:
        parts, count = label(labels > 0, connectivity=2, return_num=True)
        if count > 1:
            return Labels(parts.astype(np.int32), True)
    return Labels(labels, False)
