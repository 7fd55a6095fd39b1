"""ASHA, which knows what a resumed sweep has seen before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from sweep.trial import SCORE, TIME, to_tune
from trainables.config import TrialConfig


class Halving(ASHAScheduler):
    """Stops trials that fall behind others at the same epoch.

    Ray's own names trials anew in every run, and begins with empty rungs; this one names them by
    their trial_id, so that what the ledger holds of earlier attempts counts: a trial is compared
    with those that have ended, and is not judged a second time at an epoch that it has passed.

    Parameters
    ----------
    fingerprint : str
        Of the data, as trial_ids have it.
    most_epochs : int
        Of the longest trial.
    grace_epochs : int
        That every trial gets.
    """

    def __init__(self, fingerprint: str, most_epochs: int, grace_epochs: int) -> None:
        # one more than the last epoch, at which trials end by themselves and are tested
        most = 1 + most_epochs
        super().__init__(
            time_attr=TIME,
            metric=SCORE,
            mode="max",
            max_t=most,
            grace_period=min(grace_epochs, most),
        )
        self._fingerprint = fingerprint

    def remember(self, config: TrialConfig, history: Iterable[Mapping[str, Any]]) -> None:
        """Take note of the epochs that a trial has had before, without judging it.

        Parameters
        ----------
        config : TrialConfig
        history : iterable of mapping
            Rows of history.csv, in the order of their epochs.
        """
        trial, best = SimpleNamespace(config={"trial": {"config": config.model_dump()}}), 0.0
        self.on_trial_add(None, trial)
        for row in history:
            best = max(best, row["val_dataset_iou"] or 0.0)
            self.on_trial_result(None, trial, to_tune(row["epoch"], config.epochs, best))
        self.on_trial_remove(None, trial)

    def _named(self, trial: Any) -> Any:
        config = TrialConfig.model_validate(trial.config["trial"]["config"])
        return SimpleNamespace(trial_id=config.trial_id(self._fingerprint))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begin to follow a trial."""
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Say whether a trial goes on."""
        return str(super().on_trial_result(tune_controller, self._named(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget a trial, but not what it reached."""
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial, but not what it reached."""
        super().on_trial_remove(tune_controller, self._named(trial))
