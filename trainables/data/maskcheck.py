"""Find masks that look like label images but are not: classes, or labels that overflowed 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.data.splits import some

MOST_CLASSES = 4
"""A mask with more values than this contains cells, not classes."""
MANY_PIECES = 5
"""A class has at least this many pieces; a cell hardly ever does."""
FAR = 3.0
"""Pieces further apart than this many cell diameters are not parts of one cell."""
LARGE = 0.25
"""Pieces smaller than this fraction of the cell's largest piece are specks."""
FULL = 250
"""With this many different values in 1 to 255, the numbers did not suffice."""


@dataclass(frozen=True)
class Pieces:
    """How the labels of one mask fall into connected pieces (8 neighbours)."""

    values: tuple[int, ...]
    """The first few labels; all of them where there are at most `MOST_CLASSES`."""
    labels: int
    largest: int
    in_pieces: int
    """Number of labels with two or more pieces."""
    most: int
    """Pieces of the label that has the most."""
    fewest: int
    """Pieces of the label that has the fewest."""
    far: int
    """Number of labels with large pieces that are far apart."""
    example: int
    """One of them."""
    enclosed: bool
    """Whether one label lies completely within another, in a mask of few labels."""


def count_pieces(labels: NDArray[np.int32]) -> Pieces:
    """Count the pieces of every label.

    Parameters
    ----------
    labels : (H, W) int32 array
        0 is background.
    """
    from skimage.measure import label, regionprops_table

    parts = label(labels, connectivity=2, background=0)
    if not parts.any():
        return Pieces((), 0, 0, 0, 0, 0, 0, 0, False)
    table = regionprops_table(parts, properties=("area", "centroid"))
    area, place = table["area"], np.stack([table["centroid-0"], table["centroid-1"]], 1)
    of_part = np.zeros(parts.max() + 1, np.int64)
    of_part[parts.ravel()] = labels.ravel()
    of_part = of_part[1:]
    values, counts = np.unique(of_part, return_counts=True)
    diameter = float(np.median(2 * np.sqrt(area / np.pi)))
    far = []
    for value in values[counts > 1]:
        mine = np.flatnonzero(of_part == value)
        largest = mine[np.argmax(area[mine])]
        others = mine[(mine != largest) & (area[mine] >= LARGE * area[largest])]
        apart = np.hypot(*(place[others] - place[largest]).T)
        if (apart > FAR * diameter).any():
            far.append(int(value))
    few = 2 <= len(values) <= MOST_CLASSES
    return Pieces(
        values=tuple(int(v) for v in values[:MOST_CLASSES]),
        labels=len(values),
        largest=int(values[-1]),
        in_pieces=int((counts > 1).sum()),
        most=int(counts.max()),
        fewest=int(counts.min()),
        far=len(far),
        example=far[0] if far else 0,
        enclosed=few and any(_encloses(labels, int(value)) for value in values),
    )


def _encloses(labels: NDArray[np.int32], value: int) -> bool:
    """Say whether some other label is wholly in the holes of this one."""
    from scipy.ndimage import binary_fill_holes

    mine = labels == value
    holes = binary_fill_holes(mine) & ~mine
    inside, outside = np.unique(labels[holes]), np.unique(labels[~holes & ~mine])
    return bool(np.setdiff1d(inside, np.append(outside, 0)).size)


def wrong_masks(names: Mapping[str, str], pieces: Mapping[str, Pieces]) -> list[str]:
    """Return one line for every mask that is not a label image.

    Parameters
    ----------
    names : mapping
        Stem to the name of the mask's file.
    pieces : mapping
        Stem to the result of `count_pieces`; without binary masks.
    """
    problems = []
    classes = _masks_of_classes(pieces)
    for stem, one in pieces.items():
        where = f"masks/{names[stem]}"
        if stem in classes:
            listed = ", ".join(map(str, one.values))
            problems.append(
                f"{where}: its values {listed} mark classes, such as cell and border, not single "
                f"cells (one value has {one.most} separate piece{'s' * (one.most != 1)}); give "
                "each cell its own number, or save only cell and background (0 and 255)"
            )
        elif one.largest <= 255 and one.labels >= FULL and one.far:
            problems.append(
                f"{where}: nearly all numbers from 1 to 255 are used ({one.labels}), and {one.far} "
                f"mark several cells far apart (such as {one.example}): more than 255 cells were "
                "saved in 8 bit; save the labels again in 16 bit"
            )
        elif one.far > max(3, one.labels // 10):
            problems.append(
                f"{where}: {one.far} of {one.labels} numbers mark several cells far apart (such as "
                f"{one.example}); give each cell its own number"
            )
    return problems


def _masks_of_classes(pieces: Mapping[str, Pieces]) -> set[str]:
    """Return the stems of masks whose values are classes.

    Where all masks share a few values, one sign in most of them is enough; a single such mask
    among label images must show it in each of its values.
    """
    few = {s: p for s, p in pieces.items() if 2 <= p.labels <= MOST_CLASSES}
    clear = {s for s, p in few.items() if p.fewest >= MANY_PIECES}
    shared = {value for p in pieces.values() for value in p.values}
    filled = [p for p in pieces.values() if p.labels]
    if len(shared) > MOST_CLASSES or any(p.labels > MOST_CLASSES for p in filled):
        return clear
    signs = {s for s, p in few.items() if p.most >= MANY_PIECES or p.enclosed}
    return clear | (signs if 2 * len(signs) >= len(filled) else set())


def pieces_note(pieces: Mapping[str, Pieces]) -> list[str]:
    """Say how many cells have two or more pieces."""
    stems: Sequence[str] = [stem for stem, one in pieces.items() if one.in_pieces]
    count = sum(pieces[stem].in_pieces for stem in stems)
    if not count:
        return []
    cells = "1 cell has" if count == 1 else f"{count} cells have"
    note = (
        f"{cells} two or more pieces, for example because another cell lies across; the pieces "
        f"count as one cell: {some(stems)}"
    )
    if max(one.labels for one in pieces.values()) <= MOST_CLASSES and 2 * len(stems) >= len(pieces):
        values = f"1 to {max(one.largest for one in pieces.values())}"
        note += (
            f". If the values {values} mark classes, such as cell and border, give each cell "
            "its own number instead"
        )
    return [note]
