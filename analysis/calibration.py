"""Choose the free parameters of making instances, on validation images only.

All methods get the same number of tries of the same search (optuna's tree-structured Parzen
estimator, the defaults first), judged by the mean over IoU 0.5 to 0.9 of average precision
TP / (TP + FP + FN), objects of all images counted together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.methods import RANGES, Parameters, default_parameters, make_instances, way_of
from analysis.prediction import MapPredictor, Maps, predict_maps
from analysis.scores import METRICS, ImageScores, image_scores, pooled
from trainables.config import TrialConfig
from trainables.data import DataSet, Item
from trainables.files import write_json
from trainables.imagefiles import read_image, read_labels

CALIBRATION = "calibration.json"
FORMAT = 1
BUDGET = 60
"""Sets of parameters that are tried for each method."""
MOST_IMAGES = 20
"""Validation images, spread evenly: their maps are held in memory."""

Known = tuple[Maps, NDArray[np.int32]]
"""A prediction and the label image of one validation image."""
Tried = tuple[dict[str, float], list[ImageScores]]
"""Parameters, and what they score on each image."""


@dataclass(frozen=True)
class Calibration:
    """Parameters of one checkpoint."""

    default: dict[str, float]
    calibrated: dict[str, float]
    default_score: float
    """Mean average precision of the defaults, on validation."""
    score: float
    """That of the calibrated parameters."""
    budget: int
    images: list[str]
    """Stems that were used."""
    held_out: dict[str, dict[str, float]]
    """Of each group of validation images: what would have been chosen without it."""

    def for_validation(self, group: str) -> dict[str, float]:
        """Return the parameters that know nothing of a group of validation images."""
        return self.held_out.get(group, self.calibrated)


def search(
    config: TrialConfig,
    known: Sequence[Known],
    default: Parameters,
    *,
    budget: int = BUDGET,
    seed: int = 0,
) -> list[Tried]:
    """Try sets of parameters, the default first, then what promises the largest mean AP.

    Parameters
    ----------
    config : TrialConfig
    known : sequence of (maps, labels)
        Predictions and label images of validation images.
    default : mapping
    budget : int
        Sets of parameters to try, the default among them.
    seed : int

    Returns
    -------
    list of (parameters, scores of each image)

    Raises
    ------
    ValueError
        When no image is given, or none holds a cell.
    """
    import optuna

    areas = [np.bincount(labels.ravel())[1:] for _, labels in map(_small, known)]
    cells = np.concatenate([a[a > 0] for a in areas]) if areas else np.zeros(0)
    if not cells.size:
        raise ValueError("no validation image holds a cell to calibrate with")
    ranges = RANGES[config.task]
    typical = float(np.median(cells))

    foreground = sum(int(area.sum()) for area in areas)

    def scores(parameters: Parameters) -> list[ImageScores]:
        if _hopeless(config, known, parameters, foreground):
            return [
                image_scores(labels, np.zeros(labels.shape, np.int32), boundaries=False)
                for _, labels in known
            ]
        return [
            image_scores(
                labels, make_instances(config, maps, parameters, labels.shape), boundaries=False
            )
            for maps, labels in known
        ]

    def suggest(trial: Any) -> dict[str, float]:
        chosen: dict[str, float] = {}
        for name, one in ranges.items():
            high = one.high * typical if one.of_cell else one.high
            if one.whole:
                chosen[name] = trial.suggest_int(name, int(one.low), max(1, int(high)))
            else:
                chosen[name] = round(trial.suggest_float(name, one.low, high, log=one.log), 3)
        return chosen

    tried: list[Tried] = [(dict(default), scores(default))]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, budget // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(budget - 1):
        trial = study.ask()
        parameters = suggest(trial)
        tried.append((parameters, scores(parameters)))
        study.tell(trial, _objective(tried[-1][1]))
    return tried


def _hopeless(
    config: TrialConfig, known: Sequence[Known], parameters: Parameters, foreground: int
) -> bool:
    """Say whether more pixels propose a star than there are pixels of cells.

    Their suppression would take minutes, for nothing: background would be full of them.
    """
    if config.task != "stardist":
        return False
    least = parameters["prob_threshold"]
    proposed = sum(int(np.count_nonzero(maps[0] >= least)) for maps, _ in known)
    return proposed * config.grid**2 > foreground


def choose(tried: Sequence[Tried], images: Sequence[int] | None = None) -> dict[str, float]:
    """Return the parameters with the largest mean AP over some images; of equals the first.

    Parameters
    ----------
    tried : sequence of (parameters, scores of each image)
        The default first.
    images : sequence of int, optional
        Which count; all by default.
    """
    values = [
        _objective(scores if images is None else [scores[i] for i in images]) for _, scores in tried
    ]
    return dict(tried[int(np.argmax(values))][0])


def held_out(tried: Sequence[Tried], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, for each group of images, what is chosen from the images of the others.

    Scored with them, validation images say what the method does on images that chose nothing;
    scored with the parameters that they chose themselves, they flatter it. Nothing is held out
    where there is one group only.
    """
    if len(set(groups)) < 2:
        return {}
    return {
        group: choose(tried, [i for i, other in enumerate(groups) if other != group])
        for group in dict.fromkeys(groups)
    }


def _objective(scores: Sequence[ImageScores]) -> float:
    value = float(pooled(scores)[METRICS.index("ap_mean")])
    return 0.0 if np.isnan(value) else value


def _small(one: Known) -> Known:
    values, index = np.unique(one[1], return_inverse=True)
    offset = 0 if values.size and values[0] == 0 else 1
    return one[0], (index.reshape(one[1].shape) + offset).astype(np.int32)


def calibration_images(dataset: DataSet) -> list[Item]:
    """Return the validation images to calibrate with: all, or `MOST_IMAGES` spread evenly."""
    items = dataset.subset("val")
    if len(items) <= MOST_IMAGES:
        return items
    chosen = np.linspace(0, len(items) - 1, MOST_IMAGES).round().astype(int)
    return [items[i] for i in chosen]


def calibrate_checkpoint(
    folder: Path,
    predictor: MapPredictor,
    info: dict[str, Any],
    dataset: DataSet,
    *,
    budget: int = BUDGET,
    seed: int = 0,
    flips: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Calibration:
    """Calibrate a checkpoint, or read what was calibrated before with the same settings.

    Only images of the split ``val`` are read.

    Parameters
    ----------
    folder : Path
        ``checkpoints/<trial_id>``; `CALIBRATION` is written beside the weights.
    predictor : MapPredictor
    info : dict
        The checkpoint's manifest.
    dataset : DataSet
    budget, seed : int
    flips : bool
        As for `analysis.prediction.predict_maps`.
    tick : callable
        Called after every image that was predicted.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        When no validation image holds a cell.
    """
    items = calibration_images(dataset)
    key = {
        "format": FORMAT,
        "weights": info["weights"]["sha256"],
        "data": dataset.fingerprint,
        "images": [item.stem for item in items],
        "budget": budget,
        "seed": seed,
        "flips": flips,
    }
    path = folder / CALIBRATION
    stored = read_calibration(folder)
    if (
        stored is not None
        and "held_out" in stored
        and all(stored.get(k) == v for k, v in key.items())
    ):
        return _calibration(stored)
    known = []
    for item in items:
        maps = predict_maps(predictor, read_image(item.image), flips=flips)
        known.append((maps, read_labels(item.mask).labels))
        tick()
    default = default_parameters(predictor.config, info)
    tried = search(predictor.config, known, default, budget=budget, seed=seed)
    best = choose(tried)
    content = {
        **key,
        "way": way_of(predictor.config),
        "objective": "mean over IoU 0.5 to 0.9 of TP / (TP + FP + FN), validation images",
        "default": default,
        "calibrated": best,
        "held_out": held_out(tried, [item.group for item in items]),
        "default_score": _objective(tried[0][1]),
        "score": max(_objective(scores) for _, scores in tried),
    }
    write_json(path, content)
    return _calibration(content)


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint's `CALIBRATION`, None if there is none."""
    try:
        content = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _calibration(content: dict[str, Any]) -> Calibration:
    return Calibration(
        default=content["default"],
        calibrated=content["calibrated"],
        default_score=content["default_score"],
        score=content["score"],
        budget=content["budget"],
        images=content["images"],
        held_out=content["held_out"],
    )
