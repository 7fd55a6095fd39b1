"""Whether an image shows what another one shows, whatever its name, format or size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

WINDOW = 8
"""Side of the windows that are compared, in pixels."""
ONE_IN = 256
"""One window in so many is kept, chosen by its content."""
SHARED = 3
"""Kept windows, displaced alike, that two images must share to show the same."""
PATCH = 128
"""Side of the central part in which brightness is compared, in pixels."""
FEWEST_VALUES = 4
"""Central parts with fewer different values show too little to be compared."""
Image = NDArray[np.uint8] | NDArray[np.uint16]
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, of irregular bits: mixes what it multiplies


class KnownImages:
    """Images, to be recognised in others.

    Recognised are

    - copies, whatever their name, file format and number of bits
    - a part cut out of a known image, an image that a known one was cut out of, and a copy with a
      border: the two share windows of `WINDOW` pixels, equal pixel by pixel and displaced alike
    - copies of other brightness or contrast, as when 16 bits are scaled to 8: in two images of one
      size, pixels with the same value in one have the same value in the other, in the same order
      of values or in reverse

    Not recognised is what was turned, mirrored, resized, filtered or compressed with loss.

    Parameters
    ----------
    images : iterable of (str, array)
        Names and pixels, (H, W) uint8 or uint16. One image at a time is in memory.
    """

    def __init__(self, images: Iterable[tuple[str, Image]]) -> None:
        self._names: list[str] = []
        self._digests: dict[bytes, str] = {}
        self._centres: dict[tuple[int, ...], list[tuple[str, NDArray[np.int64]]]] = {}
        hashes, places = [np.zeros(0, np.uint64)], [np.zeros((0, 3), np.int64)]
        for number, (name, image) in enumerate(images):
            self._names.append(name)
            self._digests.setdefault(digest(image), name)
            self._centres.setdefault(image.shape, []).append((name, _centre(image)))
            found, corners = _windows(image)
            hashes.append(found)
            places.append(np.column_stack([np.full(len(found), number), corners]))
        every = np.concatenate(hashes)
        order = np.argsort(every, kind="stable")
        self._hashes, self._places = every[order], np.concatenate(places)[order]

    def find(self, image: Image) -> str | None:
        """Return the name of a known image that shows what `image` shows; None if none does.

        Parameters
        ----------
        image : (H, W) uint8 or uint16 array
        """
        equal = self._digests.get(digest(image))
        if equal is not None:
            return equal
        return next(self._sharing(image), None) or next(self._of_other_brightness(image), None)

    def _sharing(self, image: Image) -> Iterator[str]:
        hashes, corners = _windows(image)
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        counts = last - first
        # of what repeats within an image, each place counts
        mine = np.repeat(np.arange(len(hashes)), counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        theirs = self._places[first[mine] + offsets]
        moved = np.column_stack([theirs[:, 0], theirs[:, 1:] - corners[mine]])
        alike, times = np.unique(moved, axis=0, return_counts=True)
        if len(times) and times.max() >= SHARED:
            yield self._names[alike[times.argmax(), 0]]

    def _of_other_brightness(self, image: Image) -> Iterator[str]:
        centre = _centre(image)
        for name, other in self._centres.get(image.shape, []):
            # a few pixels first: nearly all pairs differ in these already
            for step in (max(1, centre.size // 1024), 1):
                a, b = centre[::step], other[::step]
                if not (_in_order(a, b) or _in_order(b, a)):
                    break
            else:
                yield name


def digest(image: Image) -> bytes:
    """Return a hash of an image's shape and values, whatever its number of bits."""
    pixels = np.ascontiguousarray(image, np.uint16)  # 8 and 16 bits may hold the same values
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _centre(image: Image) -> NDArray[np.int64]:
    top, left = (max(0, side - PATCH) // 2 for side in image.shape)
    return image[top : top + PATCH, left : left + PATCH].astype(np.int64).ravel()


def _in_order(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    """Say whether b is a function of a that never falls, or never rises."""
    if min(len(np.unique(a)), len(np.unique(b))) < FEWEST_VALUES:
        return False
    order = np.argsort(a, kind="stable")
    steps = np.diff(b[order])
    if steps[np.diff(a[order]) == 0].any():
        return False
    return bool((steps >= 0).all() or (steps <= 0).all())


def _windows(image: Image) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return hash and corner (row, column) of the kept windows.

    A window is kept by its content alone, so that a copy keeps the same ones wherever they lie.
    Windows in which most neighbours are equal are left out: padding, saturated pixels, and the
    letters of a scale bar, which images that have nothing in common share.
    """
    if min(image.shape) < WINDOW:
        return np.zeros(0, np.uint64), np.zeros((0, 2), np.int64)
    sums: NDArray[Any] = image.astype(np.uint64)
    for axis in (0, 1):
        count = sums.shape[axis] - WINDOW + 1
        # Horner's rule along the axis; overflow is the modulus
        total = np.zeros_like(sums.take(range(count), axis))
        for k in range(WINDOW):
            part = sums[k : k + count] if axis == 0 else sums[:, k : k + count]
            total = total * _FACTOR + part
        sums = (total ^ (total >> np.uint64(29))) * _FACTOR
    rows, columns = np.nonzero(sums % np.uint64(ONE_IN) == 0)
    seen = sliding_window_view(image, (WINDOW, WINDOW))[rows, columns]
    textured = (seen[:, :, 1:] != seen[:, :, :-1]).mean((1, 2)) > 0.5
    corners = np.column_stack([rows, columns])[textured]
    return sums[rows, columns][textured], corners.astype(np.int64)
