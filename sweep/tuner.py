"""Runs the missing trials of a plan with Ray Tune and keeps the ledger and tables up to date."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback

from sweep.leaderboard import planned, write_history, write_tables
from sweep.ledger import Ledger
from sweep.plan import Plan
from sweep.resources import Resources, gpus_per_trial, slots
from sweep.tracking import TrackingOptions
from sweep.trial import config_of, reason_of, run_trial
from sweep.view import TrialState, View
from trainables.config import EpochRecord, TrialConfig

TABLES_SECONDS = 2.0
_EPOCH_FIELDS = tuple(EpochRecord.__dataclass_fields__)


def short_name(config: TrialConfig) -> str:
    """Return what names a trial on the screen."""
    task = "" if config.task == "semantic2" else f" {config.task}"
    return f"{config.architecture} {config.encoder} s{config.seed}{task}"


class Recorder(Callback):
    """Follows Tune's trials: ledger, tables and screen.

    Parameters
    ----------
    out : Path
        The run folder.
    plan : dict
        Contents of plan.json.
    runtime : dict
        As `sweep.trial.run_trial` takes it.
    view : View
    """

    def __init__(
        self, out: Path, plan: Mapping[str, Any], runtime: dict[str, Any], view: View
    ) -> None:
        self.out, self.plan, self.runtime, self.view = out, plan, runtime, view
        self.ledger = Ledger(out)
        self.records = self.ledger.read()
        self.states: dict[str, TrialState] = {}
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self._tables = 0.0
        for trial_id, config in planned(plan, self.records).items():
            self._state(trial_id, TrialConfig.model_validate(config))

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything behind: Tune saves its callbacks to restore runs, which ours never
        needs, and the screen cannot be saved.
        """
        return {}

    def _state(self, trial_id: str, config: TrialConfig) -> TrialState:
        if trial_id not in self.states:
            state = TrialState(trial_id, short_name(config), epochs=config.epochs)
            record = self.records.get(trial_id, {})
            if record.get("status") in ("done", "failed", "stopped"):
                metrics = record.get("metrics", {})
                state.status, state.error = record["status"], record.get("error", "")
                state.epoch = metrics.get("epochs") or 0
                state.val_dataset_iou = metrics.get("val_dataset_iou")
            self.states[trial_id] = state
        return self.states[trial_id]

    def _of(self, trial: Any) -> tuple[TrialConfig, TrialState]:
        config = config_of(trial.config, self.runtime)
        return config, self._state(config.trial_id(self.runtime["fingerprint"]), config)

    def _record(self, state: TrialState, config: TrialConfig, status: str, **fields: Any) -> None:
        self.ledger.write(state.trial_id, config, status, **fields)  # type: ignore[arg-type]
        record = self.ledger.read_one(state.trial_id)
        assert record is not None
        self.records[state.trial_id] = record

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Mark a trial as running; its worker records that in the ledger."""
        _, state = self._of(trial)
        rows = self.ledger.read_history(state.trial_id)
        self.history.setdefault(state.trial_id, {row["epoch"]: row for row in rows})
        state.status = "running"

    def _wandb(self, state: TrialState) -> str:
        return "" if self.runtime["tracking"]["mode"] == "off" else state.trial_id

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Take note of one epoch."""
        if "epoch" not in result:
            return
        _, state = self._of(trial)
        row: dict[str, Any] = {name: result.get(name) for name in _EPOCH_FIELDS}
        self.history.setdefault(state.trial_id, {})[row["epoch"]] = row
        state.epoch = row["epoch"]
        state.epochs_here += 1
        state.train_loss = row["train_loss"]
        state.seconds += row["seconds"]
        state.val_dataset_iou = result["score"] or state.val_dataset_iou

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Read what the worker recorded, or note that the scheduler stopped the trial."""
        config, state = self._of(trial)
        record = self.ledger.read_one(state.trial_id)
        if record is None or record["status"] == "running":
            self._keep_history(state.trial_id)
            metrics = self._so_far(state.trial_id)
            self._record(
                state, config, "stopped",
                metrics=metrics,
                attempts=self.ledger.attempts(state.trial_id),
                wandb_id=self._wandb(state),
            )  # fmt: skip
        else:
            self.records[state.trial_id] = record
        self._settle(state)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record a trial as failed for good, once its retries are used up."""
        config, state = self._of(trial)
        error = _root_cause(trial)
        self._keep_history(state.trial_id)
        attempts = self.ledger.attempts(state.trial_id)
        self._record(
            state, config, "failed",
            error=f"{error} (after {len(attempts)} attempts)",
            metrics=self._so_far(state.trial_id),
            attempts=attempts,
            wandb_id=self._wandb(state),
        )  # fmt: skip
        self._settle(state)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a trial starts again after an error."""
        _, state = self._of(trial)
        state.status = "waiting"
        self.view.message(f"{state.name}: {_root_cause(trial)}; trying again")

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Refresh screen and tables, each at its own pace."""
        self.view.update(list(self.states.values()))
        if time.monotonic() - self._tables >= TABLES_SECONDS:
            self.write_tables()

    def write_tables(self) -> list[dict[str, Any]]:
        """Write the tables of the run as it stands; return the ranked rows."""
        self._tables = time.monotonic()
        for trial_id, state in self.states.items():
            if state.status == "running":
                self._keep_history(trial_id)
                record = self.ledger.read_one(trial_id)
                if record is not None:
                    self.records[trial_id] = record
        rows = write_tables(self.out, self.plan, self.records)
        write_history(self.out, self.ledger, [row["trial_id"] for row in rows])
        return rows

    def _keep_history(self, trial_id: str) -> None:
        rows = sorted(self.history.get(trial_id, {}).values(), key=lambda row: row["epoch"])
        if rows:
            self.ledger.write_history(trial_id, rows)

    def _so_far(self, trial_id: str) -> dict[str, Any]:
        rows = [r for r in self.history.get(trial_id, {}).values() if r["val_dataset_iou"]]
        if not rows:
            return {}
        best = max(rows, key=lambda row: row["val_dataset_iou"])
        return {
            "val_dataset_iou": best["val_dataset_iou"],
            "val_image_iou": best["val_image_iou"],
            "best_epoch": best["epoch"],
            "epochs": max(self.history[trial_id]),
            "train_seconds": sum(row["seconds"] for row in self.history[trial_id].values()),
        }

    def _settle(self, state: TrialState) -> None:
        record = self.records[state.trial_id]
        state.status, state.error = record["status"], record.get("error", "")
        self.history.pop(state.trial_id, None)
        self.view.update(list(self.states.values()))


def _root_cause(trial: Any) -> str:
    """Return why a trial's last attempt ended, in one line."""
    error = trial.get_pickled_error() or trial.get_error()
    if error is None:
        return "its worker was lost"
    cause = getattr(error, "cause", None) or error
    text = reason_of(cause)
    if "TransientError" in text:
        lines = [line.strip() for line in str(error).splitlines() if "TransientError" in line]
        return lines[-1].split("TransientError:", 1)[-1].strip() if lines else text
    if "ActorDied" in type(error).__name__ or "ActorUnavailable" in type(error).__name__:
        return f"its worker or node was lost ({type(error).__name__})"
    return text


def _search(plan: Plan, finished: Sequence[Mapping[str, Any]], waiting: Sequence[Any]) -> Any:
    """Make the Optuna search, told of what is known and what was interrupted."""
    import optuna
    from optuna.distributions import BaseDistribution
    from ray.tune.search.optuna import OptunaSearch

    def suggest(kind: Any) -> BaseDistribution:
        if isinstance(kind, list | tuple) and kind and kind[0] in ("loguniform", "uniform"):
            return optuna.distributions.FloatDistribution(
                kind[1], kind[2], log=kind[0] == "loguniform"
            )
        return optuna.distributions.CategoricalDistribution(tuple(kind))

    dimensions: dict[str, Any] = dict(plan.request.space.dimensions)
    for name in ("architecture", "encoder"):
        choices = list(dict.fromkeys(getattr(c, name) for c in plan.request.configs))
        if len(choices) > 1 and name not in dimensions:
            dimensions[name] = choices
    distributions = {name: suggest(kind) for name, kind in dimensions.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=plan.request.configs[0].seed + len(finished))

    def point(config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: config[name] for name in distributions}

    search = OptunaSearch(
        space=distributions, metric="score", mode="max", sampler=sampler,
        points_to_evaluate=[point(c) for c in waiting] or None,
    )  # fmt: skip
    for record in finished:
        value = record.get("metrics", {}).get("val_dataset_iou")
        if value is not None:
            search.add_evaluated_point(point(record["config"]), value)
    return search


def run(
    out: Path,
    plan: Plan,
    recorded: Mapping[str, Any],
    todo: Sequence[str],
    samples: int,
    resources: Resources,
    tracking: TrackingOptions,
    view: View,
) -> list[dict[str, Any]]:
    """Run trials until all are done, failed for good, or the user interrupts.

    Parameters
    ----------
    out : Path
        Absolute run folder.
    plan : Plan
    recorded : dict
        Contents of plan.json.
    todo : sequence of str
        trial_ids to run (of a search: those that were interrupted).
    samples : int
        Further trials for a search to draw.
    resources : Resources
    tracking : TrackingOptions
    view : View

    Returns
    -------
    list of dict
        The leaderboard's rows.
    """
    settings = plan.request.settings
    gpu = gpus_per_trial(settings, resources)
    base = plan.request.configs[0]
    runtime = {
        "out": str(out),
        "data": plan.data,
        "data_options": plan.request.data_options.model_dump(),
        "fingerprint": plan.fingerprint,
        "base": base.model_dump(mode="json"),
        "tracking": vars(tracking),
        "options": {
            "threads": max(1, math.floor(settings.cpus_per_trial)),
            "checkpoint_seconds": settings.checkpoint_seconds,
            "weights_cache": str(out / "weights"),
        },
    }
    recorder = Recorder(out, recorded, runtime, view)
    configs = planned(recorded, recorder.records)
    at_once = slots(settings, resources)
    if plan.drawn:
        finished = [r for i, r in recorder.records.items() if i not in todo]
        search = tune.search.ConcurrencyLimiter(
            _search(plan, finished, [configs[i] for i in todo]), max_concurrent=at_once
        )
        param_space, count = {}, samples + len(todo)
    else:
        search, count = None, 1
        param_space = {"trial": tune.grid_search([configs[i] for i in todo])}
    scheduler = None
    if settings.scheduler == "asha":
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            metric="score",
            mode="max",
            # one more than the last epoch, at which trials end by themselves and are tested
            max_t=1 + max([c["epochs"] for c in configs.values()], default=base.epochs),
            grace_period=settings.grace_epochs,
        )
    bundle = {"CPU": settings.cpus_per_trial, **({"GPU": gpu} if gpu else {})}
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, runtime=runtime), tune.PlacementGroupFactory([bundle])
        ),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=count,
            max_concurrent_trials=None if plan.drawn else settings.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(out / "tune"),
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        rows = recorder.write_tables()
    return rows
