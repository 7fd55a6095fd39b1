"""Copies, cut-outs and brightened copies of images are recognised; other images are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from trainables.data.copies import KnownImages

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def film(seed: int, frames: int = 3, shape: tuple[int, int] = (150, 180)) -> list[NDArray[np.uint16]]:
    """Give frames of one still scene: they differ by the camera's noise only."""
    rng = np.random.default_rng(seed)
    scene = 400 * ndimage.gaussian_filter(rng.normal(0, 1, shape), 4) / 0.07 + 3000
    return [(scene + rng.normal(0, 15, shape)).clip(0).astype(np.uint16) for _ in range(frames)]


def known(*images: Pixels) -> KnownImages:
    return KnownImages((f"k{number}", image) for number, image in enumerate(images))


def test_copies_in_another_format_or_number_of_bits() -> None:
    first, second, _ = film(0)
    small = (first // 20).astype(np.uint8)
    assert known(second, first).find(first.copy()) == "k1"
    assert known(second, first).find(first.astype(">u2").astype(np.uint16)) == "k1"
    assert known(small.astype(np.uint16)).find(small) == "k0"
    assert known(small).find(small.astype(np.uint16)) == "k0"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 86), st.integers(0, 116), st.integers(64, 150), st.integers(64, 180))
def test_parts_and_wholes(top: int, left: int, height: int, width: int) -> None:
    first, second, _ = film(1)
    part = first[top : top + height, left : left + width]
    assert known(second, first).find(part) == "k1"
    assert known(part).find(first) == "k0"
    assert known(part).find(second) is None


def test_copies_with_a_border_or_a_bar() -> None:
    first, second, other = film(2)
    padded = np.pad(first, ((10, 30), (5, 0)))
    assert known(first).find(padded) == "k0"
    assert known(padded).find(first) == "k0"
    bars = [image.copy() for image in (first, second, other)]
    for image in bars:  # the same scale bar in every image shows nothing
        image[120:140, 20:120] = 0
        image[125:130, 30:110] = 65535
        image[132:138, 30:110:3] = 65535
    assert known(bars[0], bars[1]).find(bars[2]) is None
    assert known(bars[0]).find(first) == "k0"


@pytest.mark.parametrize("change", ["8 bits", "clipped", "gamma", "inverted", "16 bits"])
def test_copies_of_other_brightness(change: str) -> None:
    first, second, _ = film(3)
    low, high = int(first.min()), int(first.max())
    share = (first.astype(float) - low) / (high - low)
    ways: dict[str, Pixels] = {
        "8 bits": (255 * share).round().astype(np.uint8),
        "clipped": (255 * (1.6 * share - 0.3).clip(0, 1)).astype(np.uint8),
        "gamma": (65535 * share**0.7).astype(np.uint16),
        "inverted": (high - first.astype(int) + low).astype(np.uint16),
        "16 bits": (first.astype(np.uint32) * 7 + 100).clip(0, 65535).astype(np.uint16),
    }
    changed = ways[change]
    assert known(second, first).find(changed) == "k1"
    assert known(second, changed).find(first) == "k1"
    assert known(changed).find(second) is None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1, 40, 400]), st.booleans())
def test_frames_of_a_still_film_are_different_images(seed: int, dark: int, few: bool) -> None:
    """Also dark ones with few values, and images of 8 bits."""
    first, second, third = (image // dark for image in film(seed, shape=(120, 130)))
    if few:
        first, second, third = ((image % 8).astype(np.uint16) for image in (first, second, third))
    assert known(first, second).find(third) is None


def test_what_shows_nothing_is_nobodys_copy() -> None:
    blank = np.full((90, 90), 7, np.uint16)
    ramp = np.add.outer(np.arange(90), np.arange(90)).astype(np.uint16)
    assert known(blank).find(np.full((80, 80), 7, np.uint16)) is None
    assert known(blank).find(ramp) is None
    assert known(blank).find(blank) == "k0", "equal images are copies, whatever they show"
    black, one = np.zeros((2, 90, 90), np.uint16)
    one[3, 3], black[80, 80] = 1, 1
    assert known(black).find(one) is None
    assert KnownImages([]).find(ramp) is None
    tiny = np.arange(25, dtype=np.uint16).reshape(5, 5)
    assert known(tiny).find(tiny) == "k0"
    assert known(tiny).find(ramp) is None
