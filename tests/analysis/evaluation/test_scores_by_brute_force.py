"""Distances between outlines from all pairs of pixels, and scores at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis.evaluation.scores import (
    METRICS,
    ImageScores,
    image_scores,
    match,
    numbered,
    pooled,
    unit_members,
)


def scores(true: NDArray[np.integer], pred: NDArray[np.integer]) -> dict[str, float]:
    return dict(zip(METRICS, pooled([image_scores(true, pred)]), strict=True))


def outline(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the pixels of a mask that have one outside of it above, below, left or right."""
    found = []
    for y, x in np.argwhere(mask):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [
            0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c] for r, c in beside
        ]
        if not all(inside):
            found.append((y, x))
    return np.array(found)


def distances(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[float, float]:
    a, b = outline(one), outline(other)
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    there, back = table.min(1), table.min(0)
    far = max(np.percentile(there, 95), np.percentile(back, 95))
    return float((there.mean() + back.mean()) / 2), float(far)


def blob(rng: np.random.Generator, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """A solid square with a ragged edge."""
    mask = np.zeros((26, 40), bool)
    mask[rows, columns] = rng.random((rows.stop - rows.start, columns.stop - columns.start)) < 0.8
    mask[rows.start + 2 : rows.stop - 2, columns.start + 2 : columns.stop - 2] = True
    return mask


@given(st.integers(0, 10**6))
def test_distances_are_those_of_the_nearest_outline_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, pred = np.zeros((2, 26, 40), np.int32)
    pairs = []
    for label, (y, x) in ((3, (1, 1)), (8, (12, 20))):
        dy, dx = rng.integers(0, 2, 2)
        here = blob(rng, slice(y, y + 12), slice(x, x + 12))
        there = blob(rng, slice(y + dy, y + dy + 12), slice(x + dx, x + dx + 12))
        true[here], pred[there] = label, 20 - label
        pairs.append((label, 20 - label))
    matched = match(true, pred)
    assert sorted(zip(matched.true.tolist(), matched.pred.tolist())) == sorted(pairs)
    expected = np.array([distances(true == a, pred == b) for a, b in pairs])
    found = scores(true, pred)
    assert found["masd"] == pytest.approx(expected[:, 0].mean())
    assert found["hd95"] == pytest.approx(expected[:, 1].mean())


def test_distances_of_two_squares_by_hand() -> None:
    """Squares of 5, one a column further: 16 outline pixels, of which 5 and 3 lie 1 beside."""
    true, pred = np.zeros((2, 9, 9), np.int32)
    true[1:6, 1:6], pred[1:6, 2:7] = 1, 1
    assert distances(true == 1, pred == 1) == pytest.approx((8 / 16, 1))
    found = scores(true, pred)
    assert (found["masd"], found["hd95"]) == pytest.approx((0.5, 1))


def test_each_direction_has_its_own_percentile() -> None:
    """A predicted cell with a spike: of its 24 outline pixels, 4 lie 1 to 4 from the true cell.

    From the truth no pixel is farther than 0.
    """
    true, pred = np.zeros((2, 12, 16), np.int32)
    true[1:7, 1:7], pred[1:7, 1:7] = 1, 1
    pred[1, 7:11] = 1
    found = scores(true, pred)
    outwards = [0] * 20 + [1, 2, 3, 4]
    assert found["masd"] == pytest.approx((np.mean(outwards) + 0) / 2)
    assert found["hd95"] == pytest.approx(2.85)  # rank 0.95 * 23 = 21.85: from 2 to 3
    pooled_over_both = np.percentile([*outwards, *[0] * 20], 95)
    assert found["hd95"] > pooled_over_both
    assert scores(pred, true)["hd95"] == pytest.approx(found["hd95"]), "the larger, either way"


def test_outlines_are_measured_only_if_asked() -> None:
    true = np.zeros((9, 9), np.int32)
    true[1:6, 1:6] = 1
    with_them, without = (image_scores(true, true, boundaries=on) for on in (True, False))
    at = [METRICS.index(name) - 1 for name in ("masd", "hd95")]
    assert with_them.above[at].tolist() == [0, 0]
    assert with_them.below[at].tolist() == [1, 1]
    assert without.below[at].tolist() == [0, 0]
    assert np.isnan(pooled([without])[[METRICS.index("hd95")]]).all()
    rest = [k for k in range(len(METRICS) - 1) if k not in at]
    np.testing.assert_array_equal(with_them.above[rest], without.above[rest])
    assert image_scores(true, true).below[at].tolist() == [1, 1], "by default"


def test_numerators_and_denominators_of_one_image() -> None:
    """Two true cells, three predicted: one exact, one of 80 / 120, one that is not there."""
    true, pred = np.zeros((2, 30, 40), np.int32)
    true[2:12, 2:12], true[2:12, 20:30] = 5, 9
    pred[2:12, 2:12], pred[2:12, 22:32], pred[20:28, 30:38] = 1, 2, 3
    one = image_scores(true, pred)
    names = [name for name in METRICS if name != "ap_mean"]
    found = {n: (a, b) for n, a, b in zip(names, one.above, one.below, strict=True)}
    assert found.pop("pq") == pytest.approx((1 + 2 / 3, 2 + 0.5))
    assert found.pop("seg") == pytest.approx((1 + 2 / 3, 2))
    for name in ("masd", "hd95"):
        assert found.pop(name)[1] == 2
    assert found == {
        "precision_50": (2, 3),
        "recall_50": (2, 2),
        "f1_50": (4, 5),
        "ap_50": (2, 3),
        "ap_60": (2, 3),
        "ap_70": (1, 4),
        "ap_80": (1, 4),
        "ap_90": (1, 4),
        "iou": (180, 284),
    }
    assert (one.true_objects, one.predicted_objects) == (2, 3)


def test_half_in_common_is_enough_for_a_match() -> None:
    true, pred = np.array([[0, 7, 7, 0, 4, 4]]), np.array([[0, 2, 0, 0, 3, 3]])
    assert sorted(match(true, pred).true.tolist()) == [4, 7]
    assert match(true, pred, threshold=0.51).true.tolist() == [4]
    assert match(true, pred, threshold=0.51).pred.tolist() == [3]
    assert match(true, pred, threshold=0.51).iou.tolist() == [1]
    nothing = match(true, np.zeros_like(pred))
    assert (nothing.true.shape, nothing.pred.shape, nothing.iou.shape) == ((0,), (0,), (0,))


def test_shapes_that_differ_are_named() -> None:
    one, other = np.zeros((2, 3), int), np.zeros((3, 2), int)
    for refuse in (match, image_scores):
        with pytest.raises(ValueError) as caught:
            refuse(one, other)
        assert str(caught.value) == "true labels have shape (2, 3), but predicted ones (3, 2)"


@pytest.mark.parametrize(
    ("labels", "small", "values"),
    [
        ([[0, 900], [7, 900]], [[0, 2], [1, 2]], [0, 7, 900]),
        ([[5, 5], [9, 5]], [[1, 1], [2, 1]], [0, 5, 9]),
        ([[0, 0]], [[0, 0]], [0]),
        ([[]], [[]], [0]),
    ],
)
def test_instances_are_numbered_from_1(
    labels: list[list[int]], small: list[list[int]], values: list[int]
) -> None:
    found, names = numbered(np.array(labels, np.int64))
    assert found.tolist() == small
    assert found.dtype == np.int32
    assert names.tolist() == values


def test_a_full_image_of_one_cell() -> None:
    whole = np.ones((4, 5), np.int32)
    assert scores(whole, whole)["ap_mean"] == scores(whole, whole)["seg"] == 1
    part = whole.copy()
    part[:, 3:] = 0
    found = scores(whole, part)
    assert (found["seg"], found["iou"]) == pytest.approx((0.6, 0.6))


def image(above: float, below: float) -> ImageScores:
    n = len(METRICS) - 1
    return ImageScores(above + np.arange(n, dtype=np.float64), np.full(n, below), 1, 1)


def test_where_the_mean_of_average_precision_stands() -> None:
    found = pooled([image(0, 10.0)])
    plain = [name for name in METRICS if name != "ap_mean"]
    for k, name in enumerate(plain):
        assert found[METRICS.index(name)] == pytest.approx(k / 10), name
    at = [plain.index(f"ap_{t}") for t in (50, 60, 70, 80, 90)]
    assert found[METRICS.index("ap_mean")] == pytest.approx(np.mean(at) / 10)


def test_weights_of_any_shape_and_unknown_ratios() -> None:
    images = [image(1, 10), image(3, 10), image(0, 0)]
    weights = np.array([[[1, 0, 0], [0, 1, 0]], [[1, 1, 5], [0, 0, 1]]])
    found = pooled(images, weights)
    assert found.shape == (2, 2, len(METRICS))
    assert found[..., 0].ravel()[:3] == pytest.approx([0.1, 0.3, 0.2])
    assert np.isnan(found[1, 1]).all()
    np.testing.assert_allclose(pooled(images), pooled(images, np.ones(3)))


def test_members_of_units() -> None:
    names, members = unit_members(["b", "a", "b", "c"])
    assert names.tolist() == ["a", "b", "c"]
    assert members.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert members.dtype == float
