"""Tiles: where they lie, and that blending leaves no seam."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.tiling import (
    WHOLE,
    Inference,
    chosen_inference,
    overlap_of,
    positions,
    stored_inference,
    tiled,
)


def test_a_constant_offset_per_tile_makes_no_seam() -> None:
    """Networks with global pooling shift whole tiles: blending must leave no step."""
    rng = np.random.default_rng(0)

    def shifted(part: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((1, *part.shape), rng.uniform(), np.float32)

    maps = tiled(shifted, np.zeros((700, 900), np.float32), 256)[0]
    steps = max(np.abs(np.diff(maps, axis=0)).max(), np.abs(np.diff(maps, axis=1)).max())
    assert steps < 1.01 / 56, "a band of 56 px bridges any offset"


@pytest.mark.parametrize(("length", "side"), [(1000, 256), (257, 256), (5000, 1024), (130, 64)])
@pytest.mark.parametrize("grid", [1, 2, 4])
def test_tiles_cover_and_overlap(length: int, side: int, grid: int) -> None:
    overlap = overlap_of(side)
    starts = positions(length, side, overlap, grid)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert all(s % grid == 0 for s in starts)
    assert all(b - a <= side - overlap + grid for a, b in pairwise(starts))


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([64, 96, 224]),
    st.sampled_from([1, 2, 4]),
)
def test_what_tiles_hold_is_put_back_in_place(h: int, w: int, side: int, grid: int) -> None:
    image = np.random.default_rng(h * w).normal(size=(h, w)).astype(np.float32)
    seen = []

    def same(part: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(part.shape)
        return part[None, ::grid, ::grid]

    np.testing.assert_allclose(
        tiled(same, image, side, grid=grid)[0], image[::grid, ::grid], atol=1e-5
    )
    assert max(map(max, seen)) <= side


def test_larger_images_than_were_validated_take_no_more_memory() -> None:
    how = Inference(None, 300 * 400)
    assert how.side((300, 400)) is None
    assert how.side((100, 1200)) is None
    side = how.side((301, 400))
    assert side is not None
    assert side**2 <= 300 * 400
    assert side % 32 == 0
    assert Inference(224, 300 * 400).side((224, 200)) is None
    assert Inference(224, 300 * 400).side((225, 200)) == 224


def test_what_is_stored_and_what_is_asked_for() -> None:
    stored = Inference(224, 1000)
    assert stored_inference({"inference": stored.state()}) == stored
    assert stored_inference({}) == WHOLE == Inference(None, 1280 * 928)  # of recipe 1
    assert chosen_inference(stored, "auto") == stored
    assert chosen_inference(stored, "whole").side((9000, 9000)) is None
    assert chosen_inference(stored, "512").side((9000, 9000)) == 512
    assert str(chosen_inference(stored, 512)) == "tiles of 512"
    for wrong in ("100", "32", "-64", "half", "64.0"):
        with pytest.raises(ValueError, match="tile"):
            chosen_inference(stored, wrong)
