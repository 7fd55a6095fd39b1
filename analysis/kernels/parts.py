"""Connected parts of label images and masks, compiled: run by run instead of pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled


@compiled
def root_of(parent: NDArray[np.int32], i: int) -> int:
    """Return the number that stands for a set of joined numbers (union-find, paths halved)."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _count_runs(labels: NDArray[Any]) -> int:
    height, width = labels.shape
    count = 0
    for y in range(height):
        before = labels[y, 0] - labels[y, 0]  # 0 of the labels' type
        for x in range(width):
            here = labels[y, x]
            count += here != before and here != 0
            before = here
    return count


# Long: the runs that the first half collects are what the second half numbers.
@compiled
def find_parts(
    labels: NDArray[Any], diagonal: bool = True, scanned: bool = False
) -> tuple[NDArray[np.int32], int]:
    """Number the connected parts of all labels, in raster order of their first pixels.

    Parameters
    ----------
    labels : (H, W) integer or boolean array
    diagonal : bool
        Whether pixels that touch at a corner only are connected (8 neighbours, else 4).
    scanned : bool
        Whether those are not connected that TrackMate parts: the upper left and the lower right
        pixel at a corner (y, x) where the pixel at (y, x - 2) has their label too (see
        `analysis.kernels.outlines.opened_corners`).

    Returns
    -------
    parts : (H, W) int32
        0 where `labels` is 0, else 1 to `count`.
    count : int
    """
    height, width = labels.shape
    parts = np.zeros((height, width), np.int32)
    # of each run of a row: first column, past the last, and the part it belongs to
    runs = _count_runs(labels)
    start = np.empty(runs, np.int32)
    end = np.empty(runs, np.int32)
    parent = np.empty(runs, np.int32)
    begin = np.zeros(height + 1, np.int64)  # a row's first run
    reach = 1 if diagonal else 0
    used = 0
    for y in range(height):
        begin[y] = used
        above = begin[y - 1] if y else 0
        x = 0
        while x < width:
            label = labels[y, x]
            if label == 0:
                x += 1
                continue
            first = x
            x += 1
            while x < width and labels[y, x] == label:
                x += 1
            start[used], end[used], parent[used] = first, x, used
            while above < begin[y] and end[above] + reach <= first:
                above += 1
            run = above
            while run < begin[y] and start[run] < x + reach:
                if labels[y - 1, start[run]] == label and not (
                    scanned and end[run] == first and first > 1 and labels[y, first - 2] == label
                ):
                    a, b = root_of(parent, run), root_of(parent, used)
                    parent[max(a, b)] = min(a, b)
                run += 1
            used += 1
    begin[height] = used
    number = np.zeros(used, np.int32)
    count = 0
    for y in range(height):
        for run in range(begin[y], begin[y + 1]):
            root = root_of(parent, run)
            if number[root] == 0:
                count += 1
                number[root] = count
            here = number[root]
            for x in range(start[run], end[run]):
                parts[y, x] = here
    return parts, count


@compiled
def sizes_of(parts: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the number of pixels of each part; that of 0 is not counted."""
    sizes = np.zeros(count + 1, np.int64)
    for y in range(parts.shape[0]):
        for x in range(parts.shape[1]):
            if parts[y, x]:
                sizes[parts[y, x]] += 1
    return sizes


@compiled
def numbered(labels: NDArray[np.int32], highest: int, least: int) -> NDArray[np.int32]:
    """Drop labels of fewer than `least` pixels and number the rest from 1 as rows are read."""
    sizes = sizes_of(labels, highest)
    table = np.full(highest + 1, -1, np.int32)
    table[0] = 0
    out = np.empty(labels.shape, np.int32)
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if table[label] < 0:
                if sizes[label] < least:
                    table[label] = 0
                else:
                    count += 1
                    table[label] = count
            out[y, x] = table[label]
    return out


@compiled
def fill_holes(mask: NDArray[np.bool_], least: int) -> None:
    """Fill, in place, 4-connected holes of fewer than `least` pixels that touch no border."""
    height, width = mask.shape
    holes, count = find_parts(~mask, False)
    sizes = sizes_of(holes, count)
    for y in range(height):
        sizes[holes[y, 0]] = sizes[holes[y, width - 1]] = least
    for x in range(width):
        sizes[holes[0, x]] = sizes[holes[height - 1, x]] = least
    for y in range(height):
        for x in range(width):
            if holes[y, x] and sizes[holes[y, x]] < least:
                mask[y, x] = True
