"""What augmentation may do to a cell: through the data set that networks train on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, median_filter
from skimage.draw import disk
from skimage.measure import label, regionprops

from trainables.config import TrialConfig
from trainables.data.augmentation import STRENGTHS, Augmenter
from trainables.data.crops import CropDataset, EpochBatches
from trainables.data.dataset import open_dataset
from trainables.synthetic.dataset import generate

Pair = tuple[NDArray[np.float32], NDArray[np.int32]]

MOVING = ("medium", "strong")
ZOOM = {"none": 1.0, "light": 1.0, "medium": 1.1, "strong": 1.25}
BRIGHTNESS = {"none": 0.0, "light": 0.0, "medium": 0.05, "strong": 0.1}
NOISE = {"none": 0.0, "light": 0.0, "medium": 0.05, "strong": 0.1}
CONTRAST = {"none": 1.0, "light": 1.0, "medium": 1.2, "strong": 1.4}


def crops_of(pairs: list[Pair], strength: str, size: int, seed: int = 0) -> CropDataset:
    return CropDataset(pairs, size, lambda labels: labels, strength, seed)


def draws(dataset: CropDataset, index: int, epochs: int = 1) -> Iterator[Pair]:
    for epoch in range(epochs):
        dataset.start_epoch(epoch)
        crop, cells = dataset[index]
        yield crop[0].numpy(), cells.numpy()


def one_disc(radius: int = 20, *, low: float = 0.1, high: float = 0.9) -> Pair:
    """A disc that only its own crop of 128 px, the last one, holds whole and in its middle."""
    labels = np.zeros((240, 240), np.int32)
    labels[disk((119.5, 119.5), radius)] = 5
    return np.where(labels > 0, high, low).astype(np.float32), labels


def many_cells(shape: tuple[int, int], seed: int, count: int = 25) -> Pair:
    """Equal discs, and open rings that a crop's border may part, up to the image's edges."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        center = rng.integers(0, shape)
        free = np.zeros(shape, bool)
        free[disk(center, 10, shape=shape)] = True
        if number % 3 == 0:
            free[disk(center, 7, shape=shape)] = False
            free[center[0] :, center[1]] = False
        free &= labels == 0
        pieces = label(free, connectivity=2)
        if pieces.any():
            labels[pieces == np.bincount(pieces[free]).argmax()] = number
    image = np.where(labels > 0, 0.8, 0.1) + rng.normal(0, 0.02, shape)
    return image.astype(np.float32), labels


@pytest.mark.parametrize("strength", MOVING)
def test_a_disc_stays_a_disc(strength: str) -> None:
    dataset = crops_of([one_disc()], strength, 128)
    areas = []
    for _, cells in draws(dataset, len(dataset) - 1, 150):
        (found,) = regionprops(cells)
        assert found.axis_major_length / found.axis_minor_length < 1.1
        areas.append(found.area)
    zoom = np.sqrt(np.array(areas) / np.count_nonzero(one_disc()[1]))
    assert 1 / ZOOM[strength] - 0.01 < zoom.min() < 1 - 0.6 * (1 - 1 / ZOOM[strength])
    assert 1 + 0.6 * (ZOOM[strength] - 1) < zoom.max() < ZOOM[strength] + 0.01


def bar() -> Pair:
    """A bar that only its own crop of 128 px, the last one, holds whole and in its middle."""
    labels = np.zeros((240, 240), np.int32)
    labels[112:128, 88:152] = 5
    return np.where(labels > 0, 0.9, 0.1).astype(np.float32), labels


@pytest.mark.parametrize("strength", STRENGTHS)
def test_cells_are_turned_by_any_angle(strength: str) -> None:
    """Up to 45 degrees either way in 70 % of the crops; quarter turns do the rest."""
    dataset = crops_of([bar()], strength, 128)
    angles = []
    for _, cells in draws(dataset, len(dataset) - 1, 200):
        degrees = np.degrees(regionprops(cells)[0].orientation)
        angles.append((degrees + 45) % 90 - 45)
    turned = np.abs(angles) > 1
    if strength not in MOVING:
        assert not turned.any()
        return
    assert 0.58 < turned.mean() < 0.8
    assert min(angles) < -40
    assert max(angles) > 40
    assert 18 < np.abs(angles)[turned].mean() < 28  # evenly drawn: 22.5 and a little


def test_intensities_are_changed_as_far_and_as_often_as_stated() -> None:
    """Of a dim and a bright disc: contrast moves both, gamma one against the other."""
    labels = np.zeros((240, 240), np.int32)
    labels[disk((119.5, 85), 25)], labels[disk((119.5, 154), 25)] = 1, 2
    image = np.choose(labels, [0.1, 0.5, 0.9]).astype(np.float32)
    for strength in STRENGTHS:
        gains, bends, edges, noises = [], [], [], []
        augment = Augmenter(strength)
        for seed in range(200):
            rng = np.random.default_rng(seed)
            crop, cells = augment(image, labels, (40, 40), 160, rng)
            far = binary_erosion(cells == 0, iterations=6, border_value=1)
            dim, bright = (
                float(np.median(crop[binary_erosion(cells == n, iterations=6)])) for n in (1, 2)
            )
            level = float(np.median(crop[far]))
            noises.append(float(crop[far].std()))
            gains.append((bright - level) / 0.8)
            bends.append((dim - level) / (bright - level) / 0.5)
            if noises[-1] < 0.003:
                steps = [np.abs(np.diff(crop, axis=axis)).max() for axis in (0, 1)]
                edges.append(max(steps) / (bright - level))
        check_contrast(gains, CONTRAST[strength])
        bent = np.abs(np.array(bends) - 1) > 0.02
        if strength in MOVING:
            assert 0.05 < bent.mean() < 0.4
            assert min(bends) < {"medium": 0.98, "strong": 0.95}[strength]
            assert max(bends) > {"medium": 1.015, "strong": 1.03}[strength]
            assert 0.25 < np.mean(np.array(noises) > 0.005) < 0.55
        else:
            assert np.allclose(bends, 1, atol=1e-5)
        blurred = np.mean(np.array(edges) < 0.45)  # otherwise an edge is a step
        assert 0.04 < blurred < 0.3 if strength == "strong" else blurred == 0


def check_contrast(gains: list[float], most: float) -> None:
    assert min(gains) < 1 - 0.7 * (1 - 1 / most) + 1e-5
    assert max(gains) > 1 + 0.7 * (most - 1) - 1e-5
    assert most > 1 or np.allclose(gains, 1, atol=1e-5)


@pytest.mark.parametrize("strength", MOVING)
def test_a_tip_that_falls_off_is_no_cell_and_a_large_part_is_one(strength: str) -> None:
    labels = np.zeros((240, 240), np.int32)
    labels[disk((119.5, 119.5), 20)] = 7
    labels[80, 119:121] = 7  # two pixels, after zooming four at most
    labels[160:166, 116:122] = 7
    image = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    dataset = crops_of([(image, labels)], strength, 128)
    for _, cells in draws(dataset, len(dataset) - 1, 40):
        numbers, areas = np.unique(cells[cells > 0], return_counts=True)
        assert len(numbers) == 2
        assert numbers[np.argmax(areas)] == 7, "the largest part keeps the number"
        assert areas.min() > 15


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(
    "kind", [bool, np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.uint64]
)
def test_labels_of_any_integer_type(strength: str, kind: type) -> None:
    image, labels = many_cells((150, 150), 3)
    labels = (labels > 0).astype(np.int32) if kind is bool else labels
    augment, outcomes = Augmenter(strength), []
    for seed in range(6):
        ((crop, cells), (same, expected)) = (
            augment(image, one, (40, 30), 64, np.random.default_rng(seed))
            for one in (labels.astype(kind), labels)
        )
        # OpenCV rounds ties by type: a pixel half-way between two may go to the other
        assert np.count_nonzero(cells != expected) <= 4
        np.testing.assert_allclose(crop, same, atol=1e-3)
        outcomes.append(cells.any())
    assert any(outcomes)


@pytest.mark.parametrize("strength", MOVING)
def test_very_large_numbers_stay_what_they_are(strength: str) -> None:
    image, labels = many_cells((150, 150), 3)
    large = np.where(labels > 0, labels.astype(np.int64) + 2**40, 0)
    augment = Augmenter(strength)
    for seed in range(6):
        _, cells = augment(image, large, (40, 30), 64, np.random.default_rng(seed))
        _, expected = augment(image, labels, (40, 30), 64, np.random.default_rng(seed))
        np.testing.assert_array_equal(cells > 0, expected > 0)
        assert cells[cells > 0].min() > 2**40
        np.testing.assert_array_equal(cells[cells > 0] - 2**40, expected[expected > 0])


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_raw_intensities_are_refused(strength: str, kind: type[np.generic]) -> None:
    """Cut at 1.5, they would be a white crop."""
    labels = np.zeros((100, 100), np.int32)
    raw = np.full((100, 100), 200, kind)
    with pytest.raises(ValueError, match=f"normalised images, not {np.dtype(kind)}; .*normalize"):
        Augmenter(strength)(raw, labels, (0, 0), 64, np.random.default_rng(0))


@pytest.mark.parametrize("strength", MOVING)
@given(seed=st.integers(0, 10_000), side=st.sampled_from([50, 64, 66, 80, 140]))
@settings(max_examples=25)
def test_no_cell_grows_by_its_mirror_image_or_falls_apart(
    strength: str, seed: int, side: int
) -> None:
    image, labels = many_cells((side, side + 9), seed)
    whole = np.bincount(labels.ravel())[1:].max() * ZOOM[strength] ** 2 * 1.1
    dataset = crops_of([(image, labels)], strength, 64, seed)
    for index in range(len(dataset)):
        for crop, cells in draws(dataset, index):
            assert label(cells, connectivity=2).max() == len(np.unique(cells[cells > 0]))
            # a piece has a number of its own, and at most the pixels of a whole cell, zoomed
            assert np.bincount(cells.ravel())[1:].max(initial=0) <= whole
            # labels lie where cells are seen
            seen = median_filter(crop, 3) > 0.45
            if strength == "medium" and (cells > 0).mean() > 0.2:
                assert (seen & (cells > 0)).sum() / (seen | (cells > 0)).sum() > 0.8


@pytest.mark.parametrize("strength", STRENGTHS)
def test_an_image_without_cells_gets_none(strength: str) -> None:
    image = np.random.default_rng(0).normal(0.4, 0.1, (100, 130)).astype(np.float32)
    dataset = crops_of([(image, np.zeros((100, 130), np.int32))], strength, 64)
    for _, cells in draws(dataset, 0, 20):
        assert not cells.any()


@pytest.mark.parametrize("strength", MOVING)
def test_only_what_the_image_shows_is_in_a_crop(strength: str) -> None:
    """At the image's corner stands a cell; mirrored, it would be seen two to four times."""
    labels = np.zeros((150, 150), np.int32)
    labels[:9, :14] = 1
    image = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    dataset = crops_of([(image, labels)], strength, 64)
    shown = 0
    for crop, cells in draws(dataset, 0, 100):
        bright = median_filter(crop, 3) > 0.5
        assert bright.sum() <= 9 * 14 * ZOOM[strength] ** 2 * 1.15 + 4
        assert label(bright, connectivity=2).max() <= 1
        shown += int(cells.any())
    assert shown > 40  # cells at the edge are not lost to training


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("background", "cell"), [(0.03, 0.8), (0.45, 0.85), (0.45, 0.15)])
def test_the_background_stays_where_it_was(strength: str, background: float, cell: float) -> None:
    image, labels = one_disc(low=background, high=cell)
    image += np.random.default_rng(0).normal(0, 0.02, image.shape).astype(np.float32)
    dataset = crops_of([(image, labels)], strength, 128)
    shifts, gains = [], []
    for crop, cells in draws(dataset, len(dataset) - 1, 80):
        level = float(np.median(crop[cells == 0]))
        shifts.append(level - background)
        gains.append((float(np.median(crop[cells > 0])) - level) / (cell - background))
    assert np.abs(shifts).max() <= BRIGHTNESS[strength] + 0.01
    assert np.abs(shifts).max() >= 0.7 * BRIGHTNESS[strength]
    assert min(gains) > 0.5  # never inverted, never faded out
    assert max(gains) < 1.8


@pytest.mark.parametrize("strength", STRENGTHS)
def test_noise_has_its_bound(strength: str) -> None:
    flat = np.full((100, 100), 0.4, np.float32)
    dataset = crops_of([(flat, np.zeros((100, 100), np.int32))], strength, 96)
    spread = [float(crop.std()) for crop, _ in draws(dataset, 0, 60)]
    assert 0.6 * NOISE[strength] <= max(spread) <= 1.05 * NOISE[strength] + 1e-6
    assert min(spread) < 1e-6


@pytest.mark.parametrize("strength", STRENGTHS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_image_and_labels_move_together(strength: str, seed: int) -> None:
    dataset = crops_of([one_disc(30)], strength, 128, seed)
    for crop, cells in draws(dataset, len(dataset) - 1):
        smooth = median_filter(crop, 3)
        middle = (np.median(crop[cells > 0]) + np.median(crop[cells == 0])) / 2
        bright = smooth > middle
        assert (bright & (cells > 0)).sum() / (bright | (cells > 0)).sum() > 0.95


@pytest.mark.parametrize("strength", STRENGTHS)
def test_crops_keep_the_range_of_normalised_images_and_large_labels(strength: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice([0, 7, 70_000], (8, 8)), np.ones((16, 16))).astype(np.int32)
    image = rng.uniform(-0.5, 1.5, (128, 128)).astype(np.float32)
    for crop, cells in draws(crops_of([(image, labels)], strength, 64), 0, 30):
        assert crop.dtype == np.float32
        assert crop.shape == cells.shape == (64, 64)
        assert -0.5 <= crop.min() < crop.max() <= 1.5
        assert cells.min() >= 0
        assert {7, 70_000} <= set(np.unique(cells))


def test_none_and_light_are_exact() -> None:
    image, labels = many_cells((64, 64), 0)
    turned = [np.rot90(a, k) for a in (np.arange(64 * 64).reshape(64, 64),) for k in range(4)]
    places = [t for turn in turned for t in (turn, turn[:, ::-1])]
    seen = set()
    for crop, cells in draws(crops_of([(image, labels)], "light", 64), 0, 100):
        same = [
            number
            for number, place in enumerate(places)
            if np.array_equal(image.ravel()[place], crop)
            and np.array_equal(labels.ravel()[place], cells)
        ]
        assert len(same) == 1
        seen.update(same)
    assert len(seen) == 8
    for crop, cells in draws(crops_of([(image, labels)], "none", 64), 0, 3):
        np.testing.assert_array_equal(crop, image)
        np.testing.assert_array_equal(cells, labels)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_crop_depends_on_seed_epoch_and_its_number_only(strength: str) -> None:
    pair = many_cells((150, 150), 3)
    before = pair[0].copy(), pair[1].copy()
    one, other = crops_of([pair], strength, 64), crops_of([pair], strength, 64)
    for dataset in (one, other):
        dataset.start_epoch(7)
    forwards = [one[i] for i in range(len(one))]
    backwards = [other[i] for i in reversed(range(len(other)))][::-1]
    for (x, a), (y, b) in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(pair[0], before[0])  # what is kept in memory is not changed
    np.testing.assert_array_equal(pair[1], before[1])
    if strength != "none":
        one.start_epoch(8)
        again = [one[i][0] for i in range(len(one))]
        assert any(not np.array_equal(x, y) for (x, _), y in zip(forwards, again, strict=True))


def test_images_smaller_than_a_crop_hold_no_cell_fused_with_its_mirror_image() -> None:
    labels = np.zeros((30, 20), np.int32)
    labels[0:8, 3:9] = 7  # at the upper edge
    labels[25:30, 15:20] = 2_000_000_000  # in a corner
    image = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    ((crop, cells),) = draws(crops_of([(image, labels)], "none", 64), 0)
    np.testing.assert_array_equal(crop > 0.5, cells > 0)  # mirrored cells are cells
    sizes = np.bincount(label(cells, background=0, connectivity=2).ravel())[1:]
    assert sizes.max() <= 48
    assert len(np.unique(cells)) - 1 == len(sizes) > 4
    assert (cells >= 0).all()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_stardists_own_model_sees_the_same_crops(strength: str, tiny_dataset: Path) -> None:
    from trainables.data.crop_positions import Cutter
    from trainables.stardist.training import Trial, standardise

    config = TrialConfig(
        task="stardist",
        architecture="StarDist",
        crop_size=64,
        batch_size=4,
        rays=8,
        grid=1,
        seed=3,
        augmentation=strength,
    )
    data = open_dataset(tiny_dataset)
    pairs = [data.load(item, config.normalization) for item in data.subset("train")]
    dataset = CropDataset(pairs, 64, lambda labels: labels, strength, config.seed)
    batches = EpochBatches(dataset, 4, config.seed)
    trial = Trial.__new__(Trial)  # its own beginning starts TensorFlow
    trial.config, trial.steps = config, batches.steps
    trial.cutter = Cutter(pairs, 64, strength, config.seed)
    dataset.start_epoch(2)
    batches.set_epoch(2)
    for indices, (x, (y, _)) in zip(batches, trial._batches(2), strict=True):
        for place, index in enumerate(indices):
            crop, cells = dataset[index]
            np.testing.assert_array_equal(x[place, ..., 0], standardise(crop[0].numpy(), config))
            np.testing.assert_array_equal(y[place, ..., 0] > 0, cells.numpy() > 0)


@pytest.mark.parametrize("strength", MOVING)
def test_cells_of_the_built_in_data_keep_their_shape(strength: str, tmp_path: Path) -> None:
    """Elongation of each cell before and after, over whole cells."""
    generate(tmp_path / "data", sequences=3, frames=1, seed=1, height=300, width=400)
    data = open_dataset(tmp_path / "data")
    image, labels = data.load(data.subset("train")[0], TrialConfig().normalization)
    before = {
        c.label: c.axis_major_length / c.axis_minor_length
        for c in regionprops(labels)
        if c.area > 100
    }
    dataset = crops_of([(image, labels)], strength, 128)
    compared = 0
    for index in range(len(dataset)):
        for _, cells in draws(dataset, index, 10):
            cut = set(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]))
            for cell in regionprops(cells):
                if cell.label in before and cell.label not in cut:
                    after = cell.axis_major_length / cell.axis_minor_length
                    assert abs(after / before[cell.label] - 1) < 0.1
                    compared += 1
    assert compared > 100
