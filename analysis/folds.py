"""Runs with folds: each group is validated once, by the network that was not trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from trainables.config import TrialConfig

SHOWN = 1
"""The fold whose networks are shown, measured and recommended. Validation images of folds differ,
so no fold can be said to be better than another."""


def folds_of(plan: Mapping[str, Any]) -> int:
    """Return the number of folds that plan.json records; 0 without folds."""
    options = (plan.get("data") or {}).get("options") or {}
    return int(options.get("folds") or 0)


def network_shown(plan: Mapping[str, Any]) -> str:
    """Say which of a method's networks cells are shown and measured of.

    >>> network_shown({}), network_shown({"data": {"options": {"folds": 3}}})
    ('best seed', 'fold 1 of the best seed')
    """
    return f"fold {SHOWN} of the best seed" if folds_of(plan) else "best seed"


def whole_seeds(
    configs: Mapping[str, TrialConfig], folds: int
) -> tuple[list[list[str]], dict[int, list[int]]]:
    """Return the seeds of one candidate all of whose folds are there.

    Parameters
    ----------
    configs : mapping
        Configuration of each of its trials by trial_id.
    folds : int
        Number of folds; 0 without folds, each trial then being a seed.

    Returns
    -------
    seeds : list of lists of str
        The trial_ids of each such seed, in the order of the folds.
    missing : dict
        The missing folds of every other seed.
    """
    if not folds:
        return [[trial_id] for trial_id in configs], {}
    seeds, missing = [], {}
    for seed in dict.fromkeys(config.seed for config in configs.values()):
        trials = {config.fold: i for i, config in configs.items() if config.seed == seed}
        absent = [fold for fold in range(1, folds + 1) if fold not in trials]
        if absent:
            missing[seed] = absent
        else:
            seeds.append([trials[fold] for fold in range(1, folds + 1)])
    return seeds, missing


def pooled_iou(per_image: pd.DataFrame) -> pd.DataFrame:
    """Return intersection and union summed over the validation images of each trial.

    Parameters
    ----------
    per_image : DataFrame
        per_image.csv.

    Returns
    -------
    DataFrame
        Columns intersection and union in pixels, by trial_id; empty where the table lacks any.
    """
    needed = ["trial_id", "split", "intersection", "union"]
    if not set(needed) <= set(per_image):
        return pd.DataFrame(columns=["intersection", "union"])
    images = per_image[per_image["split"] == "val"]
    return images.groupby("trial_id")[["intersection", "union"]].sum()


def seed_score(trials: list[str], sums: pd.DataFrame, alone: pd.Series) -> float:
    """Return the validation data-set IoU of a seed over all its folds.

    Parameters
    ----------
    trials : list of str
        The trial_ids of its folds.
    sums : DataFrame
        As `pooled_iou` gives it.
    alone : Series
        val_dataset_iou of each trial by trial_id. Their mean is returned if `sums` lacks a trial.
    """
    if len(trials) == 1 or not set(trials) <= set(sums.index):
        return float(alone[trials].mean())
    both = sums.loc[trials].sum()
    return float(both["intersection"] / both["union"]) if both["union"] else 1.0
