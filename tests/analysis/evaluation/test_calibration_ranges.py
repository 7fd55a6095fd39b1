"""The search goes where the optimum is, and says where it could not go further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from analysis.evaluation.scores import METRICS, pooled
from analysis.evaluation.search import Scorer, at_bound, best_parameters, limits, search
from analysis.instances.methods import WAYS, default_parameters, make_instances
from analysis.instances.separate import from_3class
from trainables.config import TrialConfig
from trainables.starconvex import star_targets

TWO = TrialConfig(architecture="Unet", encoder="resnet18")
THREE = TrialConfig(architecture="Unet", encoder="resnet18", task="semantic3")
STAR = TrialConfig(architecture="Unet", encoder="resnet18", task="stardist", grid=1)


def pairs_of_discs(radius: float = 10.0) -> NDArray[np.int32]:
    """Four pairs of discs that overlap a little and are cut in the middle."""
    yy, xx = np.mgrid[: int(10 * radius), : int(10 * radius)] / radius
    labels = np.zeros(yy.shape, np.int32)
    for number, (y, x) in enumerate([(2, 2), (2, 7), (5, 4.5), (8, 2)]):
        one, two = 1 - np.hypot(yy - y, xx - x + 0.9), 1 - np.hypot(yy - y, xx - x - 0.9)
        pair = np.where(one >= two, 2 * number + 1, 2 * number + 2)
        labels[np.maximum(one, two) >= 0] = pair[np.maximum(one, two) >= 0]
    return labels


def necks(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels beside another cell."""
    largest = ndimage.maximum_filter(labels, 3)
    smallest = ndimage.minimum_filter(np.where(labels > 0, labels, labels.max() + 1), 3)
    beside: NDArray[np.bool_] = (labels > 0) & (largest != smallest)
    return beside


def sure(labels: NDArray[np.int32], inside: float, neck: float) -> NDArray[np.float32]:
    """A trained 3-class network: sure of the interior, a little less sure where cells touch."""
    cell = np.where(necks(labels), neck, inside)
    maps = np.stack([np.full(cell.shape, 1e-3), cell, 1 - cell]) * [[[1]], [[0.999]], [[0.999]]]
    maps[:, labels == 0] = np.array([0.999, 5e-4, 5e-4])[:, None]
    return maps.astype(np.float32)


def best_of(
    config: TrialConfig, maps: NDArray[np.float32], labels: NDArray[np.int32], **options: Any
) -> tuple[dict[str, float], float]:
    tried = search(Scorer(config, [(maps, labels)]), default_parameters(config, {}), **options)
    return best_parameters(tried), max(float(pooled(s)[METRICS.index("ap_mean")]) for _, s in tried)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("inside", "neck"), [(0.995, 0.97), (0.9995, 0.997), (0.99995, 0.9995), (0.9, 0.6)]
)
def test_cells_part_where_a_sure_network_is_a_little_less_sure(
    inside: float, neck: float, seed: int
) -> None:
    labels = pairs_of_discs()
    maps = sure(labels, inside, neck)
    assert from_3class(maps).max() == 4, "by default each pair is one cell"
    best, score = best_of(THREE, maps, labels, seed=seed)
    assert make_instances(THREE, maps, best, labels.shape).max() == 8
    assert neck < best["seed_threshold"] <= inside + 1e-6 or best["smoothing"] > 0
    assert score > 0.95


@pytest.mark.parametrize("seed", range(2))
def test_a_two_class_network_that_is_too_sure_is_cut_at_a_high_threshold(seed: int) -> None:
    """Foreground reaches three pixels beyond every cell, at 0.97; cells are at 0.998."""
    labels = np.zeros((100, 100), np.int32)
    yy, xx = np.mgrid[:100, :100]
    for number in range(9):
        centre = np.hypot(yy - 17 - 33 * (number // 3), xx - 17 - 33 * (number % 3))
        labels[centre <= 10] = number + 1
    near = ndimage.distance_transform_edt(labels == 0) <= 3
    maps = np.where(labels > 0, 0.998, np.where(near, 0.97, 0.002))[None].astype(np.float32)
    best, score = best_of(TWO, maps, labels, seed=seed)
    assert score > 0.95
    assert best["threshold"] > 0.97 or best["smoothing"] > 0


@pytest.mark.parametrize("seed", range(2))
def test_a_sure_star_head_loses_its_false_stars(seed: int) -> None:
    """Stars of the cells' size in the background have 0.97, the cells' middles 0.999."""
    labels = pairs_of_discs(8.0)
    prob, *dist = star_targets(labels, STAR.rays)
    prob = np.where(labels > 0, 0.98 + 0.019 * prob, 0.0)
    far = np.argwhere(ndimage.distance_transform_edt(labels == 0) > 9)
    prob[tuple(far[:: len(far) // 6].T)] = 0.97
    maps = np.concatenate([prob[None], np.where(labels > 0, dist, 8.0)]).astype(np.float32)
    sure_of_nine = default_parameters(STAR, {}) | {"prob_threshold": 0.9}
    assert make_instances(STAR, maps, sure_of_nine, labels.shape).max() > 8
    best, score = best_of(STAR, maps, labels, seed=seed)
    assert make_instances(STAR, maps, best, labels.shape).max() == 8
    assert score > 0.8
    assert best["prob_threshold"] > 0.97


def test_a_halo_of_proposals_does_not_hide_the_faint_cells() -> None:
    """Five bright cells with halos that propose the same cells, four fainter than the halos."""
    yy, xx = np.mgrid[:100, :100]
    labels = np.zeros(yy.shape, np.int32)
    halo = np.zeros(yy.shape, bool)
    for number in range(9):
        centre = np.hypot(yy - 17 - 33 * (number // 3), xx - 17 - 33 * (number % 3))
        labels[centre <= 8] = number + 1
        halo |= (centre <= 12) & (centre > 8) & (number % 2 == 0)
    prob, *dist = star_targets(labels, STAR.rays)
    bright = labels % 2 == 1
    prob = np.where(halo, 0.6, np.where(bright, 0.65 + 0.3 * prob, 0.45 * prob))
    maps = np.concatenate([prob[None], np.where(halo, 12.0, dist)]).astype(np.float32)
    assert np.count_nonzero(prob >= 0.4) > 1.1 * np.count_nonzero(labels)
    best, score = best_of(STAR, maps, labels, budget=30)
    assert make_instances(STAR, maps, best, labels.shape).max() == 9
    assert score > 0.8
    assert best["prob_threshold"] < 0.45


@given(st.floats(0.1, 0.999998), st.floats(1.01, 3))
@settings(max_examples=60, deadline=None)
def test_digits_keep_high_thresholds_apart(value: float, ratio: float) -> None:
    one = WAYS["semantic3"].ranges["seed_threshold"]
    kept = one.shrink(one.stretch(value))
    assert one.low <= kept <= one.high
    # what is left below 1 is right to a thousandth
    assert 1 - kept == pytest.approx(1 - value, rel=1e-3)
    further = 1 - (1 - value) / ratio
    if further <= one.high:
        assert one.shrink(one.stretch(further)) > kept


def test_a_seed_threshold_beyond_the_digits_of_float32_still_parts_cells() -> None:
    labels = pairs_of_discs()
    left = np.where(necks(labels), 1e-8, 1e-10)  # float32 takes 1 - 1e-8 for 1
    maps = np.stack([np.zeros(left.shape), 1 - left, left]).astype(np.float32)
    maps[:, labels == 0] = np.array([1.0, 0, 0], np.float32)[:, None]
    assert from_3class(maps, seed_threshold=0.9999).max() == 4
    assert from_3class(maps, seed_threshold=1 - 1e-9).max() == 8


def test_large_cells_get_larger_depths_smoothing_and_sizes() -> None:
    small, large = (np.full((s, s), 1, np.int32) for s in (20, 200))
    maps = np.zeros((1, 2, 2), np.float32)
    at_20, at_200 = limits(TWO, [(maps, small)]), limits(TWO, [(maps, large)])
    assert at_20["min_size"] == (0, 400), "of a single cell, no more than it has"
    assert at_200["min_size"] == (0, 40_000)
    assert at_20["seed_depth"][1] == pytest.approx(6)
    assert at_200["seed_depth"][1] == pytest.approx(56.4, abs=0.1)
    assert at_200["smoothing"][1] == pytest.approx(28.2, abs=0.1)
    assert at_20["threshold"] == at_200["threshold"]
    one_pixel = np.ones((1, 1), np.int32)
    assert limits(TWO, [(maps, one_pixel)])["min_size"] == (0, 1)


def test_large_cells_in_two_lobes_are_kept_whole() -> None:
    """A waist of 15 px in cells of 100: no depth up to 6 makes one cell of it."""
    yy, xx = np.mgrid[:200, :320]
    lobes = [(90, 100, 55), (90, 178, 55)]
    labels = np.zeros(yy.shape, np.int32)
    for y, x, radius in lobes:
        labels[np.hypot(yy - y, xx - x) <= radius] = 1
    maps = np.where(labels > 0, 0.9, 0.1)[None].astype(np.float32)
    for depth in (0.25, 6):
        parameters = default_parameters(TWO, {}) | {"seed_depth": depth}
        assert make_instances(TWO, maps, parameters, labels.shape).max() == 2
    best, score = best_of(TWO, maps, labels)
    assert score == 1
    assert best["seed_depth"] > 6


@pytest.mark.parametrize(
    ("name", "value", "ends"),
    [
        ("threshold", 0.9999, True),
        ("threshold", 0.9997, False),
        ("threshold", 0.01, True),
        ("threshold", 0.5, False),
        ("seed_depth", 6.0, True),
        ("seed_depth", 0.25, True),
        ("seed_depth", 2.0, False),
        ("min_size", 400, False),
        ("min_size", 0, False),
        ("smoothing", 0.0, False),
        ("smoothing", 3.0, True),
        ("threshold", 0.001, True),
    ],
)
def test_a_parameter_that_ends_at_its_bound_is_named(name: str, value: float, ends: bool) -> None:
    known = [(np.zeros((1, 2, 2), np.float32), np.full((20, 20), 3, np.int32))]
    parameters = default_parameters(TWO, {}) | {name: value}
    assert at_bound(TWO, parameters, limits(TWO, known)) == ([name] if ends else [])
