"""Star-convex targets, decoding, thresholds and loss, on hand-made cells."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import stardist.nms
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.starconvex import (
    MOST_CANDIDATES,
    NMS,
    PROBS,
    Thresholds,
    at_bound,
    decode,
    detect,
    optimize_thresholds,
    star_targets,
)
from trainables.starconvex_loss import StarConvexLoss, distances, probability


def discs(
    *circles: tuple[int, int, int], shape: tuple[int, int] = (64, 72), tall: float = 1.0
) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx, radius) in enumerate(circles, 1):
        labels[(((y - cy) / tall) ** 2 + (x - cx) ** 2 <= radius**2) & (labels == 0)] = number
    return labels


def test_distances_of_a_square() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:12, 4:15] = 3
    target = star_targets(labels, 8)
    assert target.shape == (9, 20, 20)
    assert target.dtype == np.float32
    # right, down, left, up: to the outer edge of the last pixel
    np.testing.assert_allclose(target[1::2, 7, 6], [8.5, 4.5, 2.5, 2.5], atol=1e-4)
    assert target[0, 8, 9] == 1
    assert target[0, 5, 9] == pytest.approx(1 / 4)
    assert not target[:, labels == 0].any()


def test_distances_of_a_disc() -> None:
    target = star_targets(discs((30, 30, 10)), 32)
    np.testing.assert_allclose(target[1::8, 30, 30], 10.5, atol=1e-4)
    np.testing.assert_allclose(target[1::8, 27, 34], [5.5, 12.5, 13.5, 6.5], atol=1e-4)
    # every ray ends within half a pixel's diagonal of the radius
    np.testing.assert_allclose(target[1:, 30, 30], 10, atol=0.71)


def test_crops_that_cut_cells() -> None:
    target = star_targets(discs((30, 30, 12))[:, 30:], 8)
    assert np.isfinite(target).all()
    # distances end at the crop's edge; the cell itself goes on beyond it
    assert target[5, 30, 0] == pytest.approx(0.5, abs=1e-4)
    assert target[1, 30, 0] == pytest.approx(12.5, abs=1e-4)
    assert target[0, 30, 0] == 1
    assert decode(target[0], target[1:]).max() == 1


def test_labels_that_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        star_targets(np.array([[-1, 0]]))
    with pytest.raises(ValueError, match="65535"):
        star_targets(np.arange(70_000).reshape(70, 1000))


def test_large_numbers_and_empty_images() -> None:
    labels = discs((30, 30, 12))
    np.testing.assert_array_equal(star_targets(labels * (2**31 - 1)), star_targets(labels))
    assert not star_targets(np.zeros((16, 16), np.int32)).any()
    full = star_targets(np.full((16, 16), 5, np.int32))
    assert full[0].max() == 1  # a cell that fills the image ends at its edge
    assert np.isfinite(full).all()


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2]),
    st.sampled_from([16, 32]),
    st.booleans(),
    st.sampled_from([1.0, 1.4]),
)
@settings(max_examples=25, deadline=None)
def test_decoding_gives_the_cells_back(
    seed: int, grid: int, rays: int, touching: bool, tall: float
) -> None:
    rng = np.random.default_rng(seed)
    gap = 0 if touching else 4
    radii = rng.integers(5, 11, 4)
    circles, x = [], 12
    for radius in radii:
        circles.append((int(rng.integers(20, 40)), x + int(radius), int(radius)))
        x += 2 * int(radius) + gap
    labels = discs(*circles, shape=(61, 125), tall=tall)
    target = star_targets(labels, rays, grid)
    found = decode(target[0], target[1:], grid=grid, shape=(61, 125))
    assert found.max() == 4
    for number in range(1, 5):
        mask = labels == number
        best = np.bincount(found[mask]).argmax()
        overlap = np.count_nonzero(mask & (found == best))
        assert overlap / np.count_nonzero(mask | (found == best)) >= 0.8


def test_detections_are_numbered_by_probability() -> None:
    labels = discs((20, 20, 10), (40, 50, 10))
    target = star_targets(labels)
    target[0][labels == 1] *= 0.8
    found, detections = detect(target[0], target[1:])
    assert found[40, 50] == 1
    assert found[20, 20] == 2
    assert detections.probabilities.tolist() == pytest.approx([1.0, 0.8])
    assert detections.points.tolist()[0] == [40, 50]
    assert detections.distances.shape == (2, 32)


def test_bad_values_are_no_candidates() -> None:
    target = star_targets(discs((20, 20, 10), (40, 50, 10)))
    target[0, 10:31, 10:31] = np.nan
    target[5, 40:50, 40:61] = np.inf
    found = decode(target[0], target[1:])
    assert found[20, 20] == 0
    assert found.max() == 1
    assert not decode(np.zeros((9, 9)), np.ones((32, 9, 9))).any()
    assert not decode(np.full((9, 9), np.inf), np.ones((32, 9, 9))).any()


def test_numbers_have_no_gaps() -> None:
    rng = np.random.default_rng(0)
    prob, dist = rng.uniform(0.5, 1, (60, 60)), rng.uniform(1, 30, (32, 60, 60))
    labels, detections = detect(prob, dist)
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(1, 1 + labels.max()))
    assert len(detections.points) == len(detections.distances) == labels.max()
    assert (np.diff(detections.probabilities) <= 0).all()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_an_untrained_network_has_no_more_candidates_than_can_be_decoded(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a million would take 18 s for an image, instead of 0.7 s."""
    counts, suppress = [], stardist.nms.non_maximum_suppression_inds

    def counted(distances: NDArray[np.float32], *rest: Any, **options: Any) -> Any:
        counts.append(len(distances))
        return suppress(distances, *rest, **options)

    monkeypatch.setattr(stardist.nms, "non_maximum_suppression_inds", counted)
    rng = np.random.default_rng(0)
    shape = (904, 1224)
    prob = np.where(rng.random(shape) < share, rng.uniform(0.5, 1, shape), 0.1)
    dist = np.broadcast_to(np.float32(15), (32, *shape))
    assert decode(prob, dist).any()
    (count,) = counts
    assert MOST_CANDIDATES / 4 < count <= MOST_CANDIDATES


def test_a_crowd_of_candidates_keeps_its_faint_cells() -> None:
    side = 400
    prob = np.full((side, side), 0.9, np.float32)
    prob[:, side // 2 :] = 0.6  # taking the most probable would lose all of these
    dist = np.full((8, side, side), 5.0, np.float32)
    assert prob.size > MOST_CANDIDATES
    _, detections = detect(prob, dist)
    right = detections.points[:, 1] > side // 2 + 5
    assert 0.3 < right.mean() < 0.7


def test_thresholds_that_suit_are_found() -> None:
    labels = discs((20, 20, 10), (40, 50, 10))
    target = star_targets(labels)
    timid = (target[0] * 0.35, target[1:])  # nothing reaches the default of one half
    chosen = optimize_thresholds([timid], [labels])
    assert chosen.prob < 0.35
    assert decode(*timid, chosen).max() == 2
    assert optimize_thresholds([(target[0], target[1:])], [labels]) == Thresholds()
    empty = np.zeros_like(labels)
    assert optimize_thresholds([timid], [empty]) == Thresholds()


def test_false_positives_are_left_out_and_large_numbers_do_not_matter() -> None:
    labels = discs((20, 20, 10), (40, 50, 10))
    prob, *dist = star_targets(labels)
    for y, x in ((8, 60), (55, 10), (55, 30), (8, 45)):
        prob[y, x] = 0.75
    prediction = (prob, np.where(labels > 0, dist, 3.0))
    truth = np.where(labels > 0, 2**31 - 1 - labels, 0).astype(np.int32)
    chosen = optimize_thresholds([prediction], [truth])
    assert chosen.prob > 0.75
    assert decode(*prediction, chosen).max() == 2
    assert optimize_thresholds([prediction], [labels]) == chosen
    with pytest.raises(ValueError, match="1 predictions, 0 truths"):
        optimize_thresholds([prediction], [])


def test_a_sure_network_loses_its_false_stars() -> None:
    labels = discs((20, 20, 10), (40, 50, 10))
    prob, *dist = star_targets(labels)
    prob = np.where(labels > 0, 0.98 + 0.015 * prob, 0)
    for y, x in ((8, 60), (55, 10), (55, 30)):
        prob[y, x] = 0.97
    prediction = (prob, np.where(labels > 0, dist, 4.0))
    assert decode(*prediction, Thresholds(0.9)).max() == 5
    chosen = optimize_thresholds([prediction], [labels])
    assert chosen.prob > 0.97
    assert decode(*prediction, chosen).max() == 2
    assert at_bound(chosen) == []


@pytest.mark.parametrize("largest", [0.09, 0.04, 0.015])
def test_a_timid_network_finds_its_cells_below_a_tenth(largest: float) -> None:
    labels = discs((20, 20, 10), (40, 50, 10))
    prob, *dist = star_targets(labels)
    chosen = optimize_thresholds([(prob * largest, np.asarray(dist))], [labels])
    assert chosen.prob < largest
    assert decode(prob * largest, np.asarray(dist), chosen).max() == 2


def test_the_search_for_thresholds_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Thresholds] = []

    def counted(
        prob: NDArray[np.floating],
        dist: NDArray[np.floating],
        thresholds: Thresholds,
        **options: Any,
    ) -> NDArray[np.int32]:
        tried.append(thresholds)
        return decode(prob, dist, thresholds, **options)

    monkeypatch.setattr("trainables.starconvex.decode", counted)
    labels = discs((20, 20, 10), (40, 50, 10))
    prob, *dist = star_targets(labels)
    rng = np.random.default_rng(0)
    noise = (rng.uniform(0.02, 0.6, labels.shape), rng.uniform(1, 9, (32, *labels.shape)))
    for prediction in ((prob, np.asarray(dist)), noise):
        tried.clear()
        optimize_thresholds([prediction], [labels])
        assert len(tried) <= len(PROBS) + len(NMS) + 1  # each once, and two halves of a step
        assert len(set(tried)) == len(tried)
    # noise proposes too many stars already: lower thresholds would take longer, for nothing
    assert min(one.prob for one in tried) == 0.1


def test_thresholds_at_their_bound_are_named() -> None:
    assert at_bound(Thresholds()) == []
    assert at_bound(Thresholds(0.9999, 0.4)) == ["prob"]
    assert at_bound(Thresholds(0.01, 0.7)) == ["prob", "nms"]


def test_overlap_decides_which_of_two_stars_stay() -> None:
    """Discs of radius 15 whose centres are 18 apart share a fourth of their area."""
    shape = (60, 80)
    prob = np.zeros(shape, np.float32)
    prob[30, 30], prob[30, 48] = 0.9, 0.8
    dist = np.full((32, *shape), 15.0, np.float32)
    shared = 2 * 15**2 * np.arccos(18 / 30) - 9 * np.sqrt(4 * 15**2 - 18**2)
    # stardist divides the overlap by the smaller area
    assert 0.1 < shared / (np.pi * 15**2) < 0.7
    found, one = detect(prob, dist, Thresholds(0.5, 0.1))
    assert found.max() == len(one.points) == 1
    assert one.points.tolist() == [[30, 30]], "the more probable stays"
    found, both = detect(prob, dist, Thresholds(0.5, 0.7))
    assert found.max() == len(both.points) == 2
    assert found[30, 39] == 1, "what is shared belongs to the more probable"
    for nms, stars in ((0.2, 1), (0.3, 2)):
        assert decode(prob, dist, Thresholds(0.5, nms)).max() == stars
    prob[30, 48] = 0.4
    assert decode(prob, dist, Thresholds(0.5, 0.7)).max() == 1, "below the least probability"


def test_loss_at_the_truth() -> None:
    target = torch.from_numpy(star_targets(discs((16, 16, 8), shape=(32, 32)), 16))[None]
    scale = 8.0
    true = (target[:, 1:] / scale).clamp(min=1e-4)
    raw = torch.cat([torch.logit(target[:, :1], 1e-6), true.expm1().log()], 1).requires_grad_()
    value = StarConvexLoss(16, scale)(raw, target)
    prob = target[:, 0].double().clamp(1e-6, 1 - 1e-6)
    entropy = -(prob * prob.log() + (1 - prob) * (1 - prob).log()).mean()
    assert value.item() == pytest.approx(entropy.item(), abs=1e-4)  # soft targets leave no less
    value.backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    far = torch.full_like(raw, 80.0).requires_grad_()
    StarConvexLoss(16, scale)(far, target).backward()
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()


def test_loss_by_hand() -> None:
    raw = torch.zeros((1, 3, 1, 2))
    raw[0, 0, 0] = torch.tensor([2.0, -2.0])
    target = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]], [[5.0, 0.0]]]])
    scale = 2.0
    zero = np.log(2)  # softplus of 0, in units of the scale
    cross_entropy = np.log1p(np.exp(-2))
    # the mean over pixels and rays, over the mean weight of pixels
    error = (abs(zero - 1.5) + abs(zero - 2.5)) / 4 / 0.5
    outside = zero / 2
    expected = cross_entropy + 0.2 * error + 1e-4 * outside
    assert float(StarConvexLoss(2, scale)(raw, target)) == pytest.approx(expected, rel=1e-4)
    assert distances(raw, scale).shape == (1, 2, 1, 2)
    assert float(probability(raw)[0, 0, 0]) == pytest.approx(1 / (1 + np.exp(-2)))


def test_plain_tensors_learn_a_cell() -> None:
    labels = discs((16, 16, 8), shape=(32, 32))
    target = torch.from_numpy(star_targets(labels, 16))[None]
    raw = torch.zeros((1, 17, 32, 32), requires_grad=True)
    optimizer = torch.optim.Adam([raw], 0.3)
    loss = StarConvexLoss(16, 8.0)
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(raw, target)
        value.backward()
        optimizer.step()
    with torch.no_grad():
        found = decode(probability(raw)[0].numpy(), distances(raw, 8.0)[0].numpy())
    overlap = np.count_nonzero((found > 0) & (labels > 0)) / np.count_nonzero(
        (found > 0) | (labels > 0)
    )
    assert found.max() == 1
    assert overlap > 0.8  # polygons of small cells are painted a little smaller


def test_decoding_needs_neither_torch_nor_tensorflow() -> None:
    code = (
        "import sys, numpy as np\n"
        "from trainables.starconvex import decode, optimize_thresholds, star_targets\n"
        "labels = np.zeros((32, 32), np.int32); labels[8:20, 8:20] = 1\n"
        "target = star_targets(labels)\n"
        "optimize_thresholds([(target[0], target[1:])], [labels])\n"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
