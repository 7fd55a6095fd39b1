"""Training targets made from label images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def foreground(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Any cell: the yardstick that predictions of every task are compared with.

    Parameters
    ----------
    labels : (..., H, W) integer array
        Label image, 0 = background.

    Returns
    -------
    (..., H, W) bool array
    """
    return labels > 0


def touching_gap(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels to remove so that no two cells touch: a line one pixel wide.

    A pixel belongs to the gap when one of its 8 neighbours carries a larger label; taking the
    smaller label's side only keeps the line one pixel wide.

    Parameters
    ----------
    labels : (H, W) integer array
        Label image, 0 = background.

    Returns
    -------
    (H, W) bool array

    Examples
    --------
    >>> touching_gap(np.array([[1, 1, 2, 2, 0, 3]])).astype(int)
    array([[0, 1, 0, 0, 0, 0]])
    """
    gap = np.zeros(labels.shape, bool)
    height, width = labels.shape
    for dy, dx in _NEIGHBOURS:
        here = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
        mine = labels[here]
        gap[here] |= (mine > 0) & (labels[there] > mine)
    return gap


def semantic2_target(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Foreground with the paper's one-pixel gap between touching cells.

    Parameters
    ----------
    labels : (H, W) integer array

    Returns
    -------
    (H, W) float32 array of 0 and 1
    """
    return (foreground(labels) & ~touching_gap(labels)).astype(np.float32)
