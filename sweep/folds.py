"""The folds of a candidate, put together: every group is validated once, by the network of the fold
that did not train on it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainables.metrics import iou_from_counts

IOUS = ("val_dataset_iou", "val_image_iou", "test_dataset_iou", "test_image_iou")
ReadImages = Callable[[str], Sequence[Mapping[str, Any]]]
"""Returns one row of per_image.csv for each image of a finished trial."""


def folds_of(plan: Mapping[str, Any]) -> int:
    """Return the number of folds of a run; 0 without folds.

    Parameters
    ----------
    plan : mapping
        Contents of plan.json.
    """
    options = plan.get("data", {}).get("options", {})
    return int(options.get("folds") or 0)


def by_seed(
    members: Sequence[Mapping[str, Any]], folds: int, read_images: ReadImages
) -> tuple[list[dict[str, float]], str]:
    """Return a candidate's IoUs for each seed, and which folds are missing.

    Parameters
    ----------
    members : sequence of mapping
        The leaderboard's rows of one candidate.
    folds : int
        Number of folds; 0 without folds, each trial then being a seed.
    read_images : callable
        Only used with folds.

    Returns
    -------
    seeds : list of dict
        The four IoUs of each seed all of whose folds are done. With folds, those of validation are
        over all images that are not for testing, each as the network sees it that did not train on
        it: the data-set IoU from the sums of intersections and unions, the image IoU as mean over
        images. Those of the test are means over the folds' networks.
    missing : str
        Such as ``seed 0: 2, 3; seed 1: 5``; empty if nothing is missing.
    """
    done = [row for row in members if row["status"] == "done"]
    if not folds:
        return [{name: float(row[name]) for name in IOUS} for row in done], ""
    seeds, lacking = [], []
    for seed in sorted({row["seed"] for row in members}):
        trials = {row["fold"]: row for row in done if row["seed"] == seed}
        counts = {fold: _validated(read_images(row["trial_id"])) for fold, row in trials.items()}
        absent = [fold for fold in range(1, folds + 1) if not counts.get(fold)]
        if absent:
            lacking.append(f"seed {seed}: {', '.join(map(str, absent))}")
            continue
        together = iou_from_counts([pair for pairs in counts.values() for pair in pairs])
        values = dict(zip(IOUS, together))
        for name in IOUS[2:]:
            values[name] = statistics.fmean(float(row[name]) for row in trials.values())
        seeds.append(values)
    return seeds, "; ".join(lacking)


def _validated(images: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return intersection and union, in pixels, of each validation image."""
    return [(one["intersection"], one["union"]) for one in images if one["split"] == "val"]


def in_order(
    rows: Sequence[dict[str, Any]], table: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Sort trials by the place of their candidate, since validation images of folds differ.

    Parameters
    ----------
    rows : sequence of dict
        The leaderboard's rows, which `sweep.leaderboard.rank` has sorted.
    table : sequence of mapping
        The candidates, best first.

    Returns
    -------
    list of dict
        Finished trials first, as before; of a candidate by seed and fold.
    """
    place = {line["candidate"]: number for number, line in enumerate(table)}
    state = {name: number for number, name in enumerate(dict.fromkeys(r["status"] for r in rows))}
    return sorted(
        rows,
        key=lambda row: (
            state[row["status"]],
            place[row["candidate"]],
            row["seed"],
            row["fold"] or 0,
        ),
    )
