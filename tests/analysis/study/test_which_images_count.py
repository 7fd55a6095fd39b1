"""Which images and parameters go into a figure, by hand: small bugs went unnoticed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

from analysis.evaluation.calibration import Calibration
from analysis.evaluation.prediction import OnePass
from analysis.evaluation.scores import METRICS, ImageScores, image_scores, pooled, unit_members
from analysis.evaluation.selection import select, unit_scores
from analysis.instances.methods import make_instances
from analysis.runfolder import Candidate, Run
from analysis.study.annotations import CellAnnotations
from analysis.study.study import StudyOptions, make_study
from analysis.study.trials import AnalysedTrial, Variant
from analysis.study.truth import measure_truth
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, index_dataset
from trainables.data.imagefiles import read_image
from trainables.data.normalization import normalize
from trainables.tiling import WHOLE, Inference

AP = METRICS.index("ap_mean")


def found(count: int, of: int = 10) -> ImageScores:
    """Score an image of which so many cells were found: their average precision is count / of."""
    truth = np.zeros((4, 4 * of), np.int32)
    for number in range(of):
        truth[1:3, 4 * number + 1 : 4 * number + 3] = number + 1
    return image_scores(truth, np.where(truth <= count, truth, 0), boundaries=False)


def test_methods_are_compared_by_the_mean_over_their_seeds() -> None:
    methods = {
        "one lucky seed": [[found(10), found(9)], [found(2), found(1)]],
        "two good seeds": [[found(7), found(7)], [found(6), found(6)]],
    }
    standing = select(unit_scores(methods, ["a", "b"]))
    assert standing["one lucky seed"].score == pytest.approx((0.95 + 0.15) / 2)
    assert standing["two good seeds"].score == pytest.approx(0.65)


def test_cells_of_all_images_are_counted_together() -> None:
    images = [found(1, of=2), found(9, of=10)]
    assert pooled(images)[AP] == pytest.approx(10 / 12)  # not the mean of .5 and .9


def test_the_score_of_a_unit_is_that_of_its_images() -> None:
    images = [found(count) for count in (10, 2, 6, 4)]
    names, members = unit_members(["b", "a", "b", "a"])
    assert names.tolist() == ["a", "b"]
    assert pooled(images, members)[:, AP] == pytest.approx([0.3, 0.8])
    one = select(unit_scores({"method": [images]}, ["b", "a", "b", "a"]))["method"]
    assert one.units == 2
    assert (one.lowest, one.highest) == pytest.approx((0.3, 0.8))


class Network:
    """Predicts what it sees: brightness is probability."""

    config = TrialConfig(architecture="Unet", encoder="resnet18")
    inference = WHOLE

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    def normalize(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        return normalize(image, self.config.normalization)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        return normalized[None]

    def close(self) -> None:
        pass


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """Images whose cells differ in brightness, so that every threshold finds others."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(5):
        labels = np.zeros((64, 64 + 8 * number), np.uint16)
        image = rng.normal(1000, 20, labels.shape)
        for label, (y, x) in enumerate([(5, 5), (5, 35), (35, 5), (35, 35)], 1):
            labels[y : y + 15, x : x + 15] = label
            image[labels == label] += 300 * label
        tifffile.imwrite(tmp_path / "images" / f"i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(tmp_path / "masks" / f"i{number}.tif", labels)
    split = {"train": ["i0"], "val": ["i1", "i2"], "test": ["i3", "i4"]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"split": split}))
    return index_dataset(tmp_path)


def at(threshold: float) -> dict[str, float]:
    return {"threshold": threshold, "seed_depth": 0.5, "min_size": 20, "smoothing": 0.0}


def no_run(out: Path) -> Run:
    """Give a run folder without trials, for what asks for images only."""
    return Run(out, {}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})


def test_every_image_is_scored_with_the_parameters_that_it_had_no_part_in(
    dataset: DataSet, tmp_path: Path
) -> None:
    calibration = Calibration(
        default=at(0.1),
        calibrated=at(0.35),
        default_score=0,
        score=0,
        budget=1,
        images=["i1", "i2"],
        held_out={"i1": at(0.6), "i2": at(0.85)},
        at_bound=[],
        ranges={},
        untuned=at(0.1),
    )
    expected = {
        ("val", "default"): [0.1, 0.1],
        ("val", "calibrated"): [0.6, 0.85],
        ("test", "default"): [0.1, 0.1],
        ("test", "calibrated"): [0.35, 0.35],
    }
    variants = [Variant("m", "default"), Variant("m", "calibrated")]
    study = make_study(
        no_run(tmp_path),
        dataset,
        None,
        CellAnnotations(dataset),
        StudyOptions(convention="skimage"),
    )
    candidate = Candidate("m", Network.config, ("t",), 0.5)
    trial = AnalysedTrial(candidate, "t", calibration, variants)
    trial.see_images(study, OnePass(Network(), study.images), measure_truth(study, lambda: None))
    for split, measured in (("val", trial.validation), ("test", trial.measured)):
        items = dataset.subset(split)
        assert measured.images == list(dataset.split[split])
        for variant in variants:
            hand = []
            for item, threshold in zip(items, expected[split, variant.parameters]):
                labels = tifffile.imread(item.mask).astype(np.int32)
                maps = normalize(read_image(item.image), Network.config.normalization)[None]
                instances = make_instances(Network.config, maps, at(threshold), labels.shape)
                hand.append(image_scores(labels, instances))
            counts = [one.predicted_objects for one in measured.scores[variant]]
            assert counts == [one.predicted_objects for one in hand]
            for one, other in zip(measured.scores[variant], hand):
                np.testing.assert_allclose(one.above, other.above)
            if (split, variant.parameters) == ("val", "calibrated"):
                assert counts[0] != counts[1], "the two thresholds find the same"
    # what is measured is what was calibrated
    rows = sum(len(table) for table in trial.objects)
    assert rows == sum(one.predicted_objects for one in trial.measured.scores[variants[1]])
