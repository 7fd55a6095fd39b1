"""One pass per checkpoint: it is loaded once and predicts every image once for the whole report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.calibration import Calibration, calibrate_checkpoint
from analysis.evaluation.images import LabelledImage
from analysis.evaluation.prediction import OnePass, Predicted, foreground_probability
from analysis.evaluation.scores import ImageScores, image_scores
from analysis.evidence import Crop, Picture
from analysis.folds import SHOWN, folds_of, whole_seeds
from analysis.instances.methods import GIVEN_BACK, WAYS, make_instances
from analysis.instances.way import Parameters
from analysis.runfolder import Candidate
from analysis.spread import Job, Spread
from analysis.study.effects import measured_again, of_training
from analysis.study.objects import CellMeasurer, Labels
from analysis.study.study import Study
from analysis.study.truth import Truth, Window
from trainables.checkpoint import load
from trainables.errors import CheckpointError

NewTask = Callable[[str, int], Callable[[], None]]
"""Takes a description and a number of steps; returns a function to call after each step."""


class Variant(NamedTuple):
    """One way of turning a trial's maps into instances, to be scored."""

    method: str
    parameters: str
    """'default' or 'calibrated'."""
    give_back_gap: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether its cells are also measured and shown."""
        return self.parameters == "calibrated"


class Scored:
    """The scores of each variant of a trial on some images, in their order."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.images: list[str] = []
        self.groups: list[str] = []
        self.scores: dict[Variant, list[ImageScores]] = {variant: [] for variant in variants}

    def add(self, image: LabelledImage, cells: Mapping[Variant, Labels]) -> None:
        """Score one image."""
        self.images.append(image.item.stem)
        self.groups.append(image.item.group)
        for variant, labels in cells.items():
            self.scores[variant].append(image_scores(image.truth, labels))


class AnalysedTrial:
    """What was found for one trial.

    Attributes
    ----------
    representative : bool
        Whether it is its candidate's best seed, whose cells are measured and shown; with folds,
        the first fold of that seed.
    seed, fold : int, int or None
        See `trainables.config.TrialConfig`.
    validation, measured : Scored
        Scores on the trial's validation images and on the measured images.
    objects : list of DataFrame
        Cells of a representative, one table per image and method.
    errors : list of DataFrame
        What became of its cells, likewise.
    remeasured : list of DataFrame
        The cells of known populations, of all trials (`analysis.study.effects`).
    labels : dict
        Label images of a representative for the report's pictures, by image and then method.
    probability : (h, w) float32 array, optional
        Foreground probability in the window that is shown for every network.
    """

    def __init__(
        self,
        candidate: Candidate,
        trial_id: str,
        calibration: Calibration,
        variants: Sequence[Variant],
        *,
        seed: int = 0,
        fold: int | None = None,
    ) -> None:
        self.seed, self.fold = seed, fold
        self.trial_id, self.calibration, self.variants = trial_id, calibration, variants
        self.representative = trial_id == candidate.trials[0]
        self.validation, self.measured = Scored(variants), Scored(variants)
        self.objects: list[pd.DataFrame] = []
        self.errors: list[pd.DataFrame] = []
        self.remeasured: list[pd.DataFrame] = []
        self.labels: dict[str, dict[str, Labels]] = {}
        self.probability: NDArray[np.float32] | None = None

    def see_images(self, study: Study, one_pass: OnePass, truth: Truth) -> None:
        """Predict every image once; score it, measure its cells, and keep what the report shows."""
        validation = study.dataset.of_fold(self.fold).subset("val")
        alone = self.fold is not None and len({item.group for item in validation}) == 1
        for item in validation:
            seen = one_pass.take(item)
            self.validation.add(seen.image, self.cells(seen, held_out=item.group, alone=alone))
        for item in study.items:
            seen = one_pass.take(item)
            cells = self.cells(seen)
            self.measured.add(seen.image, cells)
            if truth.window is not None and item == truth.window.item:
                self.probability = shown_probability(seen, truth.window)
            if self.representative:
                self.measure(study.measurer, seen.image, cells, keep=item.stem in truth.pictured)
                continue
            for variant, labels in cells.items():
                if variant.calibrated:
                    self.remeasured += of_training(
                        study.measurer,
                        labels,
                        seen.image,
                        method=variant.method,
                        trial_id=self.trial_id,
                    )

    def cells(
        self, seen: Predicted, held_out: str | None = None, *, alone: bool = False
    ) -> dict[Variant, Labels]:
        """Turn the maps of an image into each variant's label image; of a group that is held out
        (`alone`: the only one of its fold), with parameters that were chosen without it.
        """
        return {
            variant: make_instances(
                seen.config,
                seen.maps,
                self.parameters(variant, held_out, alone=alone),
                seen.image.shape,
                give_back_gap=variant.give_back_gap,
            )
            for variant in self.variants
        }

    def parameters(
        self, variant: Variant, held_out: str | None, *, alone: bool = False
    ) -> Parameters:
        """Return a variant's parameters; of a group that is held out, those chosen without it."""
        calibration = self.calibration.of(variant.give_back_gap)
        if not variant.calibrated:
            return calibration.default
        if held_out is None:
            return calibration.calibrated
        return calibration.for_validation(held_out, alone=alone)

    def measure(
        self,
        measurer: CellMeasurer,
        image: LabelledImage,
        cells: Mapping[Variant, Labels],
        *,
        keep: bool,
    ) -> None:
        """Measure an image's calibrated cells; keep its label images if a figure shows them."""
        for variant, labels in cells.items():
            if not variant.calibrated:
                continue
            found, errors = measurer.found_cells(
                labels, image, method=variant.method, trial_id=self.trial_id
            )
            self.objects.append(found)
            self.errors.append(errors)
            self.remeasured += measured_again(measurer, found, labels)
            if keep:
                self.labels.setdefault(image.item.stem, {})[variant.method] = labels


class GivenTrial:
    """Label images that were given (``--labels``), scored and measured like those of a trial.

    Attributes
    ----------
    name : str
    trial_id : str
        Empty: nothing was trained.
    measured : Scored
    objects, errors : list of DataFrame
    remeasured : list of DataFrame
    labels : dict
        As of `AnalysedTrial`.
    """

    def __init__(self, name: str) -> None:
        self.name, self.trial_id = name, ""
        self.variant = Variant(name, "calibrated")
        self.measured = Scored([self.variant])
        self.objects: list[pd.DataFrame] = []
        self.errors: list[pd.DataFrame] = []
        self.remeasured: list[pd.DataFrame] = []
        self.labels: dict[str, dict[str, Labels]] = {}

    def see(self, study: Study, image: LabelledImage, labels: Labels, *, keep: bool) -> None:
        """Score and measure one image; keep its label image if a figure shows it."""
        self.measured.add(image, {self.variant: labels})
        found, errors = study.measurer.found_cells(labels, image, method=self.name, trial_id="")
        self.objects.append(found)
        self.errors.append(errors)
        self.remeasured += measured_again(study.measurer, found, labels)
        if keep:
            self.labels.setdefault(image.item.stem, {})[self.name] = labels


def analyse_trials(
    study: Study,
    candidates: Sequence[Candidate],
    truth: Truth,
    new_task: NewTask,
    spread: Spread,
) -> tuple[list[AnalysedTrial], list[str]]:
    """Analyse all seeds of candidates; each process has one network in memory at a time.

    Returns
    -------
    trials : list of AnalysedTrial
    missing : list of str
        One sentence for each trial that could not be analysed, and for each calibration that
        ended at a bound.
    """
    trials: list[AnalysedTrial] = []
    missing = []
    first = next((c for c in candidates if WAYS[c.config.task].has_gap), None)
    jobs = [
        _job(study, candidate, trial_id, both_gaps=candidate is first)
        for candidate in candidates
        for trial_id in candidate.trials
    ]
    results = iter(zip(jobs, spread.start(analyse_trial, (study, truth), jobs)))
    for candidate in candidates:
        analysed: list[AnalysedTrial] = []
        for trial_id in candidate.trials:
            config, job, result = study.run.configs[trial_id], *next(results)
            fold = "" if config.fold is None else f", fold {config.fold}"
            name = f"{candidate.name}, seed {config.seed}{fold}"
            try:
                trial: AnalysedTrial = result(new_task(name, job.steps))
            except (CheckpointError, ValueError) as error:
                missing.append(f"{candidate.name} could not be analysed: {error}")
                continue
            analysed.append(trial)
            for end, one in (("", trial.calibration), (GIVEN_BACK, trial.calibration.given_back)):
                if one is not None and one.at_bound:
                    missing.append(
                        f"{name}{end}: the best value of {', '.join(one.at_bound)} lies at the end "
                        "of its search range."
                    )
        whole, lines = _with_all_folds(study, candidate, analysed)
        trials += whole
        missing += lines
    return trials, missing


def _job(study: Study, candidate: Candidate, trial_id: str, *, both_gaps: bool) -> Job:
    """Return the job of analysing one trial."""
    config = study.run.configs[trial_id]
    steps = len(study.dataset.of_fold(config.fold).split["val"]) + len(study.items)
    return Job((candidate, trial_id, variants_of(candidate, both_gaps=both_gaps)), config, steps)


def _with_all_folds(
    study: Study, candidate: Candidate, analysed: Sequence[AnalysedTrial]
) -> tuple[list[AnalysedTrial], list[str]]:
    """Leave out seeds of which a fold could not be analysed, and say so."""
    configs = {trial.trial_id: study.run.configs[trial.trial_id] for trial in analysed}
    seeds, absent = whole_seeds(configs, folds_of(study.run.plan))
    kept = {trial_id for ids in seeds for trial_id in ids}
    lines = [
        f"{candidate.name}, seed {seed}, is left out: fold {', '.join(map(str, folds))} could not "
        "be analysed."
        for seed, folds in absent.items()
    ]
    return [trial for trial in analysed if trial.trial_id in kept], lines


def analyse_trial(
    study: Study,
    truth: Truth,
    candidate: Candidate,
    trial_id: str,
    variants: Sequence[Variant],
    tick: Callable[[], None],
) -> AnalysedTrial:
    """Calibrate, score and measure one checkpoint, and keep what the figures show.

    Parameters
    ----------
    study : Study
    truth : Truth
        Lists the images that figures show.
    candidate : Candidate
    trial_id : str
        One of its seeds.
    variants : sequence of Variant
    tick : callable
        Called after every predicted image.

    Raises
    ------
    CheckpointError, ValueError
        When the checkpoint cannot be analysed.
    """
    folder, options = study.run.checkpoint(trial_id), study.options
    config = study.run.configs[trial_id]
    dataset = study.dataset.of_fold(config.fold)
    with closing(load(folder)) as predictor:
        one_pass = OnePass(predictor, study.images, flips=options.flips, tick=tick)
        calibration = calibrate_checkpoint(
            folder,
            one_pass,
            dataset,
            budget=options.budget,
            seed=options.seed,
            both_gaps=any(variant.give_back_gap for variant in variants),
        )
        trial = AnalysedTrial(
            candidate, trial_id, calibration, variants, seed=config.seed, fold=config.fold
        )
        trial.see_images(study, one_pass, truth)
    return trial


def crop_of_networks(
    study: Study,
    chosen: Sequence[Candidate],
    trials: Sequence[AnalysedTrial],
    window: Window | None,
    new_task: NewTask,
    spread: Spread,
) -> tuple[Crop | None, list[str]]:
    """Predict one window with every network.

    Parameters
    ----------
    study : Study
    chosen : sequence of Candidate
        The analysed candidates. All other networks are loaded to predict only the window's image.
    trials : sequence of AnalysedTrial
        Trials that have already predicted the window.
    window : Window, optional
    new_task, spread
        See `analysis.study.gather.gather`.

    Returns
    -------
    crop : Crop or None
    missing : list of str
        One sentence for each network that could not predict the window.
    """
    if window is None:
        return None, []
    shown = {t.trial_id: t.probability for t in trials if t.probability is not None}
    tried = {trial_id for candidate in chosen for trial_id in candidate.trials}
    rest = [trial_id for trial_id in study.run.done() if trial_id not in tried]
    rest = [i for i in rest if study.run.configs[i].fold in (None, SHOWN)]
    missing = []
    tick = new_task("one crop with the other networks", len(rest))
    jobs = [Job((trial_id,), study.run.configs[trial_id], 1) for trial_id in rest]
    results = spread.start(probability_of_network, (study, window), jobs)
    for trial_id, result in zip(rest, results):
        try:
            shown[trial_id] = result(tick)
        except (CheckpointError, ValueError) as error:
            missing.append(f"{trial_id}: {error}")
            tick()
    return replace(window.crop, probabilities=shown), missing


def probability_of_network(
    study: Study, window: Window, trial_id: str, tick: Callable[[], None]
) -> NDArray[np.float32]:
    """Return what a network that is not analysed predicts in a window."""
    with closing(load(study.run.checkpoint(trial_id))) as predictor:
        one_pass = OnePass(predictor, study.images, flips=study.options.flips, tick=tick)
        return shown_probability(one_pass.take(window.item), window)


def variants_of(candidate: Candidate, *, both_gaps: bool) -> list[Variant]:
    """Return the scored variants of a candidate: default, calibrated, and with the gap closed."""
    variants = [Variant(candidate.name, name) for name in ("default", "calibrated")]
    if both_gaps:
        variants.append(Variant(candidate.name + GIVEN_BACK, "calibrated", True))
    return variants


def shown_probability(seen: Predicted, window: Window) -> NDArray[np.float32]:
    """Return the foreground probability in a window of an image."""
    whole = foreground_probability(seen.config, seen.maps, seen.image.shape)
    return whole[window.slices].copy()


def pictures_of(trials: Sequence[AnalysedTrial | GivenTrial], truth: Truth) -> list[Picture]:
    """Return the pictures of the report's viewer with the cells of all methods."""
    found = []
    for picture in truth.pictures:
        labels: dict[str, Labels] = {}
        for trial in trials:
            labels |= trial.labels.get(picture.image, {})
        found.append(replace(picture, labels=labels))
    return found
