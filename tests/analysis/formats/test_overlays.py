"""Outlines drawn on images."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

from analysis.formats.overlay import COLOURS, SMALL, overlay, write_overlay


def test_only_outlines_are_coloured() -> None:
    labels = np.zeros((SMALL, 40), int)
    labels[10:20, 10:20], labels[10:20, 20:30] = 1, 2
    image = np.full(labels.shape, 0.5, np.float32)
    drawn = overlay(image, labels)
    assert drawn.shape == (*labels.shape, 3)
    coloured = np.ptp(drawn.astype(int), axis=-1) > 0
    expected = labels > 0
    expected[11:19, 11:19] = expected[11:19, 21:29] = False
    assert np.array_equal(coloured, expected)
    for label in (1, 2):
        found = np.unique(drawn[coloured & (labels == label)], axis=0)
        assert found.tolist() == [list(COLOURS[label % len(COLOURS)])]


def test_a_small_image_is_drawn_twice_as_large() -> None:
    labels = np.zeros((9, 12), int)
    labels[3:6, 3:6] = 1
    drawn = overlay(np.zeros((9, 12), np.float32), labels)
    assert drawn.shape == (18, 24, 3)
    coloured = np.ptp(drawn.astype(int), axis=-1) > 0
    assert coloured[6:12, 6:12].sum() == coloured.sum() == 20


def test_outlines_show_on_dark_bright_and_odd_images(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), int)
    labels[5:15, 5:15] = 1
    for image in (np.zeros((30, 30)), np.ones((30, 30)), np.full((30, 30), 7.0)):
        drawn = overlay(image.astype(np.float32), labels).astype(float)
        light = drawn @ (0.299, 0.587, 0.114)
        edge = np.ptp(drawn, axis=-1) > 0
        assert light[edge].min() > light[~edge].max()
    write_overlay(image, labels, tmp_path / "a.png")
    assert imagecodecs.png_decode((tmp_path / "a.png").read_bytes()).shape == (60, 60, 3)
