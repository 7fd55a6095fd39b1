"""The tables of methods and scores, made from the results of all trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members
from analysis.evaluation.selection import select, unit_scores
from analysis.evidence import LENGTHS
from analysis.folds import folds_of
from analysis.instances.methods import way_of
from analysis.runfolder import Run, command_of
from analysis.statistics import mean_interval, tied_set
from analysis.study.trials import AnalysedTrial, GivenTrial, Scored
from trainables.data.splits import ALL_IMAGES


def validation_scores(trials: Sequence[AnalysedTrial], unit: str) -> pd.DataFrame:
    """Return the mean AP of each method, calibrated, on each validation unit; all seeds."""
    methods: dict[str, list[list[ImageScores]]] = {}
    seeds = folds_together(trials)
    for _, validation in seeds:
        for variant, scores in validation.scores.items():
            if variant.calibrated:
                methods.setdefault(variant.method, []).append(scores)
    return unit_scores(methods, units_of(seeds[0][1], unit))


def folds_together(trials: Sequence[AnalysedTrial]) -> list[tuple[AnalysedTrial, Scored]]:
    """Return the validation scores of each candidate's seeds, all folds together.

    Parameters
    ----------
    trials : sequence of AnalysedTrial
        All folds of every seed.

    Returns
    -------
    list of (trial, scores)
        With folds, the trial of the first one, and the scores of all: each image as the network of
        the fold makes it that did not train on it, in an order that is the same for all seeds.
    """
    seeds: dict[tuple[str, int], list[AnalysedTrial]] = {}
    for trial in trials:
        seeds.setdefault((trial.variants[0].method, trial.seed), []).append(trial)
    found = []
    for members in seeds.values():
        if members[0].fold is None:
            found += [(trial, trial.validation) for trial in members]
            continue
        members = sorted(members, key=lambda trial: trial.fold or 0)
        together = Scored(members[0].variants)
        for trial in members:
            together.images += trial.validation.images
            together.groups += trial.validation.groups
            for variant, scores in trial.validation.scores.items():
                together.scores[variant] += scores
        found.append((members[0], together))
    return found


def units_of(scored: Scored, unit: str) -> list[str]:
    """Return the independent unit of each image (its group if tracks are the units)."""
    return scored.images if unit == "image" else scored.groups


def method_table(
    run: Run, trials: Sequence[AnalysedTrial], scores: pd.DataFrame, unit: str, *, seed: int = 0
) -> pd.DataFrame:
    """Return `analysis.evidence.Evidence.methods`: one row per method and trial, best first.

    Parameters
    ----------
    run : Run
    trials : sequence of AnalysedTrial
    scores : DataFrame
        As `validation_scores` gives them.
    unit : str
        What is independent.
    seed : int
        See `analysis.statistics.tied_set`.
    """
    places, tested = select(scores, seed=seed), _measured_intervals(trials, unit)
    rows = []
    for trial in trials:
        config = run.configs[trial.trial_id]
        for variant in (one for one in trial.variants if one.calibrated):
            place, calibration = places[variant.method], trial.calibration.of(variant.give_back_gap)
            rows.append(
                {
                    "method": variant.method,
                    "trial_id": trial.trial_id,
                    "task": config.task,
                    "architecture": config.architecture,
                    "encoder": config.encoder,
                    "seed": config.seed,
                    "fold": config.fold,
                    "way": way_of(config, give_back_gap=variant.give_back_gap),
                    "representative": trial.representative,
                    "default": json.dumps(calibration.default),
                    "calibrated": json.dumps(calibration.calibrated),
                    "at_bound": " ".join(calibration.at_bound),
                    "ranges": json.dumps(calibration.ranges),
                    "val_score": place.score,
                    "val_low": place.low,
                    "val_high": place.high,
                    "tied": place.tied,
                    "val_units": place.units,
                    "val_lowest": place.lowest,
                    "val_highest": place.highest,
                    "measured_low": tested[variant.method][0],
                    "measured_high": tested[variant.method][1],
                    "command": command_of(run, trial.trial_id),
                }
            )
    return pd.DataFrame(rows).sort_values(
        ["val_score", "method", "representative"],
        ascending=[False, True, False],
        kind="stable",
        ignore_index=True,
    )


def _measured_intervals(
    trials: Sequence[AnalysedTrial], unit: str
) -> dict[str, tuple[float, float]]:
    """Return the interval of each method's mean AP on the measured images: as val_score, a mean
    over units and seeds; with folds, over the networks of all of them.
    """
    measured: dict[str, list[list[ImageScores]]] = {}
    for trial in trials:
        for variant, images in trial.measured.scores.items():
            if variant.calibrated:
                measured.setdefault(variant.method, []).append(images)
    scores = unit_scores(measured, units_of(trials[0].measured, unit))
    each = scores.groupby(["method", "unit"])["score"].mean().groupby(level="method")
    return {str(method): mean_interval(values.to_numpy(float)) for method, values in each}


def tied_candidates(run: Run, *, seed: int = 0) -> pd.DataFrame:
    """Return candidates.csv with what its validation IoU says of the best.

    Parameters
    ----------
    run : Run
    seed : int
        See `analysis.statistics.tied_set`.

    Returns
    -------
    DataFrame
        With further columns iou_mean (over groups of validation images and seeds), iou_low,
        iou_high (its 95 % confidence interval) and tied, as `tied_set` gives them, for the
        candidates with a finished trial; in `run`'s order. As in the run folder where that has no
        IoU of single images.
    """
    table, images = run.candidates, run.per_image
    needed = {"trial_id", "split", "image", "group", "intersection", "union"}
    if table.empty or not needed <= set(images) or "candidate" not in run.leaderboard:
        return table
    done = run.leaderboard.loc[run.leaderboard["status"] == "done"]
    trials = done[["trial_id", "candidate", "seed"]]
    if folds := folds_of(run.plan):
        trials = trials[
            trials.groupby(["candidate", "seed"])["trial_id"].transform("size") == folds
        ]
    images = images[images["split"] == "val"].merge(trials, on="trial_id")
    unit = images["group"].where(images["group"].notna(), images["image"])
    split = ((run.plan.get("data") or {}).get("options") or {}).get("split")
    if split == "time_blocks" and (unit == images["image"]).all():
        # earlier versions wrote each frame of a time-lapse as a group
        unit = pd.Series(ALL_IMAGES, index=images.index)
    sums = images.assign(unit=unit).groupby(["candidate", "seed", "unit"], sort=False)
    counts = sums[["intersection", "union"]].sum().reset_index()
    # where the table was cut short, a trial may lack units
    here = counts.groupby(["candidate", "seed"])["unit"].transform("nunique")
    counts = counts[here == counts["unit"].nunique()]
    share = counts["intersection"] / counts["union"]
    scores = counts.assign(score=share.where(counts["union"] > 0, 1.0), method=counts["candidate"])
    found = tied_set(scores, seed=seed)[["method", "score", "low", "high", "tied"]]
    names = ["candidate", "iou_mean", "iou_low", "iou_high", "tied"]
    return table.merge(found.set_axis(names, axis=1), on="candidate", how="left")


def score_tables(
    trials: Sequence[AnalysedTrial],
    unit: str,
    split: str,
    pixel_sizes: Mapping[str, float | None] | None = None,
    given: Sequence[GivenTrial] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of all images together, and those of each independent unit.

    Parameters
    ----------
    trials : sequence of AnalysedTrial
        With folds, validation images of all of them count for the trial of the first one.
    unit : str
        The independent unit.
    split : str
        Name for the split of the measured images.
    pixel_sizes : mapping of str to float, optional
        Side of a pixel in micrometres by split, where it is known: distances are then given in
        micrometres as well.
    given : sequence of GivenTrial, optional
        Labels from elsewhere, which were scored on the measured images only.

    Returns
    -------
    scores, units : DataFrame
        See `analysis.evidence.Evidence`.
    """
    pixel_sizes = pixel_sizes or {}
    rows, each = [], []
    validation = {trial.trial_id: scored for trial, scored in folds_together(trials)}
    sources: list[tuple[str, str, Scored]] = []
    for trial in trials:
        if trial.trial_id in validation:
            sources.append((trial.trial_id, "val", validation[trial.trial_id]))
        sources.append((trial.trial_id, split, trial.measured))
    sources += [(one.trial_id, split, one.measured) for one in given]
    for trial_id, name, scored in sources:
        units, members = unit_members(units_of(scored, unit))
        size = pixel_sizes.get(name)
        for variant, images in scored.scores.items():
            common = {
                "method": variant.method,
                "trial_id": trial_id,
                "split": name,
                "parameters": variant.parameters,
            }
            counts = {
                "units": len(units),
                "images": len(images),
                "true_objects": sum(one.true_objects for one in images),
                "predicted_objects": sum(one.predicted_objects for one in images),
            }
            rows += [
                {**common, "metric": metric, "value": value, **counts}
                for metric, value in _named(pooled(images), size)
            ]
            each += [
                {**common, "metric": metric, "unit": unit_name, "value": value}
                for unit_name, values in zip(units, pooled(images, members))
                for metric, value in _named(values, size)
            ]
    return pd.DataFrame(rows), pd.DataFrame(each)


def _named(values: NDArray[np.float64], pixel_size_um: float | None) -> list[tuple[str, float]]:
    """Name the values of all metrics; add distances in micrometres if the pixel size is known."""
    named = dict(zip(METRICS, values))
    if pixel_size_um is not None:
        named |= {f"{metric}_um": named[metric] * pixel_size_um for metric in LENGTHS}
    return list(named.items())
