"""Training targets made from label images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BACKGROUND, CELL, BOUNDARY = 0, 1, 2
"""Classes of task ``semantic3``."""
CLASS_NAMES = ("background", "cell", "boundary")

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def foreground(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mask of all cells: predictions of every task are compared with it.

    Parameters
    ----------
    labels : (..., H, W) integer array
        Label image, 0 = background.

    Returns
    -------
    (..., H, W) bool array
    """
    return labels > 0


def compact(labels: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Return a label image in the smallest type that holds its numbers.

    Parameters
    ----------
    labels : (H, W) integer array
        Not negative. Cells are renumbered if a number is above 65535, because arrays made from
        labels may be as long as the largest label.

    Returns
    -------
    (H, W) uint8 or uint16 array (uint32 above 65535 cells)

    Examples
    --------
    >>> compact(np.array([[0, 7, 300]])).dtype, compact(np.array([[0, 7, 10**9]]))
    (dtype('uint16'), array([[0, 1, 2]], dtype=uint8))
    """
    if labels.max() > np.iinfo(np.uint16).max:
        index = np.unique(np.append(labels, 0), return_inverse=True)[1]
        labels = index[:-1].reshape(labels.shape)
    return labels.astype(np.min_scalar_type(int(labels.max())))


def touching_gap(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels to remove so that no two cells touch: a line one pixel wide.

    A pixel belongs to the gap if one of its 8 neighbours has a larger label. Only pixels of the
    smaller label are taken, which keeps the line one pixel wide.

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


def semantic2_target(labels: NDArray[np.integer], gap: int = 0) -> NDArray[np.float32]:
    """Cell or background, as the paper's basic annotation.

    Parameters
    ----------
    labels : (H, W) integer array
    gap : {0, 1}
        1: the line between touching cells, one pixel wide, is background.

    Returns
    -------
    (H, W) float32 array of 0 and 1

    Examples
    --------
    >>> semantic2_target(np.array([[0, 1, 1, 2, 2, 0]]))
    array([[0., 1., 1., 1., 1., 0.]], dtype=float32)
    >>> semantic2_target(np.array([[0, 1, 1, 2, 2, 0]]), gap=1)
    array([[0., 1., 0., 1., 1., 0.]], dtype=float32)
    """
    cells = foreground(labels)
    return (cells & ~touching_gap(labels) if gap else cells).astype(np.float32)


def outline(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels of cells that have background above, below, left or right of them.

    The line is drawn inside the label, so that no cell grows. What lies beyond the image's edge
    does not count as background.

    Parameters
    ----------
    labels : (H, W) integer array

    Returns
    -------
    (H, W) bool array

    Examples
    --------
    >>> outline(np.array([[0, 1, 1, 1, 1]])).astype(int)
    array([[0, 1, 0, 0, 0]])
    """
    cell = foreground(labels)
    inside = np.pad(cell, 1, constant_values=True)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return cell & ~inner


def semantic3_target(labels: NDArray[np.integer], boundary: str = "outline") -> NDArray[np.int64]:
    """Background, cell and boundary, made from a label image as in the paper.

    Parameters
    ----------
    labels : (H, W) integer array
        Label image, 0 = background.
    boundary : {"outline", "touching"}
        ``outline``: a line one pixel wide between touching cells, and an outline of every cell,
        made of those of its pixels that meet background. ``touching``: only the line between
        touching cells.

    Returns
    -------
    (H, W) int64 array
        `BACKGROUND`, `CELL` or `BOUNDARY`; cell and boundary together are the foreground.

    Raises
    ------
    ValueError
        When the variant is not known.

    Examples
    --------
    >>> semantic3_target(np.array([[0, 1, 1, 1, 2, 2, 2, 0]]))
    array([[0, 2, 1, 2, 1, 1, 2, 0]])
    >>> semantic3_target(np.array([[0, 1, 1, 1, 2, 2, 2, 0]]), "touching")
    array([[0, 1, 1, 2, 1, 1, 1, 0]])
    """
    if boundary not in ("outline", "touching"):
        raise ValueError(f"unknown boundary {boundary!r}; known: outline, touching")
    target = np.where(foreground(labels), CELL, BACKGROUND).astype(np.int64)
    line = touching_gap(labels)
    if boundary == "outline":
        line |= outline(labels)
    target[line] = BOUNDARY
    return target
