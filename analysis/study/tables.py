"""The tables of methods and scores, made from the results of all trials."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members
from analysis.evaluation.selection import Selected, select
from analysis.instances.methods import GIVEN_BACK, way_of
from analysis.runfolder import Run, command_of
from analysis.study.trials import AnalysedTrial, Scored


def standing(trials: Sequence[AnalysedTrial], unit: str) -> dict[str, Selected]:
    """Return the calibrated validation score of each method over all its seeds."""
    methods: dict[str, list[list[ImageScores]]] = {}
    for trial in trials:
        for variant, scores in trial.validation.scores.items():
            if variant.calibrated:
                methods.setdefault(variant.method, []).append(scores)
    return select(methods, units_of(trials[0].validation, unit))


def units_of(scored: Scored, unit: str) -> list[str]:
    """Return the independent unit of each image (its group if tracks are the units)."""
    return scored.images if unit == "image" else scored.groups


def method_table(run: Run, trials: Sequence[AnalysedTrial], unit: str) -> pd.DataFrame:
    """Return `analysis.evidence.Evidence.methods`: one row per method and trial, best first."""
    places = standing(trials, unit)
    rows = []
    for trial in trials:
        config = run.configs[trial.trial_id]
        calibration = trial.calibration
        for variant in (one for one in trial.variants if one.calibrated):
            place = places[variant.method]
            rows.append(
                {
                    "method": variant.method,
                    "trial_id": trial.trial_id,
                    "task": config.task,
                    "architecture": config.architecture,
                    "encoder": config.encoder,
                    "seed": config.seed,
                    "way": GIVEN_BACK if variant.give_back_gap else way_of(config),
                    "representative": trial.representative,
                    "default": json.dumps(calibration.default),
                    "calibrated": json.dumps(calibration.calibrated),
                    "at_bound": " ".join(calibration.at_bound),
                    "val_score": place.score,
                    "val_units": place.units,
                    "val_lowest": place.lowest,
                    "val_highest": place.highest,
                    "command": command_of(run, trial.trial_id),
                }
            )
    return pd.DataFrame(rows).sort_values(
        ["val_score", "method", "representative"],
        ascending=[False, True, False],
        kind="stable",
        ignore_index=True,
    )


def score_tables(
    trials: Sequence[AnalysedTrial], unit: str, split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of all images together, and those of each independent unit.

    Parameters
    ----------
    trials : sequence of AnalysedTrial
    unit : str
        The independent unit.
    split : str
        Name for the split of the measured images.

    Returns
    -------
    scores, units : DataFrame
        See `analysis.evidence.Evidence`.
    """
    rows, each = [], []
    for trial in trials:
        for name, scored in (("val", trial.validation), (split, trial.measured)):
            units, members = unit_members(units_of(scored, unit))
            for variant, images in scored.scores.items():
                common = {
                    "method": variant.method,
                    "trial_id": trial.trial_id,
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
                    for metric, value in zip(METRICS, pooled(images))
                ]
                each += [
                    {**common, "metric": metric, "unit": unit_name, "value": value}
                    for unit_name, values in zip(units, pooled(images, members))
                    for metric, value in zip(METRICS, values)
                ]
    return pd.DataFrame(rows), pd.DataFrame(each)
