"""Choose the free parameters of making instances, on validation images only.

All methods get the same number of tries in the same search: the defaults, steps through one
parameter after another, then optuna's tree-structured Parzen estimator. The score is the mean over
IoU 0.5 to 0.9 of average precision TP / (TP + FP + FN), with the objects of all images counted
together. Probabilities are searched on the logit scale up to 0.9999 or more. A parameter whose best
value lies at the end of its range is reported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation.prediction import OnePass
from analysis.evaluation.scores import METRICS, ImageScores, image_scores, pooled
from analysis.instances.methods import WAYS, default_parameters, make_instances, way_of
from analysis.instances.way import Parameters
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet, Item
from trainables.records.files import write_json
from trainables.tiling import Maps

CALIBRATION = "calibration.json"
FORMAT = 3
OLD_FORMATS = (1, 2)
"""Formats of other ranges (1), or of seeds without a minimum size (1 and 2): they can be read, and
the next analysis replaces them."""
AT_BOUND = 0.01
"""Share of a range's length (on its scale) that still counts as its end."""
BUDGET = 60
"""Number of parameter sets to try for each method."""
MOST_IMAGES = 20
"""Most validation images to use, spread evenly. Their maps take most of an analysis's memory: an
image of 1224x904 pixels takes 4 MB with 2 classes, 13 MB with 3, 37 MB with 32 rays at every second
pixel (0.7 GB for twenty such images)."""

Known = tuple[Maps, NDArray[np.int32]]
"""The prediction and the label image of one validation image."""
Tried = tuple[dict[str, float], list[ImageScores]]
"""Parameters and their scores on each image."""


@dataclass(frozen=True)
class Calibration:
    """The calibrated parameters of one checkpoint."""

    default: dict[str, float]
    calibrated: dict[str, float]
    default_score: float
    """Mean average precision of the default parameters on validation images."""
    score: float
    """Mean average precision of the calibrated parameters."""
    budget: int
    images: list[str]
    """Stems of the images that were used."""
    held_out: dict[str, dict[str, float]]
    """For each group of validation images, the parameters chosen without that group."""
    at_bound: list[str]
    """Parameters whose value lies at a bound of its range; better values may lie beyond it."""

    def for_validation(self, group: str, *, alone: bool = False) -> dict[str, float]:
        """Return the parameters that were chosen without a group of validation images.

        Parameters
        ----------
        group : str
        alone : bool
            Whether it is the only group of a fold: all parameters but the default were then chosen
            on it, so that the default is returned. (Without folds a single group can show nothing
            anyway, and its score is that of the calibrated parameters.)
        """
        return self.default if alone else self.held_out.get(group, self.calibrated)


def search(
    config: TrialConfig,
    known: Sequence[Known],
    default: Parameters,
    *,
    budget: int = BUDGET,
    seed: int = 0,
) -> list[Tried]:
    """Try parameter sets: first the default, then those that promise the largest mean AP.

    Parameters
    ----------
    config : TrialConfig
    known : sequence of (maps, labels)
        Predictions and label images of validation images.
    default : mapping
    budget : int
        Number of parameter sets to try, including the default.
    seed : int

    Returns
    -------
    list of (parameters, scores of each image)

    Raises
    ------
    ValueError
        When no image is given, or none contains a cell.
    """
    import optuna

    ranges, ends = WAYS[config.task].ranges, limits(config, known)
    spans = _spans(config, ends)
    tried: list[Tried] = [(dict(default), _scores(config, known, default))]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, budget // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    places, value = _places(config, default, ends), _objective(tried[0][1])
    study.add_trial(optuna.trial.create_trial(params=places, distributions=spans, value=value))

    def attempt() -> None:
        trial = study.ask(spans)
        parameters = {name: one.shrink(trial.params[name]) for name, one in ranges.items()}
        tried.append((parameters, _scores(config, known, parameters)))
        study.tell(trial, _objective(tried[-1][1]))

    # The estimator draws its first sets at random and returns to the best of them: where most of a
    # range scores alike, it misses the rest. Half of the budget goes through all of every range.
    steps = max(1, round(budget / 2 / len(ranges)))
    for name, one in ranges.items():
        best = _places(config, best_parameters(tried), ends)
        low, high = (one.stretch(end) for end in ends[name])
        for place in np.linspace(low, high, steps + 2)[1:-1]:
            if len(tried) < budget:
                study.enqueue_trial({**best, name: int(place) if one.whole else float(place)})
                attempt()
    while len(tried) < budget:
        attempt()
    return tried


def _spans(config: TrialConfig, ends: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return optuna's distributions of the parameters, on the scales of their ranges."""
    from optuna.distributions import FloatDistribution, IntDistribution

    spans: dict[str, Any] = {}
    for name, one in WAYS[config.task].ranges.items():
        low, high = (one.stretch(end) for end in ends[name])
        if one.whole:
            spans[name] = IntDistribution(int(low), int(high))
        else:
            spans[name] = FloatDistribution(low, high)
    return spans


def _places(
    config: TrialConfig, parameters: Parameters, ends: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return the positions of parameters on the scales of their ranges, moved inside if needed."""
    places: dict[str, float] = {}
    for name, one in WAYS[config.task].ranges.items():
        place = one.stretch(min(max(parameters[name], ends[name][0]), ends[name][1]))
        places[name] = int(place) if one.whole else place
    return places


def _scores(
    config: TrialConfig, known: Sequence[Known], parameters: Parameters
) -> list[ImageScores]:
    """Return the scores of the parameters on each image."""
    hopeless = _hopeless(config, known, parameters)
    found = []
    for maps, labels in known:
        shape = (labels.shape[0], labels.shape[1])
        cells = np.zeros(shape, np.int32)
        if not hopeless:
            cells = make_instances(config, maps, parameters, shape)
        found.append(image_scores(labels, cells, boundaries=False))
    return found


def _hopeless(config: TrialConfig, known: Sequence[Known], parameters: Parameters) -> bool:
    """Say whether more than half of the background pixels propose a cell.

    Suppressing so many proposals would take minutes for a useless result. Fewer are normal: pixels
    in the halo of a cell propose that cell, and suppression merges them.
    """
    proposed = background = 0
    for maps, labels in known:
        counts = WAYS[config.task].wasteful(config, maps, labels, parameters)
        proposed, background = proposed + counts[0], background + counts[1]
    return proposed > background / 2


def limits(config: TrialConfig, known: Sequence[Known]) -> dict[str, tuple[float, float]]:
    """Return the search range of each parameter: its smallest and its largest value.

    Parameters
    ----------
    config : TrialConfig
    known : sequence of (maps, labels)
        Predictions and label images; the median area of their cells is that of a typical cell.

    Raises
    ------
    ValueError
        When no image is given, or none contains a cell.
    """
    areas = [np.unique(labels[labels > 0], return_counts=True)[1] for _, labels in known]
    cells = np.concatenate(areas) if areas else np.zeros(0)
    if not cells.size:
        raise ValueError("cannot calibrate: no validation image contains a cell")
    typical = float(np.median(cells))
    return {name: one.limits(typical) for name, one in WAYS[config.task].ranges.items()}


def at_bound(
    config: TrialConfig, parameters: Parameters, ends: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Return the names of parameters at a bound of their range, or outside it.

    Parameters
    ----------
    config : TrialConfig
    parameters : mapping
    ends : mapping
        The result of `limits`. A lower end of 0 does not count as a bound.

    Returns
    -------
    list of str
    """
    found = []
    for name, one in WAYS[config.task].ranges.items():
        low, high = (one.stretch(end) for end in ends[name])
        place, tolerance = one.stretch(parameters[name]), AT_BOUND * (high - low)
        if place >= high - tolerance or (ends[name][0] > 0 and place <= low + tolerance):
            found.append(name)
    return found


def best_parameters(
    tried: Sequence[Tried], images: Sequence[int] | None = None
) -> dict[str, float]:
    """Return the parameters with the largest mean AP over some images; the first one if equal.

    Parameters
    ----------
    tried : sequence of (parameters, scores of each image)
        All parameter sets, starting with the default.
    images : sequence of int, optional
        Indices of the images that count; all by default.
    """
    values = [
        _objective(scores if images is None else [scores[i] for i in images]) for _, scores in tried
    ]
    return dict(tried[int(np.argmax(values))][0])


def held_out(tried: Sequence[Tried], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, for each group of images, the parameters chosen on the images of all other groups.

    They give validation images an honest score: parameters chosen on an image itself make its
    score too high. With a single group, nothing can be held out and the result is empty.
    """
    if len(set(groups)) < 2:
        return {}
    return {
        group: best_parameters(tried, [i for i, other in enumerate(groups) if other != group])
        for group in dict.fromkeys(groups)
    }


def _objective(scores: Sequence[ImageScores]) -> float:
    value = float(pooled(scores)[METRICS.index("ap_mean")])
    return 0.0 if np.isnan(value) else value


def calibration_images(dataset: DataSet) -> list[Item]:
    """Return the validation images to calibrate with: all, or `MOST_IMAGES` spread evenly."""
    items = dataset.subset("val")
    if len(items) <= MOST_IMAGES:
        return items
    chosen = np.linspace(0, len(items) - 1, MOST_IMAGES).round().astype(int)
    return [items[i] for i in chosen]


def calibrate_checkpoint(
    folder: Path, one_pass: OnePass, dataset: DataSet, *, budget: int = BUDGET, seed: int = 0
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
    if stored is not None and all(stored.get(k) == v for k, v in key.items()):
        return _calibration(stored)
    known = [(seen.maps, seen.image.truth) for seen in one_pass.keep(items)]
    default = default_parameters(predictor.config, predictor.info)
    tried = search(predictor.config, known, default, budget=budget, seed=seed)
    best = best_parameters(tried)
    content = {
        **key,
        "way": way_of(predictor.config),
        "objective": "mean over IoU 0.5 to 0.9 of TP / (TP + FP + FN), validation images",
        "default": default,
        "calibrated": best,
        "held_out": held_out(tried, [item.group for item in items]),
        "at_bound": at_bound(predictor.config, best, limits(predictor.config, known)),
        "default_score": _objective(tried[0][1]),
        "score": max(_objective(scores) for _, scores in tried),
    }
    write_json(path, content)
    return _calibration(content)


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint's `CALIBRATION`; None if there is none."""
    try:
        content = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    readable = isinstance(content, dict) and content.get("format") in (FORMAT, *OLD_FORMATS)
    return content if readable else None


def _calibration(content: dict[str, Any]) -> Calibration:
    return Calibration(
        default=content["default"],
        calibrated=content["calibrated"],
        default_score=content["default_score"],
        score=content["score"],
        budget=content["budget"],
        images=content["images"],
        held_out=content["held_out"],
        at_bound=content["at_bound"],
    )
