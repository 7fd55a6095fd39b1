"""Trials that have ended: what the driver records of them, and what it need not keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.trial import SCORE, TIME

READ = ("trial_id", "done", "training_iteration")
"""The values of a trial's last result that Tune may still look at."""
COPIES = ("config", "_Trial__unresolved_config", "evaluated_params")
"""Attributes of Tune's trials that hold the configuration."""


def forget_metrics(trial: Any) -> None:
    """Drop the metrics and the configuration of one of Ray Tune's trials that has ended.

    Tune keeps statistics of every reported value, the last result and three copies of the
    configuration of each trial until the end of the sweep, once as objects and once as text, and
    writes all of them into its state every few seconds. The ledger has what counts. The statistics
    of the two values that schedulers used stay, so that one can look up what they were told.

    Parameters
    ----------
    trial : ray.tune.experiment.trial.Trial
        Its scheduler, searcher and callbacks must have been told of its end.
    """
    metadata = trial.run_metadata
    seen = metadata.metric_analysis
    metadata.metric_analysis = {name: seen[name] for name in (SCORE, TIME) if name in seen}
    metadata.metric_n_steps = {}
    metadata.last_result = {k: metadata.last_result.get(k) for k in READ}
    trial._default_result_or_future = trial.trial_dirname_creator = None
    for name in COPIES:
        if hasattr(trial, name):
            setattr(trial, name, {})
    trial.invalidate_json_state()


def metrics_so_far(history: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a trial whose worker recorded none, from its epochs by number.

    Empty if no epoch was validated.
    """
    rows = [row for row in history.values() if row["val_dataset_iou"] is not None]
    if not rows:
        return {}
    best = max(rows, key=lambda row: row["val_dataset_iou"])
    return {
        "val_dataset_iou": best["val_dataset_iou"],
        "val_image_iou": best["val_image_iou"],
        "best_epoch": best["epoch"],
        "epochs": max(history),
        "train_seconds": sum(row["seconds"] for row in history.values()),
    }
