"""Split objects that hold several cells of the frame before: cells that were segmented as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.integer[Any]]

LEAST_AREA = 0.75
"""Least area of a fused object, as a fraction of the areas of its cells in the frame before. A
smaller object is one cell, which moved to where another one was."""
_EIGHT = np.ones((3, 3), bool)


class Held(NamedTuple):
    """Which object holds more than half of which cell of the frame before."""

    cell: NDArray[np.int64]
    """Labels of the cells."""
    holder: NDArray[np.int64]
    """The label of each one's object."""


def held_cells(before: Labels, labels: Labels) -> Held:
    """Find the object that holds more than half of the pixels of each earlier cell.

    Parameters
    ----------
    before, labels : (H, W) integer arrays
        Label images of two frames.

    Returns
    -------
    Held
        Cells without such an object are left out; cells ascend.
    """
    both = (before > 0) & (labels > 0)
    width = int(labels.max(initial=0)) + 1
    code, count = np.unique(
        before[both].astype(np.int64) * width + labels[both], return_counts=True
    )
    cell, holder = np.divmod(code, width)
    half = np.bincount(before.ravel())[cell] / 2
    return Held(cell[count > half], holder[count > half])


def split_fused(
    before: Labels, labels: Labels, *, solidity: Mapping[int, float], typical: float
) -> tuple[NDArray[np.int32], dict[int, list[int]]]:
    """Split the objects that hold more than half of two or more cells of the frame before.

    The watershed of Vincent and Soille 1991 (doi:10.1109/34.87344) on the object's distance map.
    Its markers are the pixels that the object shares with each of those cells.

    Parameters
    ----------
    before : (H, W) integer array
        Label image of the frame before, its own fused objects already split.
    labels : (H, W) integer array
        Label image to split; labels need not be consecutive.
    solidity : mapping
        Solidity (0 to 1) of the objects by label. Objects without a value count as not convex.
    typical : float
        Median solidity of all objects of the sequence. An object that is at least as convex is
        one cell, which the frame before shows in pieces.

    Returns
    -------
    split : (H, W) int32 array
        The same foreground. A fused object's first piece keeps its label, the others get
        labels above the highest one.
    pieces : dict
        Labels of the pieces of each object that was split.

    Raises
    ------
    ValueError
        When the images differ in shape.

    Notes
    -----
    An object is also left whole if it is smaller than `LEAST_AREA` of those cells together.

    Examples
    --------
    >>> before = np.array([[1, 1, 2, 2]])
    >>> split_fused(before, np.array([[1, 1, 1, 1]]), solidity={}, typical=1.0)
    (array([[1, 1, 2, 2]], dtype=int32), {1: [1, 2]})
    """
    if before.shape != labels.shape:
        raise ValueError(f"the frames have shapes {before.shape} and {labels.shape}")
    split = labels.astype(np.int32)
    held = held_cells(before, labels)
    holders, counts = np.unique(held.holder, return_counts=True)
    if not (counts > 1).any():
        return split, {}
    earlier, area = np.bincount(before.ravel()), np.bincount(labels.ravel())
    boxes = ndimage.find_objects(split)
    following = int(split.max()) + 1
    pieces: dict[int, list[int]] = {}
    for name in holders[counts > 1].tolist():
        cells = held.cell[held.holder == name]
        if solidity.get(name, 0.0) >= typical or area[name] < LEAST_AREA * earlier[cells].sum():
            continue
        box = boxes[name - 1]
        flooded = _flood(labels[box] == name, before[box], cells)
        pieces[name] = [name, *range(following, following + len(cells) - 1)]
        following += len(cells) - 1
        inside = flooded > 0
        split[box][inside] = np.array([0, *pieces[name]], np.int32)[flooded[inside]]
    return split, pieces


def _flood(
    mask: NDArray[np.bool_], before: Labels, cells: NDArray[np.int64]
) -> NDArray[np.integer[Any]]:
    """Divide an object among earlier cells, numbered from 1 in their order."""
    from skimage.segmentation import watershed

    markers = np.zeros(mask.shape, np.int32)
    for number, cell in enumerate(cells.tolist(), 1):
        parts, count = ndimage.label(mask & (before == cell), _EIGHT)
        # from several parts, a piece of several parts would grow
        largest = int(np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])) + 1
        markers[parts == largest] = number
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    flooded: NDArray[np.integer[Any]] = watershed(-depth, markers, mask=mask)
    if (mask & (flooded == 0)).any():  # connected to the rest at corners only
        flooded = watershed(-depth, flooded, connectivity=2, mask=mask)
    return flooded
