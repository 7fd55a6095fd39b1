"""Parameters are chosen on validation images, with one budget for all, and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from analysis.evaluation.calibration import (
    CALIBRATION,
    FORMAT,
    Calibration,
    calibrate_checkpoint,
    calibration_images,
    read_calibration,
)
from analysis.evaluation.images import LabelledImages
from analysis.evaluation.prediction import OnePass
from analysis.evaluation.scores import METRICS, pooled
from analysis.evaluation.search import (
    MOST_FOLDS,
    Known,
    Scorer,
    Tried,
    best_parameters,
    cross_fitted,
    search,
)
from analysis.instances.methods import WAYS, default_parameters, make_instances, way_of
from analysis.instances.way import Parameters
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, index_dataset
from trainables.data.normalization import normalize
from trainables.labels import semantic3_target
from trainables.starconvex import star_targets
from trainables.tiling import WHOLE, Inference

TWO = TrialConfig(architecture="Unet", encoder="resnet18")
THREE = TrialConfig(architecture="Unet", encoder="resnet18", task="semantic3")
STAR = TrialConfig(architecture="Unet", encoder="resnet18", task="stardist", grid=1)


def cells(seed: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:90, :120]
    labels = np.zeros((90, 120), np.int32)
    for number, (y, x) in enumerate([(20, 20), (20, 44), (60, 30), (60, 80), (25, 90)], 1):
        labels[np.hypot(yy - y - rng.uniform(), xx - x - rng.uniform()) <= 12] = number
    return labels


def blurred(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """A network that sees too much: half of the true probability, and speckles."""
    rng = np.random.default_rng(int(labels.sum()))
    probability = 0.6 * ndimage.gaussian_filter((labels > 0).astype(np.float32), 1.5)
    probability += 0.35 * (rng.random(labels.shape) < 0.02)
    seen: NDArray[np.float32] = np.clip(probability, 0, 1)[None].astype(np.float32)
    return seen


def mean_ap(tried: Tried) -> float:
    return float(pooled(tried[1])[METRICS.index("ap_mean")])


def calibrate(
    config: TrialConfig, known: Sequence[Known], default: Parameters, **options: Any
) -> tuple[dict[str, float], float, float]:
    tried = search(Scorer(config, known), default, **options)
    return best_parameters(tried), max(map(mean_ap, tried)), mean_ap(tried[0])


def test_calibration_finds_what_the_defaults_miss() -> None:
    known = [(blurred(cells(s)), cells(s)) for s in range(3)]
    default = default_parameters(TWO, {})
    best, score, before = calibrate(TWO, known, default, budget=30)
    assert score > before + 0.1
    assert best["threshold"] < 0.5
    again = calibrate(TWO, known, default, budget=30)
    assert again == (best, score, before), "the same seed gives the same parameters"


def test_defaults_are_kept_where_nothing_is_better() -> None:
    known = [((cells(0) > 0)[None].astype(np.float32), cells(0))]
    default = {"threshold": 0.5, "seed_depth": 0.5, "min_size": 20, "smoothing": 0.0}
    best, score, before = calibrate(TWO, known, default, budget=8)
    assert best == default or score > before
    one = calibrate(TWO, known, default, budget=1)
    assert one == (default, before, before)


@pytest.mark.parametrize("config", [TWO, THREE, STAR])
def test_every_way_can_be_calibrated(config: TrialConfig) -> None:
    labels = cells(1)
    if config is THREE:
        target = semantic3_target(labels)
        maps = np.stack([target == c for c in range(3)]).astype(np.float32)
    elif config is STAR:
        maps = star_targets(labels, config.rays)
    else:
        maps = blurred(labels)
    default = default_parameters(config, {})
    best, score, _ = calibrate(config, [(maps, labels)], default, budget=30)
    assert set(best) == set(default) == set(WAYS[config.task].ranges)
    assert score > 0.6
    assert make_instances(config, maps, best, labels.shape).max() == 5
    assert way_of(config) in ("2-class + watershed", "3-class", "star-convex head")


def test_of_a_group_nothing_is_seen_by_the_search_that_scores_it() -> None:
    """Its parameters stay the same, whatever its images and its truth are."""
    known = [(blurred(cells(s)), cells(s)) for s in range(3)]
    unseen, default = default_parameters(TWO, {}), default_parameters(TWO, {})
    groups = ["a", "b", "b"]
    first = cross_fitted(Scorer(TWO, known), default, groups, budget=12)
    assert list(first) == ["a", "b"]
    rng = np.random.default_rng(0)
    for left_out in (0, 1):
        for noise in (0.1, 0.9):
            changed = list(known)
            for n, group in enumerate(groups):
                if group == "ab"[left_out]:
                    truth = np.zeros_like(known[n][1])
                    truth[5:80, 5:100] = 1  # one cell, so large that all limits would move
                    changed[n] = (rng.random(known[n][0].shape, np.float32) * noise, truth)
            found = cross_fitted(Scorer(TWO, changed), default, groups, budget=12)
            assert found["ab"[left_out]] == first["ab"[left_out]]
            assert found["ba"[left_out]] != first["ba"[left_out]]
    alone = best_parameters(search(Scorer(TWO, known), unseen, images=[1, 2], budget=12))
    assert first["a"] == alone
    assert cross_fitted(Scorer(TWO, known), default, ["a"] * 3, budget=12) == {}


def test_many_groups_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = cells(0)
    scorer = Scorer(TWO, [(blurred(labels), labels)] * 12)
    groups = [f"g{n}" for n in range(12)]
    asked: list[list[int]] = []
    real = scorer.scores

    def scores(parameters: Any, images: Any) -> Any:
        asked.append(list(images))
        return real(parameters, images)

    monkeypatch.setattr(scorer, "scores", scores)
    found = cross_fitted(scorer, default_parameters(TWO, {}), groups, budget=1)
    assert list(found) == groups
    assert len(asked) == MOST_FOLDS == 5
    for number in range(12):
        (without,) = (images for images in asked if number not in images)
        assert len(without) in (9, 10)


def test_groups_without_any_cell_choose_nothing() -> None:
    labels = cells(0)
    empty = np.zeros_like(labels)
    known = [(blurred(labels), labels), (blurred(labels), empty)]
    default = default_parameters(TWO, {}) | {"threshold": 0.99}  # finds nothing
    found = cross_fitted(Scorer(TWO, known), default, ["a", "b"], budget=16)
    assert found["a"] == default, "in b there is nothing to learn from"
    alone = search(Scorer(TWO, known[:1]), default, budget=16)
    assert found["b"] == best_parameters(alone) != default


def test_a_gap_that_is_given_back_is_searched_for_itself(dataset: DataSet, tmp_path: Path) -> None:
    one_pass = OnePass(Network(INFO), LabelledImages())
    both = calibrate_checkpoint(tmp_path, one_pass, dataset, budget=6, both_gaps=True)
    content = json.loads((tmp_path / CALIBRATION).read_text())
    known = [
        (
            normalize(tifffile.imread(item.image), TWO.normalization)[None],
            tifffile.imread(item.mask),
        )
        for item in dataset.subset("val")
    ]
    known = [(maps, truth.astype(np.int32)) for maps, truth in known]
    default = default_parameters(TWO, {})
    cells_found = []
    for gap in (False, True):
        scorer = Scorer(TWO, known, give_back_gap=gap)
        tried = search(scorer, default, budget=6)
        stored = content["given_back"] if gap else content
        assert stored["calibrated"] == best_parameters(tried) == both.of(gap).calibrated
        assert stored["score"] == max(map(mean_ap, tried))
        assert stored["held_out"] == cross_fitted(scorer, default, ["t2", "t3"], budget=6)
        assert len(tried) == 6
        cells_found.append(np.concatenate([one.above for _, scores in tried for one in scores]))
    assert (cells_found[0] != cells_found[1]).any(), "the line belongs to the cells"
    # kept: both where both are asked for, and the own way alone is enough where it is not
    calls = Network(INFO)
    again = OnePass(calls, LabelledImages())
    assert calibrate_checkpoint(tmp_path, again, dataset, budget=6, both_gaps=True) == both
    assert calibrate_checkpoint(tmp_path, again, dataset, budget=6) == both
    assert calls.calls == 0
    own = calibrate_checkpoint(tmp_path, again, dataset, budget=7)
    assert own.given_back is None
    with pytest.raises(ValueError, match="was not calibrated"):
        own.of(True)
    more = calibrate_checkpoint(tmp_path, again, dataset, budget=7, both_gaps=True)
    assert (more.calibrated, more.held_out) == (own.calibrated, own.held_out)
    assert more.of(True).budget == 7


def test_what_a_trial_has_chosen_itself_starts_no_search_that_holds_out(tmp_path: Path) -> None:
    """Its own thresholds were chosen on all validation images."""
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        labels = cells(number)
        tifffile.imwrite(root / "images" / f"t{number}.tif", (1000 + labels).astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"t{number}.tif", labels.astype(np.uint16))
    split = {"train": ["t0"], "val": ["t1", "t2"], "test": ["t3"]}
    (root / "dataset.yaml").write_text(yaml.safe_dump({"split": split}))

    class Stars(Network):
        config = STAR

        def maps(
            self, normalized: NDArray[np.float32], inference: Inference | None = None
        ) -> NDArray[np.float32]:
            return star_targets(cells(1), STAR.rays)

    chosen = INFO | {"task": {"thresholds": {"prob": 0.123, "nms": 0.321}}}
    found = calibrated(tmp_path, Stars(chosen), index_dataset(root), 1)
    assert found.calibrated["prob_threshold"] == found.default["prob_threshold"] == 0.123
    for parameters in found.held_out.values():
        assert (parameters["prob_threshold"], parameters["nms_threshold"]) == (0.5, 0.4)


def test_stored_thresholds_are_a_star_convex_trials_defaults() -> None:
    info = {"task": {"thresholds": {"prob": 0.35, "nms": 0.3}}}
    found = default_parameters(STAR, info)
    assert found["prob_threshold"] == 0.35
    assert found["nms_threshold"] == 0.3


def test_no_cells_cannot_be_calibrated_with() -> None:
    nothing = np.zeros((20, 20), np.int32)
    with pytest.raises(ValueError, match="no validation image contains a cell"):
        calibrate(TWO, [(np.zeros((1, 20, 20), np.float32), nothing)], {}, budget=2)


class Network:
    """Knows the images of one data set by their first pixel."""

    config = TWO
    inference = WHOLE

    def __init__(self, info: dict[str, Any]) -> None:
        self.calls, self.info = 0, info

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
    for number in range(6):
        labels = cells(number)
        image = (1000 + 20000 * blurred(labels)[0]).astype(np.uint16)
        tifffile.imwrite(root / "images" / f"t{number}.tif", image)
        tifffile.imwrite(root / "masks" / f"t{number}.tif", labels.astype(np.uint16))
    split = {"train": ["t0", "t1"], "val": ["t2", "t3"], "test": ["t4", "t5"]}
    (root / "dataset.yaml").write_text(yaml.safe_dump({"split": split}))
    return index_dataset(root)


INFO: dict[str, Any] = {"weights": {"sha256": "abc"}}


def calibrated(folder: Path, network: Network, dataset: DataSet, budget: int) -> Calibration:
    one_pass = OnePass(network, LabelledImages())
    return calibrate_checkpoint(folder, one_pass, dataset, budget=budget)


def test_the_test_split_is_never_read(dataset: DataSet, tmp_path: Path) -> None:
    for stem in (*dataset.split["test"], *dataset.split["train"]):
        for name in ("images", "masks"):
            (dataset.root / name / f"{stem}.tif").unlink()
    found = calibrated(tmp_path, Network(INFO), dataset, 4)
    assert found.images == ["t2", "t3"]


def test_a_calibration_is_stored_beside_the_weights_and_used_again(
    dataset: DataSet, tmp_path: Path
) -> None:
    network = Network(INFO)
    first = calibrated(tmp_path, network, dataset, 4)
    content = json.loads((tmp_path / CALIBRATION).read_text())
    assert content["calibrated"] == first.calibrated
    assert set(content["held_out"]) == {"t2", "t3"}
    assert first.for_validation("t2") == content["held_out"]["t2"]
    assert first.for_validation("elsewhere") == first.calibrated
    assert content["at_bound"] == first.at_bound
    assert content["budget"] == 4
    assert content["data"] == dataset.fingerprint
    calls = network.calls
    assert calibrated(tmp_path, network, dataset, 4) == first
    assert network.calls == calls
    more = calibrated(tmp_path, network, dataset, 6)
    assert more.score >= first.score
    other = Network({"weights": {"sha256": "def"}})
    calibrated(tmp_path, other, dataset, 6)
    assert other.calls > 0, "weights have changed"
    (tmp_path / CALIBRATION).write_text("{broken")
    assert read_calibration(tmp_path) is None
    assert calibrated(tmp_path, network, dataset, 4) == first


def test_a_calibration_of_the_narrow_search_is_made_again(dataset: DataSet, tmp_path: Path) -> None:
    network = Network(INFO)
    new = calibrated(tmp_path, network, dataset, 4)
    content = json.loads((tmp_path / CALIBRATION).read_text())
    old = {k: v for k, v in content.items() if k != "at_bound"} | {"format": 1, "calibrated": {}}
    (tmp_path / CALIBRATION).write_text(json.dumps(old))
    assert read_calibration(tmp_path) == old, "still good enough to segment with"
    assert calibrated(tmp_path, network, dataset, 4) == new
    assert json.loads((tmp_path / CALIBRATION).read_text()) == content
    (tmp_path / CALIBRATION).write_text(json.dumps(content | {"format": FORMAT + 1}))
    assert read_calibration(tmp_path) is None


def test_an_end_at_a_bound_is_stored(dataset: DataSet, tmp_path: Path) -> None:
    class Blind(Network):
        config = STAR

        def maps(
            self, normalized: NDArray[np.float32], inference: Inference | None = None
        ) -> NDArray[np.float32]:
            return np.zeros((1 + STAR.rays, *normalized.shape), np.float32)

    info = INFO | {"task": {"thresholds": {"prob": 0.9999, "nms": 0.4}}}
    found = calibrated(tmp_path, Blind(info), dataset, 3)
    assert found.calibrated["prob_threshold"] == 0.9999, "nothing is better"
    assert found.at_bound == ["prob_threshold"]
    assert json.loads((tmp_path / CALIBRATION).read_text())["at_bound"] == found.at_bound


def test_many_validation_images_are_thinned_evenly(dataset: DataSet) -> None:
    many = [f"v{k}" for k in range(101)]
    item = dataset.subset("val")[0]
    items = tuple(type(item)(stem, item.image, item.mask, stem) for stem in many)
    large = DataSet(
        root=dataset.root,
        items=items,
        split={"train": (), "val": tuple(many), "test": ()},
        pixel_size_um=None,
        fingerprint="",
    )
    chosen = [i.stem for i in calibration_images(large)]
    assert len(chosen) == 20
    assert chosen[0] == "v0"
    assert chosen[-1] == "v100"
