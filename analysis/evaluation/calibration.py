"""Choose the free parameters of making instances, on validation images only, and keep them.

The search is in `analysis.evaluation.search`. Of every method it is done once on all validation
images, for the test images and for new ones, and again without each part of the groups, for the
scores of these groups' validation images. A parameter whose best value lies at the end of its range
is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.evaluation.prediction import OnePass
from analysis.evaluation.search import (
    BUDGET,
    Known,
    Scorer,
    at_bound,
    best_parameters,
    cross_fitted,
    limits,
    objective,
    search,
)
from analysis.instances.methods import default_parameters, way_of
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, Item
from trainables.evenly import evenly
from trainables.records.files import fetched, write_json

CALIBRATION = "calibration.json"
FORMAT = 4
OLD_FORMATS = (1, 2, 3)
"""Formats of other ranges, or of searches that saw the groups that they held out: they can be read,
and the next analysis replaces them."""
MOST_IMAGES = 20
"""Most validation images to use, spread evenly. Their maps take most of an analysis's memory: an
image of 1224x904 pixels takes 4 MB with 2 classes, 13 MB with 3, 37 MB with 32 rays at every second
pixel (0.7 GB for twenty such images)."""


@dataclass(frozen=True)
class Calibration:
    """The calibrated parameters of one checkpoint."""

    default: dict[str, float]
    """Those used without calibration. StarDist and star-convex heads have chosen their thresholds
    at the end of training, on the same validation images."""
    calibrated: dict[str, float]
    default_score: float
    """Mean average precision of the default parameters on validation images."""
    score: float
    """Mean average precision of the calibrated parameters, on the images that chose them."""
    budget: int
    images: list[str]
    """Stems of the images that were used."""
    held_out: dict[str, dict[str, float]]
    """For each group of validation images, parameters from a search that saw none of its images."""
    at_bound: list[str]
    """Parameters whose value lies at a bound of its range; better values may lie beyond it."""
    ranges: dict[str, list[float]]
    """Smallest and largest value that were searched, of each parameter."""
    untuned: dict[str, float]
    """Default parameters that no image has chosen."""
    given_back: Calibration | None = None
    """The same for the way that gives its gap back, which is searched for itself."""

    def for_validation(self, group: str, *, alone: bool = False) -> dict[str, float]:
        """Return the parameters that were chosen without a group of validation images.

        Parameters
        ----------
        group : str
        alone : bool
            Whether it is the only group of a fold: all parameters but the untuned ones were then
            chosen on it, so that these are returned. (Without folds a single group can show nothing
            anyway, and its score is that of the calibrated parameters.)
        """
        return self.untuned if alone else self.held_out.get(group, self.calibrated)

    def of(self, give_back_gap: bool) -> Calibration:
        """Return the calibration of the way that gives its gap back, or of the one that does not.

        Raises
        ------
        ValueError
            When that way was not calibrated.
        """
        if not give_back_gap:
            return self
        if self.given_back is None:
            raise ValueError("the way that gives its gap back was not calibrated")
        return self.given_back


def calibration_images(dataset: DataSet) -> list[Item]:
    """Return the validation images to calibrate with: all, or `MOST_IMAGES` spread evenly."""
    return evenly(dataset.subset("val"), MOST_IMAGES)


def calibrate_checkpoint(
    folder: Path,
    one_pass: OnePass,
    dataset: DataSet,
    *,
    budget: int = BUDGET,
    seed: int = 0,
    both_gaps: bool = False,
) -> Calibration:
    """Calibrate a checkpoint, or read an earlier calibration with the same settings.

    Only images of the split ``val`` are read.

    Parameters
    ----------
    folder : Path
        ``checkpoints/<trial_id>``; `CALIBRATION` is written beside the weights.
    one_pass : OnePass
        The checkpoint's predictions, which keeps those that calibration needed.
    dataset : DataSet
    budget, seed : int
        Of each search.
    both_gaps : bool
        Whether to calibrate the way that gives its gap back, too.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        When no validation image contains a cell.
    """
    items, predictor = calibration_images(dataset), one_pass.predictor
    key = {
        "format": FORMAT,
        "weights": predictor.info["weights"]["sha256"],
        "data": dataset.fingerprint,
        "images": [item.stem for item in items],
        "budget": budget,
        "seed": seed,
        "flips": one_pass.flips,
        "inference": predictor.inference.state(),
    }
    path = folder / CALIBRATION
    stored = read_calibration(folder)
    same = stored is not None and all(stored.get(k) == v for k, v in key.items())
    if stored is not None and same and (stored["given_back"] is not None or not both_gaps):
        return _calibration(stored)
    known = [(seen.maps, seen.image.truth) for seen in one_pass.keep(items)]
    default = default_parameters(predictor.config, predictor.info)
    groups = [item.group for item in items]
    config, size = predictor.config, {"budget": budget, "seed": seed}
    own = _calibrated(config, known, default, groups, False, **size)
    given_back = _calibrated(config, known, default, groups, True, **size) if both_gaps else None
    content = {
        **key,
        "way": way_of(config),
        "objective": "mean over IoU 0.5 to 0.9 of TP / (TP + FP + FN), validation images",
        **own,
        "given_back": given_back,
    }
    write_json(path, content)
    return _calibration(content)


def _calibrated(
    config: TrialConfig,
    known: Sequence[Known],
    default: Mapping[str, float],
    groups: Sequence[str],
    give_back_gap: bool,
    *,
    budget: int,
    seed: int,
) -> dict[str, Any]:
    """Search on all images, and without each part of their groups."""
    scorer = Scorer(config, known, give_back_gap=give_back_gap)
    tried = search(scorer, default, budget=budget, seed=seed)
    best, ends = best_parameters(tried), limits(config, known)
    # what a trial stored itself was chosen on all validation images
    untuned = default_parameters(config, {})
    return {
        "default": dict(default),
        "calibrated": best,
        "held_out": cross_fitted(scorer, untuned, groups, budget=budget, seed=seed),
        "at_bound": at_bound(config, best, ends),
        "ranges": {name: list(pair) for name, pair in ends.items()},
        "untuned": untuned,
        "default_score": objective(tried[0][1]),
        "score": max(objective(scores) for _, scores in tried),
    }


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint's `CALIBRATION`; None if there is none."""
    try:
        content = json.loads(fetched(folder / CALIBRATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    readable = isinstance(content, dict) and content.get("format") in (FORMAT, *OLD_FORMATS)
    return content if readable else None


def _calibration(content: dict[str, Any]) -> Calibration:
    given_back = content.get("given_back")
    common = {"budget": content["budget"], "images": content["images"]}
    return Calibration(
        default=content["default"],
        calibrated=content["calibrated"],
        default_score=content["default_score"],
        score=content["score"],
        held_out=content["held_out"],
        at_bound=content["at_bound"],
        ranges=content["ranges"],
        untuned=content["untuned"],
        given_back=None if given_back is None else _calibration({**given_back, **common}),
        **common,
    )
