"""How well cells are followed through a film whose true tracks are known.

``python benchmarks/tracking.py FILM`` prints the table of docs/segment.md. FILM is a data set of
one or more films whose masks have the track's number as label, such as ``python -m
trainables.synthetic FILM --sequences 1 --frames 47`` writes. Its masks are segmented anew, as
networks do: all cells together as one foreground, slightly blurred or not, separated again by the
project's watershed, which fuses some cells that touch. Then they are linked, with and without
splitting what was fused.

``python benchmarks/tracking.py FILM TRACKED...`` scores label images instead, in folders such as
``tracked/`` of ``analysis.segment --track``, named as the masks are.

TRA (Matula et al. 2015, doi:10.1371/journal.pone.0144959) is that of the Cell Tracking Challenge.
An identity change: a true cell has another number than where it was last found alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from analysis.instances import watershed_2class
from analysis.morphology import measure
from analysis.segment.fused import held_cells, split_fused
from analysis.segment.tracks import MAX_GAP, choose_distance, link, numbers_in_images
from trainables.data.splits import natural_key, read_metadata, time_sequences

Labels = NDArray[np.integer[Any]]
WEIGHTS = {
    "split_vertices": 5.0,
    "missing_vertices": 10.0,
    "false_vertices": 1.0,
    "redundant_edges": 1.0,
    "missing_edges": 1.5,
}
"""What mending each kind of error costs, in the Cell Tracking Challenge. Errors of its sixth kind
(a link that should be a division, or the other way round) cannot occur without divisions."""
SEGMENTATIONS: dict[str, dict[str, Any] | None] = {
    "true masks": None,
    "watershed": {"seed_depth": 0.5},
    "blurred a little": {"seed_depth": 1.0, "smoothing": 2.0},
    "blurred more": {"seed_depth": 1.5, "smoothing": 2.0},
}
"""Parameters of `analysis.instances.watershed_2class`."""
BEFORE_GAP = 1
"""The largest gap of earlier versions, whose largest distance was a typical cell's diameter."""


class Score(NamedTuple):
    """How found tracks compare with true ones."""

    tra: float
    changes: int
    """Identity changes."""
    tracks: int
    """Numbers that occur in the found images."""
    fused: int
    """Found objects that hold more than half of several true cells."""
    errors: dict[str, int]
    """Number of each kind of `WEIGHTS`."""


def score(true: Sequence[Labels], found: Sequence[Labels]) -> Score:
    """Compare found tracks with true ones.

    Parameters
    ----------
    true, found : sequences of (H, W) integer arrays
        Label images, frame by frame, in which a cell has the number of its track.
    """
    errors = dict.fromkeys(WEIGHTS, 0)
    alone: list[dict[int, int]] = []
    true_seen, found_seen = ([np.unique(a[a > 0]).tolist() for a in s] for s in (true, found))
    fused = vertices = 0
    for a, b, cells, objects in zip(true, found, true_seen, found_seen, strict=True):
        held = held_cells(a, b)
        holders, counts = np.unique(held.holder, return_counts=True)
        errors["missing_vertices"] += len(cells) - len(held.cell)
        errors["false_vertices"] += len(objects) - len(holders)
        errors["split_vertices"] += int((counts - 1).sum())
        fused += int((counts > 1).sum())
        vertices += len(cells)
        single = np.isin(held.holder, holders[counts == 1])
        alone.append(dict(zip(held.holder[single].tolist(), held.cell[single].tolist())))
    true_edges, right = _edges(true_seen), set()
    for before, after, number in _edges(found_seen):
        if number in alone[before] and number in alone[after]:
            edge = before, after, alone[after][number]
            if alone[before][number] == edge[2] and edge in true_edges:
                right.add(edge)
            else:
                errors["redundant_edges"] += 1
    errors["missing_edges"] = len(true_edges) - len(right)
    nothing = WEIGHTS["missing_vertices"] * vertices + WEIGHTS["missing_edges"] * len(true_edges)
    cost = sum(WEIGHTS[kind] * count for kind, count in errors.items())
    tracks = len({number for numbers in found_seen for number in numbers})
    return Score(1 - min(cost, nothing) / nothing, _changes(alone), tracks, fused, errors)


def _edges(seen: Sequence[Iterable[int]]) -> set[tuple[int, int, int]]:
    """Return the links of all tracks: frame, frame of the next cell, number."""
    edges, last = set(), dict[int, int]()
    for frame, numbers in enumerate(seen):
        for number in numbers:
            if number in last:
                edges.add((last[number], frame, number))
            last[number] = frame
    return edges


def _changes(alone: Sequence[dict[int, int]]) -> int:
    changes, last = 0, dict[int, int]()
    for frame in alone:
        for number, cell in frame.items():
            changes += last.get(cell, number) != number
            last[cell] = number
    return changes


def split_film(film: Sequence[Labels]) -> list[NDArray[np.int32]]:
    """Split the fused cells of a film, as ``analysis.segment --track`` does."""
    tables = [measure(labels)[["label", "solidity"]].dropna() for labels in film]
    typical = float(pd.concat(tables)["solidity"].median())
    done = [film[0].astype(np.int32)]
    for labels, table in zip(film[1:], tables[1:]):
        solidity = dict(zip(table["label"].tolist(), table["solidity"].tolist()))
        done.append(split_fused(done[-1], labels, solidity=solidity, typical=typical)[0])
    return done


def tracked(film: Sequence[Labels], *, as_before: bool) -> tuple[list[Labels], float]:
    """Link the objects of a film; return images in which they have their tracks' numbers."""
    tables = [measure(labels).assign(frame=frame) for frame, labels in enumerate(film)]
    cells = pd.concat(tables, ignore_index=True)
    diameter = 2 * float(cells["radius"].median())
    distance = diameter if as_before else choose_distance(cells).distance
    gap = BEFORE_GAP if as_before else MAX_GAP
    cells["number"] = numbers_in_images(link(cells, max_distance=distance, max_gap=gap))
    images: list[Labels] = []
    for frame, labels in enumerate(film):
        rows = cells[cells["frame"] == frame]
        numbers = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
        numbers[rows["label"]] = rows["number"]
        images.append(numbers[labels])
    return images, distance


def films(root: Path) -> dict[str, list[Path]]:
    """Return the masks of each film in the order of time."""
    masks = sorted((root / "masks").glob("*.tif"), key=lambda path: natural_key(path.stem))
    paths = {path.stem: path for path in masks}
    sequences = time_sequences(list(paths), read_metadata(root, []))
    return {name: [paths[stem] for stem in stems] for name, stems in sequences.items()}


def _row(name: str, way: str, film: Sequence[Labels], true: Sequence[Labels], note: str) -> None:
    found = score(true, film)
    cells = sum(len(np.unique(labels[labels > 0])) for labels in film)
    print(
        f"| {name} | {way} | {found.tra:.4f} | {found.changes} | {found.tracks} | {found.fused} of "
        f"{cells} | {found.errors['false_vertices']} | {note} |",
        flush=True,
    )


def main(words: Sequence[str]) -> None:
    root, folders = Path(words[0]), [Path(word) for word in words[1:]]
    print("| segmentation | tracks | TRA | identity changes | tracks | fused | false | distance |")
    print("|---|---|---|---|---|---|---|---|")
    for film, paths in films(root).items():
        true = [tifffile.imread(path) for path in paths]
        if folders:
            for folder in folders:
                found = [tifffile.imread(folder / path.name) for path in paths]
                _row(film, str(folder), found, true, "")
            continue
        for name, parameters in SEGMENTATIONS.items():
            segmented = [
                labels
                if parameters is None
                else watershed_2class(
                    (labels > 0).astype(np.float32), give_back_gap=True, **parameters
                )
                for labels in true
            ]
            for way, objects, old in (
                ("as before", segmented, True),
                ("not split", segmented, False),
                ("split", split_film(segmented), False),
            ):
                images, distance = tracked(objects, as_before=old)
                _row(f"{film}, {name}", way, images, true, f"{distance:.1f} px")


if __name__ == "__main__":
    main(sys.argv[1:])
