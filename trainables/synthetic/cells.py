"""Cells that crawl, turn, deform and touch: the truth behind the built-in data.

A cell is a closed outline around its centre: its radius is a function of the angle, a circle
plus a few slowly changing harmonics. Cells push each other apart until neighbours overlap by a
tenth, and that overlap is cut along one straight line, so that touching outlines abut and no two
outlines ever share area. Coordinates are pixels, x to the right and y down, pixel centres at
integers. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.draw import polygon

FloatArray = NDArray[np.float64]

POPULATIONS: dict[str, tuple[float, float]] = {"small": (8.0, 14.0), "large": (14.0, 25.0)}
"""Range of cell radii of each population, in pixels."""

_SMALL_SHARE = 0.6
_POLARISED_SHARE = 0.25
_CELLS_PER_PIXEL = 115 / (1224 * 904)
_VERTICES = 64
_ANGLES = np.arange(_VERTICES) * (2 * np.pi / _VERTICES)
_ORDERS = np.arange(2, 7)
_ROUND_SD = np.array([0.020, 0.014, 0.009, 0.006, 0.004])
_POLARISED_SD = np.array([0.045, 0.045, 0.030, 0.020, 0.012])
_MEMORY = 0.85  # of deformation and speed, from one frame to the next
_SQUEEZE = 0.90  # distance of touching cells, in sums of their radii
_REACH = 5.0  # pixels over which a bond between touching cells pulls
_WALL = 3.0  # least distance of a centre from the border
_DECIMALS = 3  # of outlines
_CUT = 10.0**-_DECIMALS  # half the gap at contacts, so that rounding never makes outlines cross


@dataclass(frozen=True)
class Cell:
    """One cell in one frame."""

    track: int
    """Number of the cell, the same through a sequence and its label in the label image."""
    population: str
    """A key of `POPULATIONS`."""
    radius: float
    """Of the circle with the area of the undisturbed cell, in pixels; constant over a track."""
    center: FloatArray
    """(2,) x and y of the centre; seen from it, vertices of the outline are at equal angles."""
    orientation: float
    """Direction in which the cell points, in radians from x towards y."""
    outline: FloatArray
    """(V, 2) x and y of the vertices, rounded to 0.001 px; not closed by repetition."""
    contact: FloatArray
    """(V,) 1 where the vertex lies on the contact with a neighbour, else 0."""


@dataclass(frozen=True)
class Frame:
    """One moment of a sequence: everything that its image shows, except noise."""

    height: int
    width: int
    seed: int
    sequence: int
    index: int
    """Number of the frame, from 0."""
    cells: tuple[Cell, ...]


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return a generator for one purpose, independent of how often the others are used."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def default_cells(height: int, width: int) -> int:
    """Return the number of cells in a frame of the default density (115 in 1224 x 904)."""
    return max(1, round(height * width * _CELLS_PER_PIXEL))


@dataclass
class _Colony:
    """State of all cells of a sequence; arrays have one row per cell."""

    size: FloatArray  # (2,) width, height
    radius: FloatArray
    polarised: NDArray[np.bool_]
    resting: NDArray[np.complex128]  # (N, orders) harmonics about which the shape fluctuates
    wobble: NDArray[np.complex128]
    xy: FloatArray
    heading: FloatArray
    orientation: FloatArray
    speed: FloatArray
    pace: FloatArray  # log of the momentary speed over `speed`
    loose: NDArray[np.int64]  # frames for which a cell that broke away forms no bond
    bonds: NDArray[np.int64]  # (B, 2) index pairs, first < second

    def radii_at(self, index: NDArray[np.int64], angle: FloatArray) -> FloatArray:
        """Radius of the undisturbed outlines of cells `index` in directions `angle`."""
        shape = self.resting + self.wobble
        # The area of 1 + sum |c| cos is 1 + sum |c|^2 / 2 that of the circle.
        scale = self.radius / np.sqrt(1 + 0.5 * (np.abs(shape) ** 2).sum(axis=1))
        phase = np.exp(-1j * np.multiply.outer(angle - self.orientation[index], _ORDERS))
        radii: FloatArray = scale[index] * (1 + (shape[index] * phase).real.sum(axis=-1))
        return radii

    def pairs(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray, FloatArray]:
        """Pairs that may touch: indices (P, 2), unit vectors, distances, both facing radii."""
        far = 2 * 1.6 * float(self.radius.max(initial=0)) + _REACH
        found = cKDTree(self.xy).query_pairs(far, output_type="ndarray")
        pairs = found[np.lexsort((found[:, 1], found[:, 0]))].astype(np.int64).reshape(-1, 2)
        gap = self.xy[pairs[:, 1]] - self.xy[pairs[:, 0]]
        distance = np.maximum(np.hypot(gap[:, 0], gap[:, 1]), 1e-6)
        angle = np.arctan2(gap[:, 1], gap[:, 0])
        first = self.radii_at(pairs[:, 0], angle)
        second = self.radii_at(pairs[:, 1], angle + np.pi)
        return pairs, gap / distance[:, None], distance, first, second

    def settle(self, rounds: int) -> None:
        """Push overlapping cells apart and pull bonded ones together."""
        count = len(self.radius)
        bonded = self.bonds[:, 0] * count + self.bonds[:, 1]
        for _ in range(rounds):
            pairs, unit, distance, first, second = self.pairs()
            held = np.isin(pairs[:, 0] * count + pairs[:, 1], bonded)
            excess = distance - _SQUEEZE * (first + second)
            push = np.where(excess < 0, 0.5 * excess, 0.0)
            push += np.where(held & (excess > 0) & (excess < _REACH), 0.35 * excess, 0.0)
            move = (0.6 * push)[:, None] * unit
            np.add.at(self.xy, pairs[:, 0], move)
            np.add.at(self.xy, pairs[:, 1], -move)
            np.clip(self.xy, _WALL, self.size - 1 - _WALL, out=self.xy)

    def renew_bonds(self, rng: np.random.Generator) -> None:
        """Keep bonds of cells that still touch, break a few, and bond what met."""
        count = len(self.radius)
        pairs, _, distance, first, second = self.pairs()
        excess = distance / (first + second) - _SQUEEZE
        code = pairs[:, 0] * count + pairs[:, 1]
        old = np.isin(code, self.bonds[:, 0] * count + self.bonds[:, 1])
        breaks = old & (rng.random(len(code)) < 0.03)
        self.loose = np.maximum(self.loose - 1, 0)
        self.loose[pairs[breaks].ravel()] = 8
        free = (self.loose[pairs] > 0).any(axis=1)
        self.bonds = pairs[(old & ~breaks & (excess < 0.15)) | (~old & ~free & (excess < 0.04))]

    def step(self, rng: np.random.Generator) -> None:
        """Advance by one frame."""
        count = len(self.radius)
        self.heading += rng.normal(0, 0.22, count)
        self.pace = _MEMORY * self.pace + rng.normal(0, 0.12, count)
        direction = np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)
        velocity = (self.speed * np.exp(self.pace))[:, None] * direction
        links = coo_array(
            (np.ones(len(self.bonds)), (self.bonds[:, 0], self.bonds[:, 1])), shape=(count, count)
        )
        _, group = connected_components(links, directed=False)
        members = np.bincount(group)[group][:, None]
        common = np.stack([np.bincount(group, velocity[:, k])[group] for k in (0, 1)], axis=1)
        # Bonded cells pull in different directions and travel together, slowly.
        together = 0.8 * common / members + 0.2 * velocity
        self.xy += np.where(members > 1, together, velocity)
        outside = (self.xy < _WALL + self.radius[:, None] / 2) & (direction < 0)
        outside |= (self.xy > self.size - 1 - _WALL - self.radius[:, None] / 2) & (direction > 0)
        direction = np.where(outside, -direction, direction)
        self.heading = np.arctan2(direction[:, 1], direction[:, 0])
        turn = np.angle(np.exp(1j * (self.heading - self.orientation)))
        # A polarised cell points where it goes; a round one merely rolls a little.
        limited = np.clip(0.5 * turn, -0.25, 0.25)
        self.orientation += np.where(self.polarised, limited, rng.normal(0, 0.08, count))
        self.wobble = _MEMORY * self.wobble + np.sqrt(1 - _MEMORY**2) * _wobble(self, rng)
        self.settle(12)
        self.renew_bonds(rng)

    def outlines(self) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Outlines (N, V, 2), cut where cells meet, and which vertices were cut (N, V)."""
        count = len(self.radius)
        index = np.repeat(np.arange(count), _VERTICES).reshape(count, _VERTICES)
        limit = self.radii_at(index, np.broadcast_to(_ANGLES, index.shape))
        cut = np.zeros(limit.shape, bool)
        pairs, unit, distance, first, second = self.pairs()
        share = np.clip((distance + first - second) / 2, 0.3 * distance, 0.7 * distance)
        ray = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
        for side, sign, plane in ((0, 1.0, share), (1, -1.0, distance - share)):
            cosine = sign * unit @ ray
            reach = np.where(cosine > 1e-3, (plane[:, None] - _CUT) / np.maximum(cosine, 1e-3), 1e9)
            before = limit.copy()
            np.minimum.at(limit, pairs[:, side], reach)
            cut |= limit < before
        outline = self.xy[:, None, :] + limit[:, :, None] * ray.T
        return np.round(outline, _DECIMALS), cut


def _wobble(colony: _Colony, rng: np.random.Generator) -> NDArray[np.complex128]:
    noise = rng.normal(size=(len(colony.radius), len(_ORDERS), 2)) / np.sqrt(2)
    spread = np.where(colony.polarised[:, None], _POLARISED_SD, _ROUND_SD)
    wobble: NDArray[np.complex128] = (noise[..., 0] + 1j * noise[..., 1]) * spread
    return wobble


def _place(size: FloatArray, radius: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Positions of circles: about half beside another one, the rest wherever there is room."""
    xy = np.empty((len(radius), 2))
    for i, r in enumerate(radius):
        best, best_room = np.zeros(2), -np.inf
        for _ in range(40):
            if i and rng.random() < 0.38:
                j = int(rng.integers(i))
                angle = rng.uniform(0, 2 * np.pi)
                away = np.array([np.cos(angle), np.sin(angle)])
                spot = xy[j] + (_SQUEEZE * (r + radius[j])) * away
            else:
                spot = rng.uniform(_WALL, np.maximum(size - 1 - _WALL, _WALL + 1e-3))
            if (spot < _WALL).any() or (spot > size - 1 - _WALL).any():
                continue
            apart = np.hypot(*(xy[:i] - spot).T) - _SQUEEZE * (radius[:i] + r)
            room = float(apart.min(initial=0.0))
            if room > best_room:
                best, best_room = spot, room
            if room > -1e-9:
                break
        xy[i] = best if np.isfinite(best_room) else size / 2
    return xy


def _colony(height: int, width: int, cells: int, rng: np.random.Generator) -> _Colony:
    size = np.array([width, height], float)
    small = rng.random(cells) < _SMALL_SHARE
    # Beta distributed, so that the populations thin out towards each other.
    draw = rng.beta(2.5, 2.5, cells)
    low, high = np.where(small[:, None], POPULATIONS["small"], POPULATIONS["large"]).T
    radius = low + (high - low) * draw
    polarised = rng.random(cells) < _POLARISED_SHARE
    resting = np.zeros((cells, len(_ORDERS)), complex)
    resting[:, 0] = np.where(polarised, rng.uniform(0.08, 0.20, cells), 0)
    resting[:, 1] = np.where(polarised, rng.uniform(0.00, 0.10, cells), 0)
    resting[:, 2] = np.where(polarised, rng.uniform(-0.03, 0.05, cells), 0)
    colony = _Colony(
        size=size,
        radius=radius,
        polarised=polarised,
        resting=resting,
        wobble=np.zeros_like(resting),
        xy=_place(size, radius, rng),
        heading=rng.uniform(0, 2 * np.pi, cells),
        orientation=np.zeros(cells),
        speed=np.where(polarised, rng.uniform(2.0, 3.5, cells), rng.uniform(1.0, 2.2, cells)),
        pace=np.zeros(cells),
        loose=np.zeros(cells, np.int64),
        bonds=np.empty((0, 2), np.int64),
    )
    colony.orientation = colony.heading.copy()
    colony.wobble = _wobble(colony, rng)
    colony.settle(60)
    colony.renew_bonds(rng)
    for _ in range(3):
        colony.step(rng)
    return colony


def simulate(
    *,
    frames: int,
    seed: int,
    sequence: int = 0,
    height: int = 904,
    width: int = 1224,
    cells: int | None = None,
) -> Iterator[Frame]:
    """Yield the frames of one sequence, one after the other.

    A cell keeps its track number, population and radius. Its centre stays in the frame, but its
    body may be cut by the border. Frame `t` does not depend on how many frames follow.

    Parameters
    ----------
    frames : int
        Number of frames.
    seed, sequence : int
        Sequences with different numbers are independent.
    height, width : int
        Size of the frame in pixels.
    cells : int, optional
        Number of cells, 0 or more; None: `default_cells`.

    Yields
    ------
    Frame
    """
    count = default_cells(height, width) if cells is None else cells
    rng = random_stream(seed, sequence, 0)
    colony = _colony(height, width, count, rng) if count else None
    for index in range(frames):
        found: tuple[Cell, ...] = ()
        if colony is not None:
            if index:
                colony.step(rng)
            outlines, cut = colony.outlines()
            found = tuple(
                Cell(
                    track=i + 1,
                    population="small" if r < POPULATIONS["small"][1] else "large",
                    radius=float(r),
                    center=colony.xy[i].copy(),
                    orientation=float(colony.orientation[i]),
                    outline=outlines[i],
                    contact=cut[i].astype(float),
                )
                for i, r in enumerate(colony.radius)
            )
        yield Frame(height, width, seed, sequence, index, found)


def rasterize(outlines: Sequence[FloatArray], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Label image of outlines: the pixels whose centre lies inside.

    Parameters
    ----------
    outlines : sequence of (V, 2) arrays
        x and y of the vertices in pixels; outline `i` gets label ``i + 1``.
    shape : (height, width)

    Returns
    -------
    (height, width) uint16 array

    Examples
    --------
    >>> rasterize([np.array([[0.5, -0.5], [2.5, -0.5], [2.5, 1.5], [0.5, 1.5]])], (2, 4))
    array([[0, 1, 1, 0],
           [0, 1, 1, 0]], dtype=uint16)
    """
    labels = np.zeros(shape, np.uint16)
    for label, outline in enumerate(outlines, start=1):
        labels[polygon(outline[:, 1], outline[:, 0], shape)] = label
    return labels


def outline_text(outline: FloatArray) -> str:
    """Return an outline as in `objects.csv`: JSON, ``[[x,y],[x,y],...]`` in pixels."""
    return json.dumps(np.round(outline, _DECIMALS).tolist(), separators=(",", ":"))


def outline_from_text(text: str) -> FloatArray:
    """Return the (V, 2) outline that `outline_text` wrote."""
    return np.asarray(json.loads(text), dtype=float).reshape(-1, 2)
