"""Table 1 of the paper: our trials, and the paper's numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.evidence import Evidence
from analysis.folds import SHOWN, folds_of
from trainables.config import STARDIST
from trainables.names import network_name
from trainables.tasks import TASKS

PAPER: dict[str, tuple[float, str, float, float]] = {
    "Unet": (67.2, "21:41", 0.0165, 87.21),
    "UnetPlusPlus": (83.6, "30:10", 0.0149, 88.88),
    "MAnet": (182.0, "25:31", 0.0242, 87.37),
    "Linknet": (65.8, "21:02", 0.0517, 86.76),
    "FPN": (60.8, "15:39", 0.0272, 84.01),
    "DeepLabV3": (74.3, "18:49", 0.0572, 75.57),
    "DeepLabV3Plus": (61.3, "48:33", 0.0394, 83.50),
    "PAN": (58.9, "16:46", 0.0581, 80.35),
}
"""Table 1 of Vasinkova et al. 2024, encoder ResNet-152, two classes: parameters in millions,
training time, loss, data-set IoU of the test images in per cent."""


def chosen_trials(board: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trial that is best on validation for each task, architecture, encoder.

    With folds, of the trials of the first one, since validation images of folds differ; the test
    IoU is then the mean over all finished folds of its seed.
    """
    done = board[board["status"] == "done"]
    if "fold" in done and "candidate" in done:
        folds = done.groupby(["candidate", "seed"], sort=False)["test_dataset_iou"]
        mean = folds.transform("mean")
        done = done.assign(
            test_dataset_iou=mean.where(done["fold"].notna(), done["test_dataset_iou"])
        )
    if "fold" in done:
        done = done[done["fold"].isna() | (done["fold"] == SHOWN)]
    done = done.sort_values("val_dataset_iou", ascending=False, kind="stable")
    keys = done[["task", "architecture", "encoder"]].fillna("")
    return done[~keys.duplicated()]


def table1(evidence: Evidence) -> pd.DataFrame:
    """Return the paper's Table 1 for our trials, with the paper's numbers beside ours.

    The loss is the training loss of the epoch whose weights were kept. One row per task,
    architecture and encoder: the trial best on validation. Numbers are rounded as printed.
    """
    if evidence.leaderboard.empty:
        return pd.DataFrame()
    rows = []
    for trial in chosen_trials(evidence.leaderboard).to_dict("records"):
        encoder = trial["encoder"] if trial["architecture"] != STARDIST else ""
        printed = PAPER.get(trial["architecture"])
        same = printed if encoder == "resnet152" and TASKS[trial["task"]].in_table1 else None
        rows.append(
            {
                "model": network_name(trial["architecture"], encoder, trial["task"]),
                "task": trial["task"],
                "seed": trial["seed"],
                "parameters_m": _rounded(trial["parameters_m"], 1),
                "training_time": minutes(trial["train_seconds"]),
                "trials_beside": trial.get("trials_beside", math.nan),
                "loss": _rounded(_kept_loss(evidence.history, trial), 4),
                "test_dataset_iou_percent": _rounded(100 * trial["test_dataset_iou"], 2),
                "paper_parameters_m": same[0] if same else None,
                "paper_training_time": same[1] if same else None,
                "paper_loss": same[2] if same else None,
                "paper_iou_percent": same[3] if same else None,
            }
        )
    return pd.DataFrame(rows)


def table1_caption(evidence: Evidence) -> str:
    """Return the caption of Table 1; it says what training time means."""
    beside = "A trial may have shared its GPU or processor with others."  # an earlier version's
    if "trials_beside" in evidence.leaderboard:
        beside = (
            "Trials beside: how many others shared the trial's GPU, or without a GPU its machine, "
            "on average; alone, it would have taken less time."
        )
    return (
        "Table 1 of the paper: our numbers beside the paper's (which exist for ResNet-152 with two "
        f"classes). Training time is mm:ss. {beside} Loss is the training loss at the epoch whose "
        f"weights were kept.{_folds_said(evidence)}"
    )


def _folds_said(evidence: Evidence) -> str:
    if not folds_of(evidence.plan):
        return ""
    return f" IoU is the mean over the networks of all folds; all else is of fold {SHOWN}."


def _kept_loss(history: pd.DataFrame, trial: Mapping[Any, Any]) -> float:
    """Return the training loss at the epoch whose weights were kept; NaN when unknown."""
    if history.empty or "train_loss" not in history:
        return math.nan
    lines = history[history["trial_id"] == trial["trial_id"]]
    lines = lines[lines["epoch"] == trial["best_epoch"]]
    return float(lines["train_loss"].iloc[-1]) if len(lines) else math.nan


def _rounded(value: Any, digits: int) -> float:
    return math.nan if value is None else round(float(value), digits)


def minutes(seconds: Any) -> str | None:
    """Return a duration in the paper's format, mm:ss.

    >>> minutes(1301.4)
    '21:41'
    """
    if seconds is None or not math.isfinite(seconds):
        return None
    whole = round(seconds)
    return f"{whole // 60:02d}:{whole % 60:02d}"
