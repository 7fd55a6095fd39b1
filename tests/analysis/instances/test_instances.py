"""Separating instances: shapes whose truth is known, and every degenerate input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

from analysis.evaluation.scores import match
from analysis.instances.separate import (
    from_3class,
    from_star_convex,
    give_gap_back,
    watershed_2class,
)
from analysis.kernels.flooding import (
    cut_lines,
    flood_distances,
    gap_pixels,
    grow,
    squared_distances,
)
from analysis.kernels.parts import find_parts
from trainables.labels import semantic2_target, semantic3_target, touching_gap
from trainables.starconvex import star_targets


def two_discs(distance: float = 37.0, shift: float = 0.0) -> NDArray[np.int32]:
    """Two discs of radius 20 and 18 that touch; what they share is cut in the middle."""
    yy, xx = np.mgrid[:70, :120]
    one = 20 - np.hypot(yy - 34.2 - shift, xx - 30.4)
    two = 18 - np.hypot(yy - 35.1 + shift, xx - 30.4 - distance)
    labels = np.where(one >= two, 1, 2)
    return np.where(np.maximum(one, two) >= 0, labels, 0).astype(np.int32)


def random_discs(seed: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:160, :200]
    labels = np.zeros((160, 200), np.int32)
    for number in range(1, 40):
        y, x, r = rng.uniform(0, 160), rng.uniform(0, 200), rng.uniform(8, 16)
        disc = np.hypot(yy - y, xx - x) <= r
        if not (labels[np.hypot(yy - y, xx - x) <= r - 2.5] > 0).any():
            labels[disc & (labels == 0)] = number
    return labels


def areas(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.sort(np.bincount(labels.ravel())[1:])


def test_two_touching_discs_are_two_cells_with_a_gap_of_one_pixel() -> None:
    true = two_discs()
    found = watershed_2class(true > 0)
    assert found.max() == 2
    assert not touching_gap(found).any(), "no two instances touch"
    lost = np.count_nonzero((true > 0) & (found == 0))
    assert 3 <= lost <= 20
    assert ndimage.label(found > 0, np.ones((3, 3)))[1] == 2


@pytest.mark.parametrize("shift", [0, 0.3, 0.8, 2.0])
def test_touching_discs_recover_their_area_with_the_gap_given_back(shift: float) -> None:
    true = two_discs(shift=shift)
    for probability in (true > 0, semantic2_target(true)):
        kept = watershed_2class(probability)
        given = watershed_2class(probability, give_back_gap=True)
        assert np.all(areas(kept) <= areas(given))
        assert areas(given) == pytest.approx(areas(true), rel=0.01)
        assert abs(int((given > 0).sum()) - int((true > 0).sum())) <= 10
    exact = watershed_2class(true > 0, give_back_gap=True)
    assert np.array_equal(exact > 0, true > 0)
    assert areas(exact) == pytest.approx(areas(true), rel=0.01)
    assert areas(from_3class(semantic3_target(true))) == pytest.approx(areas(true), rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_area_of_crowded_discs_is_not_biased_when_the_gap_is_given_back(seed: int) -> None:
    true = random_discs(seed)
    found = watershed_2class(semantic2_target(true), give_back_gap=True, min_size=1)
    pairs = match(true, found)
    assert len(pairs.true) >= 0.85 * (len(np.unique(true)) - 1)
    size_true, size_found = np.bincount(true.ravel()), np.bincount(found.ravel())
    good = pairs.iou > 0.9
    ratio = size_found[pairs.pred[good]].sum() / size_true[pairs.true[good]].sum()
    assert ratio == pytest.approx(1, abs=0.01)
    cut = watershed_2class(semantic2_target(true), min_size=1)
    assert (cut > 0).sum() < (found > 0).sum()


@pytest.mark.parametrize("boundary", ["outline", "touching"])
def test_three_classes_give_every_cell_back(boundary: str) -> None:
    true = random_discs(7)
    found = from_3class(semantic3_target(true, boundary), min_size=1)
    pairs = match(true, found)
    inside = [i for i in np.unique(true)[1:] if (ndimage.binary_erosion(true == i)).any()]
    assert len(pairs.true) >= len(inside) - 2  # slivers left beside others
    assert np.array_equal(found > 0, (true > 0) & (found > 0))
    big = np.bincount(true.ravel())[pairs.true] > 100
    assert pairs.iou[big].min() > 0.9


def test_star_convex_maps_of_the_truth_give_the_truth() -> None:
    true = random_discs(3)
    target = star_targets(true, 32)
    found = from_star_convex(target[0], target[1:], prob_threshold=0.5, min_size=30)
    pairs = match(true, found)
    assert np.median(pairs.iou) > 0.9
    sizes = np.bincount(found.ravel())[1:]
    assert sizes.min() >= 30
    assert sorted(np.unique(found)) == list(range(found.max() + 1))


def test_seed_depth_merges_a_peanut_and_keeps_two_cells() -> None:
    true = two_discs(distance=20)  # strongly overlapping: a shallow waist
    assert watershed_2class(true > 0, seed_depth=0.3).max() == 2
    assert watershed_2class(true > 0, seed_depth=6).max() == 1


def test_threshold_smoothing_and_size_do_what_they_say() -> None:
    probability = np.zeros((40, 60), np.float32)
    probability[5:25, 5:25] = 0.6
    probability[30:33, 40:43] = 0.9  # 9 pixels
    assert watershed_2class(probability, threshold=0.5).max() == 1
    assert watershed_2class(probability, threshold=0.5, min_size=9).max() == 2
    assert watershed_2class(probability, threshold=0.7, min_size=1).max() == 1
    speckled = probability.copy()
    speckled[30:33, 40:43] = 0
    speckled[7, 50] = 1
    assert watershed_2class(speckled, min_size=1).max() == 2
    assert watershed_2class(speckled, min_size=1, smoothing=1.5).max() == 1


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[20:22, 20:22] = False
    assert (watershed_2class(mask, min_size=20, seed_depth=10) > 0).sum() == 1600
    mask[30:40, 30:40] = False
    labels = watershed_2class(mask, min_size=20, seed_depth=50)
    assert not labels[35, 35]
    notch = np.ones((30, 30), bool)
    notch[0, 10:12] = False  # open to the border: no hole
    assert not watershed_2class(notch, min_size=20, seed_depth=50)[0, 10]


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 3), (64, 64)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_images_give_no_cell_or_one(shape: tuple[int, int], value: float) -> None:
    flat = np.full(shape, value, np.float32)
    for found in (
        watershed_2class(flat, min_size=1),
        watershed_2class(flat, min_size=1, give_back_gap=True),
        from_3class(np.stack([1 - flat, flat, 0 * flat]), min_size=1),
    ):
        assert found.shape == shape
        assert found.dtype == np.int32
        assert np.all(found == value)


def test_only_boundary_is_no_cell() -> None:
    classes = np.zeros((20, 20), int)
    classes[5:8, 5:8] = 2
    assert not from_3class(classes).any()


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        watershed_2class(np.zeros((1, 5, 5)))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        from_3class(np.zeros((2, 5, 5)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        watershed_2class(np.zeros((5, 5)), threshold=0)
    with pytest.raises(ValueError, match="seed_depth"):
        watershed_2class(np.zeros((5, 5)), seed_depth=-1)
    with pytest.raises(ValueError, match="min_size"):
        watershed_2class(np.zeros((5, 5)), min_size=-1)


masks = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(max_examples=60, deadline=None)
@given(masks, st.floats(0, 3))
def test_watershed_keeps_its_promises(mask: NDArray[np.bool_], depth: float) -> None:
    found = watershed_2class(mask, min_size=0, seed_depth=depth)
    assert not (found[~mask] > 0).any()
    assert sorted(np.unique(found[found > 0])) == list(range(1, found.max() + 1))
    assert not touching_gap(found).any()
    for number in range(1, found.max() + 1):
        assert ndimage.label(found == number, np.ones((3, 3)))[1] == 1
    given_back = give_gap_back(found)
    assert np.all(given_back[found > 0] == found[found > 0])
    assert not (given_back[(found == 0) & ~gap_pixels(found)] > 0).any()
    whole = watershed_2class(mask, min_size=0, seed_depth=depth, give_back_gap=True)
    assert (whole[mask] > 0).all()


@settings(max_examples=60, deadline=None)
@given(masks)
def test_flooding_without_merging_finds_every_summit(mask: NDArray[np.bool_]) -> None:
    squared = squared_distances(mask)
    inside = np.flatnonzero(squared)
    order = inside[np.argsort(-squared.ravel()[inside], kind="stable")]
    basins = flood_distances(squared, order, 0.0)[1:-1, 1:-1]
    assert np.array_equal(basins > 0, mask)
    merged = flood_distances(squared, order, 1e9)[1:-1, 1:-1]
    # everything connected is one when no saddle is deep enough
    assert len(np.unique(merged[mask])) == ndimage.label(mask, np.ones((3, 3)))[1]


@settings(max_examples=200, deadline=None)
@given(masks)
def test_squared_distances_are_exact(mask: NDArray[np.bool_]) -> None:
    found = squared_distances(mask)
    assert found.shape == (mask.shape[0] + 2, mask.shape[1] + 2)
    assert not found[[0, -1]].any() and not found[:, [0, -1]].any()  # noqa: PT018
    if mask.all():
        assert len(np.unique(found[1:-1, 1:-1])) == 1
        assert found[1, 1] > mask.size
    else:
        expected = ndimage.distance_transform_edt(mask) ** 2
        np.testing.assert_allclose(found[1:-1, 1:-1], expected, rtol=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3)
    ),
    st.booleans(),
)
def test_parts_are_those_of_scikit_image(labels: NDArray[np.uint8], diagonal: bool) -> None:
    parts, count = find_parts(labels, diagonal)
    expected, n = label(labels, connectivity=1 + diagonal, background=0, return_num=True)
    assert count == n
    assert np.array_equal(parts, expected)  # both number as rows are read


def test_cut_lines_and_grow_by_hand() -> None:
    labels = np.array([[1, 1, 2, 2, 0, 3]], np.int32)
    assert cut_lines(labels).tolist() == [[1, 0, 2, 2, 0, 3]]
    seeds = np.array([[1, 0, 0, 0, 0, 2]], np.int32)
    room = np.array([[1, 1, 1, 1, 0, 1]], bool)
    assert grow(seeds, room, 1).tolist() == [[1, 1, 0, 0, 0, 2]]
    assert grow(seeds, room, 9).tolist() == [[1, 1, 1, 1, 0, 2]]


def at_borders() -> NDArray[np.int32]:
    """Cells cut by every border and in every corner, and one that no border cuts."""
    yy, xx = np.mgrid[:90, :110]
    labels = np.zeros(yy.shape, np.int32)
    centres = [
        (0, 55),
        (89, 55),
        (45, 0),
        (45, 109),
        (0, 0),
        (0, 109),
        (89, 0),
        (89, 109),
        (45, 55),
    ]
    for number, (y, x) in enumerate(centres, 1):
        labels[np.hypot(yy - y, xx - x) <= 14] = number
    return labels


@pytest.mark.parametrize("way", ["2-class", "2-class, gap given back", "3-class", "stars"])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_cells_at_all_four_borders_are_found_and_kept(way: str, smoothing: float) -> None:
    true = at_borders()
    quarter = int(np.bincount(true.ravel())[5:9].min())

    def found(min_size: int) -> NDArray[np.int32]:
        if way == "stars":
            target = star_targets(true, 32)
            return from_star_convex(target[0], target[1:], min_size=min_size)
        if way == "3-class":
            classes = semantic3_target(true)
            probabilities = np.stack([classes == c for c in range(3)]).astype(np.float32)
            return from_3class(probabilities, min_size=min_size, smoothing=smoothing)
        probability = (true > 0).astype(np.float32)
        return watershed_2class(
            probability, give_back_gap="given" in way, min_size=min_size, smoothing=smoothing
        )

    small = found(min_size=quarter // 2)
    pairs = match(true, small, threshold=0.75)
    assert sorted(pairs.true) == list(range(1, 10))
    if way != "stars":  # polygons round what the border cuts
        for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            cells = true[border] > 0
            assert (small[border] > 0)[cells].mean() > 0.9, "a row or column of pixels is lost"
    # halves are larger than the size that drops the quarters
    pairs = match(true, found(min_size=int(1.3 * quarter)), threshold=0.75)
    assert sorted(pairs.true) == [1, 2, 3, 4, 9]


def test_stars_that_reach_over_the_border_are_cut_there() -> None:
    prob, dist = np.zeros((40, 50), np.float32), np.full((32, 40, 50), 9.0, np.float32)
    for y, x in ((0, 25), (39, 25), (20, 0), (20, 49)):
        prob[y, x] = 0.9
    found = from_star_convex(prob, dist)
    assert found.max() == 4
    assert np.bincount(found.ravel())[1:].min() > 0.4 * np.pi * 9**2
    for border in (found[0], found[-1], found[:, 0], found[:, -1]):
        assert len(np.unique(border[border > 0])) == 1


def test_overlap_and_probability_thresholds_reach_the_stars() -> None:
    prob, dist = np.zeros((60, 80), np.float32), np.full((32, 60, 80), 15.0, np.float32)
    prob[30, 30], prob[30, 48] = 0.9, 0.8
    for overlap, least, stars in ((0.1, 0.5, 1), (0.7, 0.5, 2), (0.7, 0.85, 1), (0.7, 0.95, 0)):
        found = from_star_convex(prob, dist, prob_threshold=least, nms_threshold=overlap)
        assert found.max() == stars
