"""Runs the missing trials of a plan with Ray Tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweep.leaderboard import planned
from sweep.limits import Limits, limits_from
from sweep.nodes import any_node_left, label_selector
from sweep.plan import Plan
from sweep.recorder import Recorder
from sweep.resources import Resources, slots
from sweep.tracking import TrackingOptions
from sweep.trial import config_of, limits_of, reason_of, run_trial
from sweep.view import View
from sweep.weights import weights_ids


class NoNodeLeft(RuntimeError):
    """The cluster's nodes do not see the run folder or the data, or have gone."""


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


MOST_RESTARTS = 20
"""Of Ray Tune in one sweep."""


def _fit_on(fit: Callable[[list[str]], None], todo: list[str], recorder: Recorder) -> None:
    """Run trials to their end, going on when Ray Tune itself gives up.

    It does so when Ray's memory monitor kills a worker at the wrong moment.
    """
    for restart in range(MOST_RESTARTS + 1):
        try:
            fit(todo)
            return
        except (ray.exceptions.RayError, tune.TuneError) as error:
            if recorder.interrupts.happened:
                return
            if restart == MOST_RESTARTS:
                raise
            todo = recorder.left_by_tune(todo, reason_of(error))
            if not todo:
                return


def run(
    out: Path,
    plan: Plan,
    recorded: Mapping[str, Any],
    todo: Sequence[str],
    samples: int,
    limits: Mapping[str, Limits],
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
    limits : mapping
        trial_id to what a trial may take at first; under ``""`` what all others may.
    resources : Resources
    tracking : TrackingOptions
    view : View

    Returns
    -------
    list of dict
        The leaderboard's rows.

    Raises
    ------
    NoNodeLeft
        When trials are left that no node can train.
    """
    settings = plan.request.settings
    base = plan.request.configs[0]
    runtime: dict[str, Any] = {
        "out": str(out),
        "data": plan.data,
        "data_options": plan.request.data_options.model_dump(),
        "fingerprint": plan.fingerprint,
        "base": base.model_dump(mode="json"),
        "weights_ids": weights_ids(plan.request),
        "tracking": vars(tracking),
        "options": {
            "threads": max(1, math.floor(settings.cpus_per_trial)),
            "checkpoint_seconds": settings.checkpoint_seconds,
            "weights_cache": str(out / "weights"),
        },
    }
    runtime["limits"] = limits[""].to_dict()
    runtime["most_memory_gb"] = settings.most_memory_per_trial or resources.memory_gb
    assert plan.precision is not None
    precision = plan.precision
    runtime["precision"] = precision.to_dict()
    runtime["refuse"] = resources.avoid is not None
    runtime["token"], runtime["scheduler"] = resources.token, settings.scheduler
    runtime["retries"] = settings.retries
    recorder = Recorder(
        out, recorded, runtime, view, avoid=resources.avoid or (), asks_for=plan.asks_for
    )
    at_once = slots(settings, resources)
    scheduler = None
    if settings.scheduler == "asha":
        most = max([t["config"]["epochs"] for t in recorded["trials"]], default=base.epochs)
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="scheduler_epoch",
            metric="score",
            mode="max",
            # one more than the last epoch, at which trials end by themselves and are tested
            max_t=1 + most,
            grace_period=settings.grace_epochs,
        )

    def fit(param_space: dict[str, Any], **options: Any) -> None:
        runtime["round"] = f"{time.time_ns():x}"
        avoid = None if resources.avoid is None else frozenset(recorder.avoid)
        blind = frozenset(recorder.losses.blind)
        if blind and not any_node_left(blind, settings.cpus_per_trial, limits[""].gpu):
            raise NoNodeLeft("no node is left that sees the run folder and the data")
        other_nodes, other_types = resources.other_nodes, resources.other_types

        # Ray keeps a copy of this function and of what it refers to: plain values only
        def needs(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            own = limits_of(config, limits[""])
            on_gpu = bool(own.gpu)
            bundle: dict[str, float] = {
                "CPU": settings.cpus_per_trial,
                **({"GPU": own.gpu} if own.gpu else {}),
            }
            if own.memory_gb is not None:
                bundle["memory"] = own.memory_gb * 2**30
            bf16 = avoid is not None and precision.demands_bf16(config_of(config, runtime), on_gpu)
            selector = label_selector(
                {*blind, *(avoid if bf16 and avoid else ()), *(other_nodes if on_gpu else ())},
                on_gpu and bf16,
                other_types if on_gpu else (),
            )
            away = {"bundle_label_selector": [selector]} if selector else {}
            return tune.PlacementGroupFactory([bundle], **away)

        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, runtime=runtime), needs),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                **options,
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}",
                storage_path=str(out / "tune"),
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=settings.retries),
                verbose=0,
            ),
        )
        with recorder.interrupts:
            tuner.fit()

    def grid(trial_ids: Sequence[str]) -> dict[str, Any]:
        configs = planned(recorded, recorder.records)
        listed = [
            {
                "config": configs[i],
                "limits": limits_from(recorder.records.get(i), limits.get(i, limits[""])).to_dict(),
            }
            for i in trial_ids
        ]
        return {"trial": tune.grid_search(listed)}

    try:
        if plan.drawn:
            configs = planned(recorded, recorder.records)
            finished = [r for i, r in recorder.records.items() if i not in todo]
            search = tune.search.ConcurrencyLimiter(
                _search(plan, finished, [configs[i] for i in todo]), max_concurrent=at_once
            )
            fit({}, search_alg=search, scheduler=scheduler, num_samples=samples + len(todo))
        else:
            _fit_on(
                lambda left: fit(
                    grid(left), scheduler=scheduler, max_concurrent_trials=settings.concurrency
                ),
                list(todo), recorder,
            )  # fmt: skip
        # what ran out of memory tries again with more of it, and what met a node that does not
        # compute in its precision, or does not see the run folder, on others, until all have ended
        while not recorder.interrupts.happened and (again := recorder.to_try_again()):
            _fit_on(
                lambda left: fit(grid(left), max_concurrent_trials=settings.concurrency),
                again, recorder,
            )  # fmt: skip
    finally:
        rows = recorder.write_tables()
    return rows
