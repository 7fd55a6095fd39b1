"""Images of cells that stay apart, and what networks of different quality find in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]
SHAPE, SLOT = (72, 96), 24
LEVELS = (0.9, 0.65, 0.55, 0.51, 0.48, 0.4)
"""Probabilities that networks give to pixels of cells, the surest first."""
MIN_SIZE = 5


def parts(mask: NDArray[np.bool_]) -> Labels:
    """Give the connected parts of a mask, without those that are too small."""
    labels = ndimage.label(mask, np.ones((3, 3)))[0]
    small = np.bincount(labels.ravel()) < MIN_SIZE
    return np.where(small[labels], 0, labels).astype(np.int32)


class Slots:
    """Cells of one image, each in a square of its own, so that they stay apart."""

    def __init__(self, rng: np.random.Generator, cells: int, *, larger: int = 0) -> None:
        self.rng, self.larger = rng, larger
        every = [(r, c) for r in range(SHAPE[0] // SLOT) for c in range(SHAPE[1] // SLOT)]
        order = [every[i] for i in rng.permutation(len(every))]
        self.free = order[cells:]
        used = sorted(order[:cells])
        # the first one of the upper row touches the border
        self.masks = {slot: self._cell(slot, slot == used[0] and not slot[0]) for slot in used}
        self.truth: Labels = np.zeros(SHAPE, np.int32)
        for label, mask in enumerate(self.masks.values(), 1):
            self.truth[mask] = label

    def _cell(self, slot: tuple[int, int], at_border: bool = False) -> NDArray[np.bool_]:
        """Give a rectangle or a disc of 8 to 13 pixels."""
        rng, mask = self.rng, np.zeros(SHAPE, bool)
        height, width = rng.integers(8, 12, 2) + self.larger
        if rng.random() < 0.4:
            height, width = 10, width  # shares of it are tenths
        y, x = (SLOT * place + 4 + int(rng.integers(0, 3)) for place in slot)
        if rng.random() < 0.3 and not at_border:
            yy, xx = np.indices(SHAPE)
            middle = (height - 1) / 2
            return np.asarray(np.hypot(yy - y - middle, xx - x - middle) <= height / 2)
        y = 0 if at_border else y
        mask[y : y + height, x : x + width] = True
        return mask

    def found(self, quality: float, grow: float, key: int) -> list[NDArray[np.bool_]]:
        """Give what a network finds at each of `LEVELS`: what it found before, and more.

        Networks with the same key fail at the same cells.
        """
        new: list[list[NDArray[np.bool_]]] = [[] for _ in LEVELS]
        for slot, cell in self.masks.items():
            rng = self.rng = np.random.default_rng([key, *slot])
            if rng.random() < 0.1 * (1 - quality):
                continue
            level = int(rng.integers(0, len(LEVELS))) if rng.random() < 0.3 else 0
            one = cell if rng.random() < quality else self._worse(slot, cell)
            if rng.random() < grow:
                one = ndimage.binary_dilation(one) & _inside(slot)
            new[level].append(one)
            if rng.random() < 0.4:
                more = int(rng.integers(level, len(LEVELS)))
                new[more].append(ndimage.binary_dilation(one) & _inside(slot))
        for slot in self.free:
            rng = self.rng = np.random.default_rng([key, *slot])
            if rng.random() < 0.3 * (1 - quality):
                new[int(rng.integers(0, len(LEVELS)))].append(self._cell(slot))
            elif quality < 0.5 and rng.random() < 0.3:
                new[-1].append(self._cell(slot))
        masks, now = [], np.zeros(SHAPE, bool)
        for group in new:
            for one in group:
                now = now | one
            masks.append(now)
        return masks

    def _worse(self, slot: tuple[int, int], cell: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Give a cell cut short, in two, moved, joined with the next one, or too small."""
        rng, worse = self.rng, cell.copy()
        rows, kind = np.flatnonzero(cell.any(1)), rng.random()
        other = self.masks.get((slot[0], slot[1] + 1))
        if kind < 0.5:
            worse[rows[0] + round(rng.choice([0.5, 0.6, 0.7, 0.8, 0.9]) * len(rows)) :] = False
        elif kind < 0.6:
            worse[rows[len(rows) // 2] - 2 : rows[len(rows) // 2] + 2] = False
        elif kind < 0.7:
            worse = np.roll(cell, int(rng.integers(1, 3)), 1)
        elif kind < 0.85 and other is not None:
            row = SLOT * slot[0] + (4 if rows[0] else 0)
            columns = np.flatnonzero((cell | other).any(0))
            worse = cell | other
            worse[row + 2 : row + 7, columns[0] + 3 : columns[-1] - 3] = True
        else:
            worse = ndimage.binary_erosion(cell, border_value=1)
        return np.asarray(worse, bool)


def _inside(slot: tuple[int, int]) -> NDArray[np.bool_]:
    """Give the square of a cell without its margin."""
    mask = np.zeros(SHAPE, bool)
    y, x = (SLOT * place for place in slot)
    mask[y + 2 * (y > 0) : y + SLOT - 2, x + 2 : x + SLOT - 2] = True
    return mask
