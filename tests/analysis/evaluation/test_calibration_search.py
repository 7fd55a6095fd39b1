"""How the search spends its budget, what it leaves out, and what is stored of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

from analysis.evaluation.calibration import (
    CALIBRATION,
    FORMAT,
    MOST_IMAGES,
    Calibration,
    calibrate_checkpoint,
    calibration_images,
    read_calibration,
)
from analysis.evaluation.images import LabelledImages
from analysis.evaluation.prediction import OnePass
from analysis.evaluation.scores import METRICS, ImageScores, image_scores, pooled
from analysis.evaluation.search import (
    Scorer,
    Tried,
    at_bound,
    best_parameters,
    cross_fitted,
    limits,
    search,
)
from analysis.instances.methods import WAYS, default_parameters
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, Item, index_dataset
from trainables.data.normalization import normalize
from trainables.tiling import WHOLE, Inference

TWO = TrialConfig(architecture="Unet", encoder="resnet18")
STAR = TrialConfig(architecture="Unet", encoder="resnet18", task="stardist", grid=1, rays=8)
TRUTH = np.zeros((24, 32), np.int32)
TRUTH[2:12, 2:12], TRUTH[2:12, 18:28] = 1, 2
SEEN = np.where(TRUTH > 0, 0.8, 0.1)[None].astype(np.float32)


def tries(budget: int, seed: int = 0) -> list[Tried]:
    return search(
        Scorer(TWO, [(SEEN, TRUTH)]), default_parameters(TWO, {}), budget=budget, seed=seed
    )


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 16])
def test_as_many_sets_are_tried_as_the_budget_allows(budget: int) -> None:
    found = tries(budget)
    assert len(found) == budget
    assert found[0][0] == default_parameters(TWO, {})
    for parameters, scores in found:
        assert list(parameters) == list(WAYS["semantic2"].ranges)
        assert len(scores) == 1


def test_the_first_half_steps_through_every_range_from_the_best_so_far() -> None:
    found = tries(16)
    ends = limits(TWO, [(SEEN, TRUTH)])
    for number, (name, one) in enumerate(WAYS["semantic2"].ranges.items()):
        best = best_parameters(found[: 1 + 2 * number])
        low, high = (one.stretch(end) for end in ends[name])
        for step, (parameters, _) in enumerate(found[1 + 2 * number : 3 + 2 * number], 1):
            place = low + (high - low) * step / 3
            value = one.shrink(int(place) if one.whole else place)
            assert parameters[name] == pytest.approx(value, rel=1e-6), (name, step)
            others = {key: value for key, value in parameters.items() if key != name}
            assert others == pytest.approx({k: best[k] for k in others}, abs=1e-3)
    last = [parameters for parameters, _ in found[9:]]
    assert len({tuple(one.values()) for one in last}) == 7, "the estimator draws others"


def test_a_parameter_of_whole_numbers_stays_whole() -> None:
    assert all(one["min_size"] == int(one["min_size"]) for one, _ in tries(20))


def test_draws_follow_the_seed() -> None:
    first, again, other = tries(12), tries(12), tries(12, seed=1)
    assert [p for p, _ in first] == [p for p, _ in again]
    assert [p for p, _ in first][:9] == [p for p, _ in other][:9]
    assert [p for p, _ in first][9:] != [p for p, _ in other][9:]


def test_a_default_beyond_its_range_is_tried_as_it_is() -> None:
    default = {"threshold": 0.999999, "seed_depth": 0.001, "min_size": 10**6, "smoothing": 0.0}
    found = search(Scorer(TWO, [(SEEN, TRUTH)]), default, budget=16)
    assert found[0][0] == default
    assert found[0][1][0].predicted_objects == 0
    assert max(scores[0].predicted_objects for _, scores in found) == 2


def stars(background: float) -> NDArray[np.float32]:
    """Return maps of a star at 0.9 in this share of the background's pixels, and none in cells."""
    empty = np.flatnonzero(TRUTH == 0)
    prob = np.zeros(TRUTH.size, np.float32)
    prob[empty[: round(background * len(empty))]] = 0.9
    return np.concatenate([prob.reshape(1, *TRUTH.shape), np.full((8, *TRUTH.shape), 3.0)]).astype(
        np.float32
    )


@pytest.mark.parametrize(("share", "tried"), [(0.49, True), (0.5, True), (0.51, False)])
def test_stars_in_most_of_the_background_are_not_worth_the_time(share: float, tried: bool) -> None:
    default = default_parameters(STAR, {})
    (_, (score,)), *_ = search(Scorer(STAR, [(stars(share), TRUTH)]), default, budget=1)
    assert (score.predicted_objects > 0) == tried
    assert score.true_objects == 2


def test_the_background_of_all_images_counts_together() -> None:
    default = default_parameters(STAR, {})
    known = [(stars(0.8), TRUTH), (stars(0.1), TRUTH)]
    (_, scores), *_ = search(Scorer(STAR, known), default, budget=1)
    assert [score.predicted_objects > 0 for score in scores] == [True, True]
    known = [(stars(0.9), TRUTH), (stars(0.2), TRUTH)]
    (_, scores), *_ = search(Scorer(STAR, known), default, budget=1)
    assert [score.predicted_objects for score in scores] == [0, 0]


def test_typical_and_small_cells_are_those_of_all_images() -> None:
    large = np.zeros((200, 200), np.int32)
    large[:150, :150] = 1
    small = np.zeros((40, 40), np.int32)
    small[:2, :2], small[5:9, 5:9] = 1, 2
    ends = limits(TWO, [(SEEN, large), (SEEN, small)])
    assert ends["seed_depth"][1] == 6
    # the first percentile of 4, 16 and 22,500: 4.24
    assert ends["min_size"] == (0, 4)
    with pytest.raises(ValueError, match="cannot calibrate: no validation image contains a cell"):
        limits(TWO, [])


def score(found: float) -> ImageScores:
    """Score an image of ten cells of which so many were found, and nothing else."""
    n = len(METRICS) - 1
    return ImageScores(np.full(n, found), np.full(n, 10.0), 10, int(found))


def test_of_equals_the_first_is_best() -> None:
    tried: list[Tried] = [
        ({"p": 0.0}, [score(5), score(1)]),
        ({"p": 1.0}, [score(5), score(2)]),
        ({"p": 2.0}, [score(4), score(3)]),
    ]
    assert best_parameters(tried) == {"p": 1.0}
    chosen = best_parameters(tried)
    chosen["p"] = 9.0
    assert tried[1][0] == {"p": 1.0}, "a copy"
    nothing = [({"p": 0.0}, [score(0)]), ({"p": 1.0}, [replace_below(score(0))])]
    assert best_parameters(nothing) == {"p": 0.0}


def replace_below(one: ImageScores) -> ImageScores:
    """Score an image in which nothing was to be found and nothing was: not known."""
    return replace(one, below=np.zeros_like(one.below))


def test_nothing_known_is_worth_nothing() -> None:
    tried: list[Tried] = [({"p": 0.0}, [replace_below(score(0))]), ({"p": 1.0}, [score(1)])]
    assert best_parameters(tried) == {"p": 1.0}


def test_which_end_of_a_range_counts_as_its_end() -> None:
    ends = limits(TWO, [(SEEN, TRUTH)])
    low, high = ends["seed_depth"]
    middle = default_parameters(TWO, {}) | {"seed_depth": 1.0}
    place = {
        share: math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        for share in (0.0, 0.009, 0.011, 0.989, 0.991, 1.0)
    }
    named = {
        share: at_bound(TWO, middle | {"seed_depth": value}, ends) == ["seed_depth"]
        for share, value in place.items()
    }
    assert named == {0.0: True, 0.009: True, 0.011: False, 0.989: False, 0.991: True, 1.0: True}
    both = middle | {"threshold": 0.01, "smoothing": ends["smoothing"][1]}
    assert at_bound(TWO, both, ends) == ["threshold", "smoothing"]


class Network:
    """Predicts brightness."""

    config = TWO
    inference = WHOLE

    def __init__(self, sha256: str = "abc") -> None:
        self.calls, self.info = 0, {"weights": {"sha256": sha256}}

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        return normalize(image, self.config.normalization)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        self.calls += 1
        return normalized[None]

    def close(self) -> None:
        pass


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        image = 1000 + 2000 * (TRUTH > 0) + rng.integers(0, 50, TRUTH.shape)
        tifffile.imwrite(root / "images" / f"t{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"t{number}.tif", TRUTH.astype(np.uint16))
    groups = {"t1": "a", "t2": "b", "t3": "b"}
    split = {"train": ["t0"], "val": ["a", "b"], "test": ["t4"]}
    (root / "dataset.yaml").write_text(yaml.safe_dump({"split": split, "groups": groups}))
    return index_dataset(root)


def calibrate(
    folder: Path, dataset: DataSet, network: Network | None = None, **options: Any
) -> tuple[Calibration, int]:
    """Calibrate; return how often the network was asked, too."""
    network = network or Network()
    one_pass = OnePass(network, LabelledImages(), flips=options.pop("flips", False))
    found = calibrate_checkpoint(folder, one_pass, dataset, **{"budget": 6, **options})
    return found, network.calls


def test_everything_that_is_stored(dataset: DataSet, tmp_path: Path) -> None:
    found, calls = calibrate(tmp_path, dataset, seed=3)
    assert calls == 3
    content = json.loads((tmp_path / CALIBRATION).read_text())
    known = [
        (normalize(tifffile.imread(item.image), TWO.normalization)[None], TRUTH)
        for item in dataset.subset("val")
    ]
    scorer, default = Scorer(TWO, known), default_parameters(TWO, {})
    tried = search(scorer, default, budget=6, seed=3)
    values = [float(pooled(scores)[METRICS.index("ap_mean")]) for _, scores in tried]
    best = best_parameters(tried)
    assert content == {
        "format": FORMAT,
        "weights": "abc",
        "data": dataset.fingerprint,
        "images": ["t1", "t2", "t3"],
        "budget": 6,
        "seed": 3,
        "flips": False,
        "inference": {"tile": None, "most_pixels": WHOLE.most_pixels},
        "way": "2-class + watershed",
        "objective": "mean over IoU 0.5 to 0.9 of TP / (TP + FP + FN), validation images",
        "default": default_parameters(TWO, {}),
        "calibrated": best,
        "held_out": cross_fitted(scorer, default, ["a", "b", "b"], budget=6, seed=3),
        "at_bound": at_bound(TWO, best, limits(TWO, known)),
        "ranges": {name: list(pair) for name, pair in limits(TWO, known).items()},
        "untuned": default,
        "given_back": None,
        "default_score": values[0],
        "score": max(values),
    }
    assert read_calibration(tmp_path) == content
    assert found == Calibration(
        default=content["default"],
        calibrated=best,
        default_score=values[0],
        score=max(values),
        budget=6,
        images=["t1", "t2", "t3"],
        held_out=content["held_out"],
        at_bound=content["at_bound"],
        ranges=content["ranges"],
        untuned=default,
    )
    assert set(found.held_out) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", FORMAT - 1),
        ("weights", "def"),
        ("data", "other"),
        ("images", ["t1", "t2"]),
        ("budget", 7),
        ("seed", 1),
        ("flips", True),
        ("inference", {"tile": 224, "most_pixels": 0}),
    ],
)
def test_what_was_calibrated_otherwise_is_calibrated_again(
    dataset: DataSet, tmp_path: Path, name: str, value: Any
) -> None:
    first, _ = calibrate(tmp_path, dataset)
    assert calibrate(tmp_path, dataset) == (first, 0), "nothing has changed"
    content = json.loads((tmp_path / CALIBRATION).read_text())
    assert content[name] != value
    (tmp_path / CALIBRATION).write_text(json.dumps({**content, name: value, "calibrated": {}}))
    assert calibrate(tmp_path, dataset) == (first, 3)
    assert json.loads((tmp_path / CALIBRATION).read_text()) == content


def test_other_requests_are_no_answer_to_this_one(dataset: DataSet, tmp_path: Path) -> None:
    calibrate(tmp_path, dataset)
    for options in ({"seed": 1}, {"budget": 5}, {"flips": True}):
        assert calibrate(tmp_path, dataset, **options)[1] > 0
        stored = json.loads((tmp_path / CALIBRATION).read_text())
        assert {name: stored[name] for name in options} == options
    assert calibrate(tmp_path, dataset, Network("def"), flips=True)[1] == 12


@pytest.mark.parametrize("content", ["{", "[]", "3", "null", "{}", '{"format": 5}'])
def test_a_file_that_is_no_calibration(tmp_path: Path, content: str) -> None:
    assert read_calibration(tmp_path) is None
    (tmp_path / CALIBRATION).write_text(content)
    assert read_calibration(tmp_path) is None


@pytest.mark.parametrize("number", [1, 2, 3, FORMAT])
def test_calibrations_of_all_formats_are_read(tmp_path: Path, number: int) -> None:
    (tmp_path / CALIBRATION).write_text(json.dumps({"format": number, "x": "µ"}))
    assert read_calibration(tmp_path) == {"format": number, "x": "µ"}


@pytest.mark.parametrize("count", [1, MOST_IMAGES, MOST_IMAGES + 1, 39, 101])
def test_images_to_calibrate_with_are_spread_evenly(count: int) -> None:
    stems = tuple(f"v{k}" for k in range(count))
    items = tuple(Item(stem, Path(stem), Path(stem), stem) for stem in ("t", *stems))
    data = DataSet(Path(), items, {"train": ("t",), "val": stems, "test": ()}, None, "")
    chosen = [int(item.stem[1:]) for item in calibration_images(data)]
    assert len(chosen) == len(set(chosen)) == min(count, 20)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    steps = np.diff(chosen)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_scores_are_of_the_labels_as_they_are() -> None:
    (_, (first,)), *_ = tries(1)
    whole = image_scores(TRUTH, TRUTH, boundaries=False)
    np.testing.assert_array_equal(first.above, whole.above)
    np.testing.assert_array_equal(first.below, whole.below)
