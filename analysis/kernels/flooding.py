"""Compiled parts of separating instances: watershed with merging, and regions that grow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.kernels.compiling import compiled
from analysis.kernels.parts import root_of

_DY = np.array([-1, -1, -1, 0, 0, 1, 1, 1])
_DX = np.array([-1, 0, 1, -1, 1, -1, 0, 1])
_MOST = 2**31 - 1


# Long: three passes over the same work arrays, of which no part has a meaning by itself.
@compiled
def squared_distances(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return each pixel's squared distance to the nearest background pixel, exactly.

    Felzenszwalb and Huttenlocher 2012 (doi:10.4086/toc.2012.v008a019): along columns, then the
    lower envelope of parabolas along the foreground of rows. Beyond the image's borders is no
    background.

    Parameters
    ----------
    mask : (H, W) bool array

    Returns
    -------
    (H + 2, W + 2) int32 array
        0 in the background, and in a frame of one pixel; large where there is no background.
    """
    height, width = mask.shape
    far = height + width  # further than any pixel
    down = np.empty((height, width), np.int32)
    for x in range(width):
        down[0, x] = far if mask[0, x] else 0
    for y in range(1, height):
        for x in range(width):
            down[y, x] = min(far, down[y - 1, x] + 1) if mask[y, x] else 0
    for y in range(height - 2, -1, -1):
        for x in range(width):
            down[y, x] = min(down[y, x], down[y + 1, x] + 1)
    out = np.zeros((height + 2, width + 2), np.int32)
    apex = np.empty(width, np.int32)
    until = np.empty(width, np.int32)  # first column past an apex's stretch
    for y in range(height):
        row = down[y]
        x = 0
        while x < width:
            if row[x] == 0:
                x += 1
                continue
            start = x
            while x < width and row[x] > 0:
                x += 1
            # the background pixels at both ends bound the stretch
            low, high = max(0, start - 1), min(width, x + 1)
            size = 0
            for u in range(low, high):
                g = row[u] * row[u]
                while size:
                    t = apex[size - 1]
                    # from where u is nearer than t
                    # (quotients of such integers are exact where it matters)
                    cross = int(np.floor((u * u - t * t + g - row[t] * row[t]) / (2 * (u - t)))) + 1
                    begins = low if size == 1 else until[size - 2]
                    if cross > begins:
                        until[size - 1] = min(cross, high)
                        break
                    size -= 1
                if size == 0 or until[size - 1] < high:
                    apex[size] = u
                    until[size] = high
                    size += 1
            k = 0
            for u in range(start, x):
                while until[k] <= u:
                    k += 1
                t = apex[k]
                out[y + 1, u + 1] = min(_MOST, (u - t) * (u - t) + row[t] * row[t])
    return out


# Long: one flooding, whose state (basins, summits, parents) every step reads and changes.
@compiled
def flood_distances(
    squared: NDArray[np.int32], order: NDArray[np.int64], depth: float
) -> NDArray[np.int32]:
    """Watershed of a distance map whose basins merge across shallow saddles.

    Pixels are visited from the largest distance down. One without a visited neighbour starts a
    basin; any other joins the basin of its highest visited neighbour. Where basins meet, those
    whose summit is less than `depth` above the meeting point are no cells of their own and are
    merged into the highest: only seeds with a *dynamic* of at least `depth` stay (Grimaud 1992,
    doi:10.1117/12.60650), as with the tolerance of ImageJ's watershed.

    Parameters
    ----------
    squared : (H, W) int32 array
        Squared distance to the background, in pixels; 0 in the background, to which the outermost
        pixels must belong.
    order : (n,) int64 array
        Flat indices of the foreground, from the largest distance down.
    depth : float
        Least depth of the saddle between two cells, in pixels.

    Returns
    -------
    (H, W) int32 array
        Basins, numbered from 1 without order; every foreground pixel belongs to one.
    """
    height, width = squared.shape
    labels = np.zeros(height * width, np.int32)
    level = squared.ravel()
    steps = _DY * width + _DX
    parent = np.zeros(order.size + 1, np.int32)
    summit = np.zeros(order.size + 1, np.float32)
    near = np.zeros(8, np.int32)
    count = 0
    for here in order:
        best, best_level, met = 0, -1, 0
        for k in range(8):
            there = here + steps[k]
            label = labels[there]
            if label == 0:
                continue
            near[met] = label
            met += 1
            if level[there] > best_level:
                best, best_level = label, level[there]
        if best == 0:
            count += 1
            parent[count] = count
            summit[count] = np.float32(np.sqrt(level[here]))
            labels[here] = count
            continue
        labels[here] = best
        for k in range(met):
            if near[k] == best:
                continue
            a, b = root_of(parent, near[k]), root_of(parent, best)
            if a == b:
                continue
            if summit[a] < summit[b]:
                a, b = b, a
            if summit[b] - np.float32(np.sqrt(level[here])) < depth:
                parent[b] = a
    for here in order:
        labels[here] = root_of(parent, labels[here])
    return labels.reshape((height, width))


@compiled
def cut_lines(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Take a line one pixel wide from between touching instances, on the smaller number's side.

    No two instances of the result are 8-connected.
    """
    height, width = labels.shape
    out = labels.copy()
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            if here == 0:
                continue
            for k in range(8):
                v, u = y + _DY[k], x + _DX[k]
                if v < 0 or u < 0 or v >= height or u >= width:
                    continue
                if labels[v, u] > here:
                    out[y, x] = 0
                    break
    return out


@compiled
def grow(labels: NDArray[np.int32], mask: NDArray[np.bool_], steps: int) -> NDArray[np.int32]:
    """Let instances grow into a mask, one pixel a step, all at once.

    A pixel goes to the instance with most of its 8 neighbours (of equals, those above, below and
    beside count more, then the smaller number).

    Parameters
    ----------
    labels : (H, W) int32 array
    mask : (H, W) bool array
        Where they may grow.
    steps : int
        At most so many pixels.

    Returns
    -------
    (H, W) int32 array
    """
    height, width = labels.shape
    out = labels.copy()
    front = np.empty(labels.size, np.int64)
    size = 0
    for y in range(height):
        for x in range(width):
            if out[y, x] == 0 and mask[y, x] and _beside(out, y, x):
                front[size] = y * width + x
                size += 1
    new = np.empty(labels.size, np.int32)
    waiting = np.zeros((height, width), np.bool_)
    following = np.empty(labels.size, np.int64)
    for _ in range(steps):
        if size == 0:
            break
        for i in range(size):
            new[i] = _majority(out, front[i] // width, front[i] % width)
        for i in range(size):
            out[front[i] // width, front[i] % width] = new[i]
        count = 0
        for i in range(size):
            y, x = front[i] // width, front[i] % width
            for k in range(8):
                v, u = y + _DY[k], x + _DX[k]
                if v < 0 or u < 0 or v >= height or u >= width:
                    continue
                if out[v, u] == 0 and mask[v, u] and not waiting[v, u]:
                    waiting[v, u] = True
                    following[count] = v * width + u
                    count += 1
        front[:count] = following[:count]
        for i in range(count):
            waiting[front[i] // width, front[i] % width] = False
        size = count
    return out


@compiled
def _beside(labels: NDArray[np.int32], y: int, x: int) -> bool:
    height, width = labels.shape
    for k in range(8):
        v, u = y + _DY[k], x + _DX[k]
        if 0 <= v < height and 0 <= u < width and labels[v, u]:
            return True
    return False


@compiled
def _majority(labels: NDArray[np.int32], y: int, x: int) -> int:
    height, width = labels.shape
    best, best_votes = 0, 0
    for k in range(8):
        v, u = y + _DY[k], x + _DX[k]
        if v < 0 or u < 0 or v >= height or u >= width or labels[v, u] == 0:
            continue
        candidate, votes = labels[v, u], 0
        for j in range(8):
            w, z = y + _DY[j], x + _DX[j]
            if 0 <= w < height and 0 <= z < width and labels[w, z] == candidate:
                votes += 3 if _DY[j] == 0 or _DX[j] == 0 else 2
        if votes > best_votes or (votes == best_votes and candidate < best):
            best, best_votes = candidate, votes
    return best


@compiled
def gap_pixels(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return background pixels that lie between two instances: different ones on opposite sides."""
    height, width = labels.shape
    gap = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                continue
            for k in range(4):
                v, u, w, z = y + _DY[k], x + _DX[k], y - _DY[k], x - _DX[k]
                if v < 0 or u < 0 or v >= height or u >= width:
                    continue
                if w < 0 or z < 0 or w >= height or z >= width:
                    continue
                if labels[v, u] and labels[w, z] and labels[v, u] != labels[w, z]:
                    gap[y, x] = True
                    break
    return gap
