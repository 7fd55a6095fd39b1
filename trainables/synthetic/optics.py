"""Brightfield images of simulated cells: light, defocus, debris and camera. Imports no torch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, zoom

from trainables.synthetic.cells import Cell, FloatArray, Frame, random_stream, rasterize

_ELECTRONS = 3600.0  # of the background: shot noise of 1.7 %
_READ_NOISE = 8.0  # electrons
_COUNTS_PER_ELECTRON = 3.3
_OFFSET = 400.0  # counts without light
_EDGE = 0.078  # darkness of a cell's edge, as a fraction of the background
_DEFOCUS = 0.8  # pixels, of everything in the sample
_DEBRIS_PER_PIXEL = 45 / (1224 * 904)
_TABLE = np.linspace(-np.pi, np.pi, 257)
_SIGHT = 9.0  # pixels outside a cell that its light still reaches


def _window(x: float, y: float, reach: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    rows = slice(max(0, int(y - reach)), min(shape[0], int(y + reach) + 2))
    columns = slice(max(0, int(x - reach)), min(shape[1], int(x + reach) + 2))
    return rows, columns


def _grid(window: tuple[slice, slice]) -> tuple[FloatArray, FloatArray]:
    y, x = np.ogrid[window]
    return x.astype(float), y.astype(float)


def _bump(distance: FloatArray, width: FloatArray | float) -> FloatArray:
    return np.exp(-0.5 * (distance / width) ** 2)


def _add_cell(layer: FloatArray, cell: Cell, frame: Frame) -> None:
    """Add the light that one cell gives or takes, as a fraction of the background."""
    # The looks of a cell are its own: the same in every frame of its sequence.
    rng = random_stream(frame.seed, frame.sequence, 1, cell.track)
    strength = _EDGE * rng.uniform(0.75, 1.25)
    edge_width = rng.uniform(0.95, 1.35)
    ring, middle, halo = rng.uniform(0.35, 0.85), rng.uniform(0.25, 0.70), rng.uniform(0.1, 0.35)
    lopsided, lit_from = rng.uniform(0.0, 0.35), rng.uniform(0, 2 * np.pi)
    granules = rng.normal(size=(12, 3))
    ripple, shift = rng.normal(size=(2, 3, 2)), rng.normal(0, 0.10 * cell.radius, 2)

    spokes = cell.outline - cell.center
    radii = np.hypot(spokes[:, 0], spokes[:, 1])
    angles = np.arctan2(spokes[:, 1], spokes[:, 0])
    contact = gaussian_filter1d(cell.contact, 1.0, mode="wrap")
    table = np.interp(_TABLE, angles, radii, period=2 * np.pi)
    touch = np.interp(_TABLE, angles, contact, period=2 * np.pi)
    slope = np.gradient(table[:-1], _TABLE[1] - _TABLE[0])
    slant = gaussian_filter1d(table[:-1] / np.hypot(table[:-1], slope), 2.0, mode="wrap")
    slant = np.append(slant, slant[0])

    window = _window(cell.center[0], cell.center[1], radii.max() + _SIGHT, layer.shape)
    x, y = _grid(window)
    x, y = x - cell.center[0], y - cell.center[1]
    angle = np.arctan2(y, x)
    body = angle - cell.orientation
    along = np.hypot(x, y)
    border = np.interp(angle, _TABLE, table)
    # Distance to a straight edge is the distance along the ray times the cosine of its slant.
    depth = (border - along) * np.interp(angle, _TABLE, slant)
    turn = np.exp(1j * cell.orientation)
    off = complex(*shift) * turn
    inner = 1 - np.hypot(x - off.real, y - off.imag) / border

    # Where two cells meet, each gives half of the one dark line between them, or less.
    weight = 1 - 0.55 * np.interp(angle, _TABLE, touch)
    lit = 1 + lopsided * np.cos(angle - lit_from)
    uneven, bent = (
        sum(r[0] * np.cos(k * body) + r[1] * np.sin(k * body) for k, r in enumerate(rows, start=2))
        for rows in ripple
    )
    light = -weight * lit * _bump(depth - 1.1, edge_width)
    light += halo * weight * _bump(depth + 2.4, 1.4)
    thick = min(1.0, cell.radius / 12)
    ring_depth = 2.2 + cell.radius * (0.16 + 0.02 * bent)
    glow = ring * (2 - lit) * np.clip(1 + 0.2 * uneven, 0, 2)
    light += glow * _bump(depth - ring_depth, 0.8 + 0.075 * cell.radius)
    nucleus = 1 / (1 + np.exp(-(inner - 0.46 - 0.03 * bent) / 0.08))
    light -= middle * thick * nucleus
    for across, down, amount in granules:
        spot = 0.34 * cell.radius * complex(across, down) * turn
        blob = _bump(np.hypot(x - spot.real, y - spot.imag), 0.8 + 0.05 * cell.radius)
        light += 0.30 * amount * blob * np.clip((depth - 2) / 2, 0, 1)
    layer[window] += strength * light


def _add_debris(layer: FloatArray, frame: Frame) -> None:
    """Add specks, clumps and blurred dust: things with edges that are no cells."""
    rng = random_stream(frame.seed, frame.sequence, 2)
    count = max(1, round(layer.size * _DEBRIS_PER_PIXEL))
    for number in range(count):
        kind = rng.choice(3, p=[0.55, 0.25, 0.20])
        x, y = rng.uniform(0, frame.width), rng.uniform(0, frame.height)
        sign = rng.choice([-1.0, 1.0], p=[0.7, 0.3])
        values = rng.uniform(size=8)
        parts = rng.normal(size=(4, 2))
        if kind < 2:  # floats in the medium; dust sits on the optics and stays
            walk = random_stream(frame.seed, frame.sequence, 3, number)
            drift = walk.normal(0, 0.6, size=(frame.index + 1, 2))[1:].sum(axis=0)
            x, y = x + drift[0], y + drift[1]
        window = _window(x, y, 32, layer.shape)
        if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
            continue
        dx, dy = _grid(window)
        dx, dy = dx - x, dy - y
        if kind == 0:  # a speck, dark with a bright rim or the reverse
            turn = np.pi * values[0]
            u = (dx * np.cos(turn) + dy * np.sin(turn)) / (1 + 1.5 * values[1])
            distance = np.hypot(u, dy * np.cos(turn) - dx * np.sin(turn))
            size = 0.9 + 1.6 * values[2]
            light = sign * (_bump(distance, size) - 0.45 * _bump(distance - 2.2 * size, size))
            layer[window] += (0.04 + 0.08 * values[3]) * light
        elif kind == 1:  # a clump of fragments
            for (across, down), value in zip(parts, values):
                distance = np.hypot(dx - 3.2 * across, dy - 3.2 * down)
                layer[window] += (0.11 * value - 0.075) * _bump(distance, 1.1 + 1.6 * value)
        else:  # dust far out of focus: a faint wide ring
            distance, size = np.hypot(dx, dy), 7 + 11 * values[0]
            light = _bump(distance - size, 2.6) - 0.5 * _bump(distance - size + 5, 3.0)
            layer[window] += sign * (0.008 + 0.010 * values[1]) * light


@lru_cache(maxsize=2)
def _illumination(seed: int, sequence: int, height: int, width: int) -> FloatArray:
    """Uneven light of a sequence, about 1: off-centre vignette, gradient and faint mottle."""
    rng = random_stream(seed, sequence, 4)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    x0, y0 = rng.uniform(-0.35, 0.35, 2)
    tilt_x, tilt_y = rng.normal(0, 0.025, 2)
    light: FloatArray = 1.04 - rng.uniform(0.05, 0.10) * ((x - x0) ** 2 + (y - y0) ** 2)
    light = light + tilt_x * x + tilt_y * y
    for step, amount in ((160, 0.006), (40, 0.003)):
        rows, columns = height // step + 3, width // step + 3
        coarse = zoom(rng.normal(0, amount, (rows, columns)), step, order=3)
        light = light + coarse[step // 2 :, step // 2 :][:height, :width]
    light.setflags(write=False)
    return light


def render_frame(frame: Frame) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Image and label image of one frame.

    Parameters
    ----------
    frame : Frame
        One moment, as `trainables.synthetic.cells.simulate` yields.

    Returns
    -------
    image : (H, W) uint16 array
        Counts of a camera: background near 12000, cells a few percent above and below it,
        shot and read noise of about 2 %.
    labels : (H, W) uint16 array
        Track number of the cell whose outline contains the pixel's centre, else 0.
    """
    sample = np.zeros((frame.height, frame.width))
    for cell in frame.cells:
        _add_cell(sample, cell, frame)
    _add_debris(sample, frame)
    sample = gaussian_filter(sample, _DEFOCUS, mode="nearest")
    light = _illumination(frame.seed, frame.sequence, frame.height, frame.width)
    rng = random_stream(frame.seed, frame.sequence, 5, frame.index)
    # Lamps flicker a little from frame to frame.
    exposure = _ELECTRONS * (1 + rng.normal(0, 0.01))
    electrons = rng.poisson(np.maximum(exposure * light * (1 + sample), 0)).astype(float)
    electrons += rng.normal(0, _READ_NOISE, electrons.shape)
    counts = np.clip(np.rint(_OFFSET + _COUNTS_PER_ELECTRON * electrons), 0, 65535)
    labels = rasterize([cell.outline for cell in frame.cells], sample.shape)
    return counts.astype(np.uint16), labels
