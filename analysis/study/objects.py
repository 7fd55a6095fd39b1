"""One checkpoint on many images: instances, scores and object tables, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.calibration import Calibration
from analysis.evaluation.prediction import MapPredictor, predict_maps
from analysis.evaluation.scores import ImageScores, image_scores, match
from analysis.evidence import TRUTH
from analysis.instances.methods import make_instances
from analysis.morphology.features import measure
from trainables.data.dataset import DataError, DataSet, Item
from trainables.data.imagefiles import read_image, read_labels
from trainables.data.knowncells import read_objects

KEYS = (
    "trial_id",
    "method",
    "image",
    "group",
    "split",
    "label",
    "matched_label",
    "iou",
    "track",
    "population",
)
"""Columns of the object table before those of `analysis.morphology.measure`."""
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Variant:
    """One way of turning a trial's maps into instances that is scored."""

    method: str
    parameters: str
    """'default' or 'calibrated'."""
    give_back_gap: bool = False


@dataclass
class Measured:
    """What a trial gave on some images."""

    images: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    scores: dict[Variant, list[ImageScores]] = field(default_factory=dict)
    objects: list[pd.DataFrame] = field(default_factory=list)
    labels: dict[str, dict[str, Labels]] = field(default_factory=dict)
    """Of the images that were to be kept: image, then method."""


def measure_trial(
    trial_id: str,
    predictor: MapPredictor,
    calibration: Calibration,
    variants: Sequence[Variant],
    items: Sequence[Item],
    *,
    split: str,
    known: KnownCells,
    convention: str,
    pixel_size_um: float | None,
    flips: bool = False,
    objects: bool = True,
    keep: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """Predict images one after the other, score them, and measure every instance.

    Parameters
    ----------
    trial_id : str
    predictor : MapPredictor
    calibration : Calibration
    variants : sequence of Variant
        Those of 'calibrated' parameters are measured, if `objects` says so.
    items : sequence of Item
        Images; one at a time is in memory.
    split : str
        Their split, for the object table. Images of ``val`` get the calibrated parameters that
        were chosen without their group.
    known : KnownCells
        Tracks and populations of the true cells.
    convention, pixel_size_um
        As for `analysis.morphology.measure`.
    flips : bool
        As for `analysis.evaluation.prediction.predict_maps`.
    objects : bool
        Whether to make the object table.
    keep : sequence of str
        Stems whose label images are kept.
    tick : callable
        Called after every image.

    Returns
    -------
    Measured
    """
    result = Measured(scores={variant: [] for variant in variants})
    for item in items:
        image, truth = read_image(item.image), read_labels(item.mask).labels
        maps = predict_maps(predictor, image, flips=flips)
        result.images.append(item.stem)
        result.groups.append(item.group)
        for variant in variants:
            calibrated = variant.parameters == "calibrated"
            parameters = calibration.calibrated if calibrated else calibration.default
            if calibrated and split == "val":
                parameters = calibration.for_validation(item.group)
            labels = make_instances(
                predictor.config,
                maps,
                parameters,
                truth.shape,
                give_back_gap=variant.give_back_gap,
            )
            result.scores[variant].append(image_scores(truth, labels))
            if not calibrated:
                continue
            if objects:
                table = object_table(labels, truth, item, known, convention, pixel_size_um)
                table["trial_id"], table["method"], table["split"] = trial_id, variant.method, split
                result.objects.append(table)
            if item.stem in keep:
                result.labels.setdefault(item.stem, {})[variant.method] = labels
        tick()
    return result


def measure_truth(
    items: Sequence[Item],
    *,
    split: str,
    known: KnownCells,
    convention: str,
    pixel_size_um: float | None,
) -> list[pd.DataFrame]:
    """Measure the true cells, as `measure_trial` measures predicted ones."""
    tables = []
    for item in items:
        truth = read_labels(item.mask).labels
        table = object_table(truth, truth, item, known, convention, pixel_size_um)
        table["trial_id"], table["method"], table["split"] = "", TRUTH, split
        tables.append(table)
    return tables


def object_table(
    labels: Labels,
    truth: Labels,
    item: Item,
    known: KnownCells,
    convention: str,
    pixel_size_um: float | None,
) -> pd.DataFrame:
    """Measure the instances of one image and pair them with the true ones.

    Returns
    -------
    DataFrame
        One row per instance: `KEYS` (trial_id, method and split still empty), then features.
    """
    features = measure(labels, convention=convention, pixel_size_um=pixel_size_um)
    pairs = match(truth, labels)
    partner = pd.DataFrame(
        {"label": pairs.pred, "matched_label": pairs.true, "iou": pairs.iou}
    ).astype({"label": features["label"].dtype, "matched_label": "Int64", "iou": float})
    table = features.merge(partner, on="label", how="left")
    table["image"], table["group"] = item.stem, item.group
    cells = [known.get(item.stem, m) for m in table["matched_label"]]
    table["track"] = pd.array([c[0] for c in cells], dtype="Int64")
    table["population"] = pd.array([c[1] for c in cells], dtype="string")
    for name in ("trial_id", "method", "split"):
        table[name] = ""
    return table[[*KEYS, *(c for c in table.columns if c not in KEYS)]]


class KnownCells:
    """What objects.csv of a data set says of its true cells: track and population.

    Parameters
    ----------
    dataset : DataSet

    Raises
    ------
    trainables.data.DataError
        When the table is damaged.
    """

    def __init__(self, dataset: DataSet) -> None:
        problems: list[str] = []
        self.cells = read_objects(dataset.root, problems)
        if problems:
            raise DataError(f"data set {dataset.root}: {problems[0]}")

    def get(self, image: str, label: Any) -> tuple[Any, Any]:
        """Return track and population of a true cell; NA where they are not known."""
        cell = None if label is pd.NA or label is None else self.cells.get((image, int(label)))
        if cell is None:
            return pd.NA, pd.NA
        return pd.NA if cell.track is None else cell.track, cell.population or pd.NA
