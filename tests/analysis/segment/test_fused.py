"""Discs that meet, part, grow and divide: which objects are split, and what becomes of tracks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.draw import disk
from skimage.measure import label as components

from analysis.morphology import measure
from analysis.segment.fused import held_cells, split_fused
from analysis.segment.tracks import link

Labels = NDArray[np.integer]
Disc = tuple[float, float, float]
SHAPE = (60, 140)


def frame(*discs: Disc) -> Labels:
    """Return discs (x, y, radius) as a network shows them that cannot part what touches."""
    mask = np.zeros(SHAPE, bool)
    for x, y, radius in discs:
        mask[disk((y, x), radius, shape=SHAPE)] = True
    return np.asarray(components(mask), np.int32)


def split_all(film: Sequence[Labels]) -> list[Labels]:
    tables = [measure(labels)[["label", "solidity"]] for labels in film]
    typical = float(pd.concat(tables)["solidity"].median())
    done: list[Labels] = [film[0]]
    for labels, table in zip(film[1:], tables[1:]):
        solidity = dict(zip(table["label"], table["solidity"]))
        done.append(split_fused(done[-1], labels, solidity=solidity, typical=typical)[0])
    return done


def tracks(film: Sequence[Labels]) -> list[int]:
    """Return the number of cells of each track, and 1 for each cell without one."""
    cells = pd.concat([measure(a).assign(frame=t) for t, a in enumerate(film)], ignore_index=True)
    found = link(cells, max_distance=12)
    return sorted([*found.value_counts(), *[1] * int(found.isna().sum())])


def meeting(t: int) -> tuple[Disc, Disc]:
    """Two discs of radius 10 that touch in frames 4 to 12 of 17, and part again."""
    apart = 19 + 3 * max(0, 4 - t, t - 12)
    return (70 - apart / 2, 30, 10.2), (70 + apart / 2, 30, 10.2)


def test_cells_that_meet_and_part_keep_their_tracks() -> None:
    film = [frame(*meeting(t)) for t in range(17)]
    assert [int(a.max()) for a in film] == [2] * 4 + [1] * 9 + [2] * 4
    assert len(tracks(film)) > 2, "without splitting, tracks break"
    split = split_all(film)
    assert [len(np.unique(a)) - 1 for a in split] == [2] * 17
    assert tracks(split) == [17, 17]
    assert all(np.array_equal(a, b) for a, b in zip(split_all(split), split)), "nothing is left"
    for t, labels in enumerate(split):
        left, right = (frame(disc) > 0 for disc in meeting(t))
        on_left = labels[30, int(meeting(t)[0][0])]
        assert ((labels == on_left) & left).sum() > 0.97 * left.sum()
        assert ((labels == on_left) & right & ~left).sum() < 0.03 * right.sum()


def test_a_cell_that_moves_or_grows_is_not_split() -> None:
    film = [frame((30 + 4 * t, 30, 8 + t)) for t in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(split_all(film), film))


def test_a_cell_that_takes_the_place_of_another_is_not_split() -> None:
    before = np.repeat([[1] * 10 + [2] * 10], 10, axis=0)
    for first, last, made in ((4, 16, {}), (2, 18, {1: [1, 2]})):  # 0.6 and 0.8 of their area
        after = np.zeros((10, 20), int)
        after[:, first:last] = 1
        assert held_cells(before, after).holder.tolist() == [1, 1]
        split, pieces = split_fused(before, after, solidity={}, typical=1)
        assert pieces == made
        assert np.array_equal(split, before * (after > 0)) == bool(made)


def test_a_cell_that_divides_is_not_split_and_its_daughters_are() -> None:
    mother = [frame((70, 30, 12)) for _ in range(3)]
    daughters = [frame((61 - t, 30, 8.5), (79 + t, 30, 8.5)) for t in range(3)]
    touching = frame((61.5, 30, 9), (78.5, 30, 9))
    film = [*mother, *daughters, touching, daughters[0]]
    assert int(touching.max()) == 1
    split = split_all(film)
    assert [len(np.unique(a)) - 1 for a in split] == [1, 1, 1, 2, 2, 2, 2, 2]
    # one daughter continues the mother's track, the other begins one
    assert tracks(split) == [5, 8]


def test_a_convex_cell_is_whole_although_the_frame_before_shows_it_in_pieces() -> None:
    whole = frame((70, 30, 12))
    pieces = np.where((whole > 0) & (np.arange(140) > 70), 2, whole)
    assert split_fused(pieces, whole, solidity={1: 0.97}, typical=0.96)[1] == {}
    assert split_fused(pieces, whole, solidity={1: 0.95}, typical=0.96)[1] == {1: [1, 2]}
    assert split_fused(pieces, whole, solidity={}, typical=0.96)[1] == {1: [1, 2]}


def test_three_cells_and_the_numbers_of_the_pieces() -> None:
    before = frame((30, 30, 8), (50, 30, 8), (70, 30, 8), (110, 30, 8))
    after = frame((31, 30, 10.5), (50, 30, 10.5), (69, 30, 10.5), (110, 30, 8))
    after[after == 2] = 7
    split, pieces = split_fused(before, after, solidity={1: 0.8, 7: 0.98}, typical=0.97)
    assert pieces == {1: [1, 8, 9]}
    assert set(np.unique(split)) == {0, 1, 7, 8, 9}
    assert [split[30, x] for x in (31, 50, 69, 110)] == [1, 8, 9, 7]


def test_frames_of_unequal_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(60, 140\) and \(3, 3\)"):
        split_fused(frame((70, 30, 9)), np.zeros((3, 3), int), solidity={}, typical=1)


def test_held_by_more_than_half_by_hand() -> None:
    before = np.array([[1, 1, 2, 2, 3, 3, 3]])
    after = np.array([[4, 0, 4, 4, 5, 5, 0]])
    held = held_cells(before, after)  # one half of cell 1 is not more than half
    assert (held.cell.tolist(), held.holder.tolist()) == ([2, 3], [4, 5])
    assert held_cells(before * 0, after).cell.size == 0


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, (7, 9), elements=st.integers(0, 4)), st.integers(0, 2**32 - 1))
def test_only_objects_that_hold_several_cells_change(before: Labels, seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 9)) < 0.8
    labels = np.asarray(components(mask), np.int32)
    split, pieces = split_fused(before, labels, solidity={}, typical=1)
    assert np.array_equal(split > 0, labels > 0), "no pixel is lost or won"
    held = held_cells(before, labels)
    for name in range(1, int(labels.max()) + 1):
        made = np.unique(split[labels == name]).tolist()
        assert made == pieces.get(name, [name])
        assert len(made) in (1, (held.holder == name).sum())
    for made in pieces.values():
        assert all(components(split == piece).max() == 1 for piece in made)
