"""Everything that the figures and the report show, computed once and kept in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TRUTH = "ground truth"
"""The method name of label images drawn by hand (or generated)."""
FEATURES = ("area", "perimeter", "circularity", "solidity", "radius", "shape_index")
"""The paper's six features."""
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Overlaps at which objects are matched."""
LENGTHS = ("masd", "hd95")
"""Metrics that are distances in pixels; where the pixel size is known, tables also have them in
micrometres, with ``_um`` added to their names."""


@dataclass(frozen=True)
class Crop:
    """One window of a validation or test image, as every network sees it."""

    image: str
    """Stem of the image."""
    corner: tuple[int, int]
    """Row and column of the window's first pixel."""
    pixels: NDArray[np.float32]
    """(h, w), normalised: 0 to 1 between the image's percentiles."""
    truth: NDArray[np.int32]
    """(h, w) label image."""
    probabilities: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """(h, w) foreground probability by trial_id, for every finished trial."""


@dataclass(frozen=True)
class Picture:
    """One whole image with the instances of each method."""

    image: str
    split: str
    pixels: NDArray[np.float32]
    """(H, W), normalised."""
    truth: NDArray[np.int32]
    """(H, W) label image."""
    labels: dict[str, NDArray[np.int32]]
    """(H, W) label image by method."""


@dataclass(frozen=True)
class Unlabelled:
    """What the methods found in images without masks (``--unlabelled``)."""

    objects: pd.DataFrame
    """One row per cell: method, trial_id, image, group (its field),
    frame (place in the field, from 0), label, overlap_label (the recommended method's cell of this
    image that it overlaps most; empty if it shares less than half of the smaller one with each),
    track (that cell's track, numbered over all fields), at_border, left_out (cells at the border),
    then the columns of `analysis.morphology.measure`."""
    statistics: pd.DataFrame
    """All pairs of methods: the columns of `Evidence.statistics`, and cells_a, cells_b (all cells
    that are not left out, also those without a track) and p_cells (Mann-Whitney over these, the
    paper's test)."""
    recommended: str
    """The method whose cells are linked to tracks."""
    unit: str
    """What is independent: 'track', or 'group' (a field) from six fields on."""
    frames: int
    pixel_size_um: float | None
    data: str
    """The file or folder."""

    @property
    def cells(self) -> pd.DataFrame:
        """`objects` whose features are compared: without those that are left out."""
        return compared(self.objects)


@dataclass(frozen=True)
class Evidence:
    """What an analysis found.

    A *method* is a candidate with its way of making instances. All seeds of a method are
    calibrated and scored; `objects` and `pictures` come from the representative seed, which is
    the best one on validation. With folds, the validation scores of a seed are those of all its
    folds together, and the representative is the first fold of the best seed.
    """

    out: Path
    """The run folder."""
    plan: dict[str, Any]
    """plan.json."""
    leaderboard: pd.DataFrame
    """leaderboard.csv: one row per trial."""
    candidates: pd.DataFrame
    """candidates.csv, with what `analysis.statistics.tied_set` says of validation IoU: iou_mean
    (over groups of images and seeds), iou_low, iou_high, tied."""
    history: pd.DataFrame
    """history.csv: one row per trial and epoch."""
    methods: pd.DataFrame
    """One row per analysed trial, best first: method, trial_id, task, architecture, encoder, seed,
    fold (empty without folds), way ('2-class + watershed', '3-class', 'StarDist', 'star-convex
    head'), representative (bool), default and calibrated (JSON of the parameters), ranges (JSON:
    the smallest and the largest value that was searched), val_score (mean over validation units
    and seeds of the mean AP over `IOUS`), val_low, val_high (its 95 % confidence interval), tied
    (whether it may be the best: `analysis.statistics.tied_set`), val_units (independent units),
    val_lowest, val_highest (the lowest and the highest unit), measured_low, measured_high (the 95 %
    confidence interval of the same mean on the measured images), command."""
    standing: pd.DataFrame
    """The validation scores behind val_score: method, seed (numbered from 0), unit, score."""
    scores: pd.DataFrame
    """Long format: method, trial_id, split ('val', 'test'), parameters ('default', 'calibrated'),
    metric
    (precision_50 recall_50 f1_50 ap_50 ap_60 ap_70 ap_80 ap_90 ap_mean pq seg masd hd95 iou, and
    masd_um hd95_um where the pixel size is known; masd and hd95 are in pixels), value, units,
    images, true_objects, predicted_objects."""
    units: pd.DataFrame
    """Long format, one value per independent unit: method, trial_id, split, parameters, metric
    (those of `scores`, and 'bias_area' etc., the relative bias of each feature), unit, value. NaN
    where the unit has nothing to score."""
    objects: pd.DataFrame
    """One row per instance in the measured images (those of method `TRUTH` included): trial_id
    method image group split label, then

    - matched_label, iou: the true cell with an IoU of at least 0.5, if there is one
    - track, population: those of the true cell that the instance overlaps most
    - overlap_label: this true cell; empty for invented cells
    - outcome: 'found', 'invented', 'merged', 'split' or 'boundary', see
      `analysis.evaluation.outcomes`
    - at_border (bool): whether it touches the border of the image
    - left_out (bool): whether comparisons of cell features leave it out: true cells at the border,
      all that overlap these most, and invented cells at the border

    and the columns of `analysis.morphology.measure`."""
    errors: pd.DataFrame
    """What became of the cells, for representative seeds and measured images. One row per method,
    image and cause ('missed', 'invented', 'merged', 'split', 'boundary'): cause, true_cells,
    predicted_cells, tp_50 ... tp_90, method, image, group, split; see
    `analysis.evaluation.outcomes.Outcomes.counts`."""
    frames: pd.DataFrame
    """One row per image of the measured data set: image, sequence, frame
    (`analysis.study.films.frames_of`)."""
    statistics: pd.DataFrame
    """The columns of `analysis.statistics.compare` for all features, in um where the pixel size is
    known (column feature_unit), and comparison ('methods', 'populations', 'groups'), method (whose
    cells were compared, for populations and groups), family, margin, p_family, p_equivalent,
    verdict and further_units, see `analysis.study.families.with_verdicts`. In 'methods', a
    difference from the truth is method minus truth."""
    agreement: pd.DataFrame
    """One row per method and feature, for cells that all methods found: method, feature, n, units,
    bias, bias_low, bias_high, sd, loa_low, loa_high (limits of agreement), ccc, ccc_low, ccc_high
    (concordance correlation), relative_bias, relative_low, relative_high (bias and its interval
    divided by the truth's mean); in pixels."""
    noise: pd.DataFrame
    """The result of `analysis.morphology.noise.noise_floor` for the sizes of the true cells."""
    crop: Crop | None
    pictures: list[Picture]
    missing: list[str]
    """What the report cannot show and why, one sentence each."""
    settings: dict[str, Any]
    """convention, pixel_size_um and frame_interval_s (or None), unit (the independent one), top,
    flips, versions, seeds, budget of the calibration, data root and fingerprint, command of the
    analysis."""
    effects: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Differences between populations in every training (seed, fold) in the report's convention,
    and of the representatives, given labels and the truth in every convention, too: method,
    trial_id, convention, a, b, feature, unit_difference (a minus b, means of units, in pixels),
    unit_difference_low, unit_difference_high (its 95 % confidence interval). Empty without
    populations."""
    unlabelled: Unlabelled | None = None
    """None if no images without masks were given, or no method could find cells in them."""

    given: list[str] = field(default_factory=list)
    """Names of label images from elsewhere (``--labels``): scored, measured and tested like
    methods (with an empty trial_id), but not in `methods`, since nothing was trained."""

    @property
    def cells(self) -> pd.DataFrame:
        """`objects` whose features are compared: without those that are left out."""
        return compared(self.objects)


def compared(objects: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of an object table whose features are compared, see `Evidence.objects`."""
    return objects[~objects["left_out"].astype(bool)] if len(objects) else objects
