"""Search the free parameters of making instances, on given predictions.

All methods get the same number of tries in the same search: the defaults, steps through one
parameter after another, then optuna's tree-structured Parzen estimator. The score is the mean over
IoU 0.5 to 0.9 of average precision TP / (TP + FP + FN), with the objects of all images counted
together. Probabilities are searched on the logit scale up to 0.9999 or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.evaluation.scores import METRICS, ImageScores, image_scores, pooled
from analysis.instances.methods import WAYS, make_instances
from analysis.instances.way import Parameters
from trainables.config import TrialConfig
from trainables.tiling import Maps

AT_BOUND = 0.01
"""Share of a range's length (on its scale) that still counts as its end."""
BUDGET = 60
"""Number of parameter sets to try for each method."""
MOST_FOLDS = 5
"""Most searches that leave out some of the groups."""

Known = tuple[Maps, NDArray[np.int32]]
"""The prediction and the label image of one validation image."""
Tried = tuple[dict[str, float], list[ImageScores]]
"""Parameters and their scores on each image."""


class Scorer:
    """Scores parameters on images; what was scored once is remembered.

    Parameters
    ----------
    config : TrialConfig
    known : sequence of (maps, labels)
        Predictions and label images of validation images.
    give_back_gap : bool
        See `analysis.instances.methods.make_instances`.
    """

    def __init__(
        self, config: TrialConfig, known: Sequence[Known], *, give_back_gap: bool = False
    ) -> None:
        self.config, self.known, self.give_back_gap = config, known, give_back_gap
        self._scores: dict[tuple[Any, ...], ImageScores] = {}

    def scores(self, parameters: Parameters, images: Sequence[int]) -> list[ImageScores]:
        """Return the scores of the parameters on some of the images."""
        if _hopeless(self.config, [self.known[n] for n in images], parameters):
            return [self._score(None, n) for n in images]
        return [self._score(parameters, n) for n in images]

    def _score(self, parameters: Parameters | None, image: int) -> ImageScores:
        """Score an image; without parameters, no cell is found."""
        key = (image, None if parameters is None else tuple(parameters.items()))
        if key not in self._scores:
            maps, labels = self.known[image]
            shape = (labels.shape[0], labels.shape[1])
            cells = np.zeros(shape, np.int32)
            if parameters is not None:
                cells = make_instances(
                    self.config, maps, parameters, shape, give_back_gap=self.give_back_gap
                )
            self._scores[key] = image_scores(labels, cells, boundaries=False)
        return self._scores[key]


def search(
    scorer: Scorer,
    default: Parameters,
    *,
    images: Sequence[int] | None = None,
    budget: int = BUDGET,
    seed: int = 0,
) -> list[Tried]:
    """Try parameter sets: first the default, then those that promise the largest mean AP.

    Parameters
    ----------
    scorer : Scorer
    default : mapping
    images : sequence of int, optional
        Indices of the images that the search may see; all by default.
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

    config = scorer.config
    images = range(len(scorer.known)) if images is None else images
    ranges = WAYS[config.task].ranges
    ends = limits(config, [scorer.known[n] for n in images])
    spans = _spans(config, ends)
    tried: list[Tried] = [(dict(default), scorer.scores(default, images))]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, budget // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    places, value = _places(config, default, ends), objective(tried[0][1])
    study.add_trial(optuna.trial.create_trial(params=places, distributions=spans, value=value))

    def attempt() -> None:
        trial = study.ask(spans)
        parameters = {name: one.shrink(trial.params[name]) for name, one in ranges.items()}
        tried.append((parameters, scorer.scores(parameters, images)))
        study.tell(trial, objective(tried[-1][1]))

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
        Predictions and label images. The median area of their cells is that of a typical cell; one
        cell in a hundred is smaller than the smallest size may become.

    Raises
    ------
    ValueError
        When no image is given, or none contains a cell.
    """
    areas = [np.unique(labels[labels > 0], return_counts=True)[1] for _, labels in known]
    cells = np.concatenate(areas) if areas else np.zeros(0)
    if not cells.size:
        raise ValueError("cannot calibrate: no validation image contains a cell")
    typical, smallest = float(np.median(cells)), float(np.percentile(cells, 1))
    return {name: one.limits(typical, smallest) for name, one in WAYS[config.task].ranges.items()}


def at_bound(
    config: TrialConfig, parameters: Parameters, ends: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Return the names of parameters at a bound of their range, or outside it.

    Parameters
    ----------
    config : TrialConfig
    parameters : mapping
    ends : mapping
        The result of `limits`. A lower end of 0 does not count as a bound, nor does the upper end
        of a smallest size.

    Returns
    -------
    list of str
    """
    found = []
    for name, one in WAYS[config.task].ranges.items():
        if one.to_smallest:
            continue  # ends there on purpose
        low, high = (one.stretch(end) for end in ends[name])
        place, tolerance = one.stretch(parameters[name]), AT_BOUND * (high - low)
        if place >= high - tolerance or (ends[name][0] > 0 and place <= low + tolerance):
            found.append(name)
    return found


def best_parameters(tried: Sequence[Tried]) -> dict[str, float]:
    """Return the parameters with the largest mean AP; the first ones if equal.

    Parameters
    ----------
    tried : sequence of (parameters, scores of each image)
        All parameter sets, starting with the default.
    """
    return dict(tried[int(np.argmax([objective(scores) for _, scores in tried]))][0])


def cross_fitted(
    scorer: Scorer,
    default: Parameters,
    groups: Sequence[str],
    *,
    budget: int = BUDGET,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Return, for each group of images, parameters from a search that saw none of its images.

    They give validation images an honest score: parameters that were chosen, or only proposed, by
    looking at an image make its score too high. The groups are left out one at a time, or, if
    there are more than `MOST_FOLDS`, in so many sets of groups.

    Parameters
    ----------
    scorer : Scorer
    default : mapping
        Also the result where the other groups have no cell.
    groups : sequence of str
        The group of each image.
    budget, seed : int
        Of each search.

    Returns
    -------
    dict of str to parameters
        Empty with a single group, which leaves nothing to search on.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return {}
    folds = min(MOST_FOLDS, len(names))
    found: dict[str, dict[str, float]] = {}
    for fold in range(folds):
        left_out = set(names[fold::folds])
        rest = [n for n, group in enumerate(groups) if group not in left_out]
        best = dict(default)
        if any(scorer.known[n][1].any() for n in rest):
            best = best_parameters(search(scorer, default, images=rest, budget=budget, seed=seed))
        found |= dict.fromkeys(left_out, best)
    return {name: dict(found[name]) for name in names}


def objective(scores: Sequence[ImageScores]) -> float:
    """Return the mean AP over images; 0 where there is nothing to score."""
    value = float(pooled(scores)[METRICS.index("ap_mean")])
    return 0.0 if np.isnan(value) else value
