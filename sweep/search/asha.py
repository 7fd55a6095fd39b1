"""ASHA that knows the earlier epochs of a resumed sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from sweep.trial import SCORE, TIME, to_tune
from trainables.config import TrialConfig


class Halving(ASHAScheduler):
    """Stops trials that fall behind others at the same epoch.

    Ray's own scheduler gives trials new names in every run, and starts with empty rungs. This one
    uses their trial_ids, so that earlier attempts in the ledger count: a trial is compared with
    trials that have ended, and is not judged again at an epoch that it has passed.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of the data, as in trial_ids.
    most_epochs : int
        Number of epochs of the longest trial.
    grace_epochs : int
        Number of epochs that every trial gets.
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
        """Add the earlier epochs of a trial without judging it.

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
        """Add a trial."""
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial continues."""
        return str(super().on_trial_result(tune_controller, self._named(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remove a trial, but keep its results."""
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Remove a trial, but keep its results."""
        super().on_trial_remove(tune_controller, self._named(trial))
