"""Runs the missing trials of a plan with Ray Tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search_spaces._dimensions import Range
from sweep.allowances import Limits, limits_from
from sweep.cluster.nodes import any_node_left, label_selector
from sweep.leaderboard import planned
from sweep.plan import Plan
from sweep.recorder import Recorder
from sweep.resources import Resources
from sweep.search.asha import Halving
from sweep.search.drawn_allowances import DrawnLimits
from sweep.search.searcher import Draws, open_study
from sweep.storage import storage_error
from sweep.tracking import TrackingOptions
from sweep.trial import config_of, limits_of, reason_of, run_trial
from sweep.view import View
from sweep.weights import weights_ids
from trainables.config import TrialConfig


class NoNodeLeft(RuntimeError):
    """No node can take the trials that are left: all have gone, see no folders or have no GPU."""


MOST_RESTARTS = 20
"""Of Ray Tune in one sweep."""


def _fit_on(
    fit: Callable[[list[str]], None],
    todo: list[str],
    recorder: Recorder,
    to_draw: Callable[[], int] = lambda: 0,
) -> None:
    """Run trials to their end, going on when Ray Tune itself gives up.

    It does so when Ray's memory monitor kills a worker at the wrong moment.

    Parameters
    ----------
    fit : callable
        Runs the trials with the given trial_ids, and those that a search draws.
    todo : list of str
    recorder : Recorder
    to_draw : callable
        Gives how many trials a search has not drawn yet.
    """
    for restart in range(MOST_RESTARTS + 1):
        try:
            fit(todo)
            return
        except (ray.exceptions.RayError, tune.TuneError) as error:
            if (storage := storage_error(error)) is not None:
                raise storage from error  # the next try would fail at the same
            if recorder.interrupts.happened:
                return
            if restart == MOST_RESTARTS:
                raise
            begun = list(dict.fromkeys([*todo, *recorder.drawn]))
            todo = recorder.left_by_tune(begun, reason_of(error))
            if not todo and not to_draw():
                return


def _search_on(
    search: Callable[[list[str]], None],
    todo: list[str],
    recorder: Recorder,
    to_draw: Callable[[], int],
) -> None:
    """Search until everything is drawn, or nothing new comes; arguments as for `_fit_on`."""
    left = None
    while left is None or 0 < to_draw() < left:
        left = to_draw()
        _fit_on(search, todo, recorder, to_draw)
        if recorder.interrupts.happened:
            return
        todo = []


def _scheduler(plan: Plan, recorder: Recorder) -> Halving | None:
    """Make the scheduler, which hears of all that trials have done before; None: all go on."""
    settings, base = plan.request.settings, plan.request.configs[0]
    if settings.scheduler != "asha":
        return None
    configs = {
        trial_id: TrialConfig.model_validate(config)
        for trial_id, config in planned(recorder.plan, recorder.records).items()
    }
    drawn = plan.request.space.dimensions.get("epochs", [])
    may_be = drawn.examples() if isinstance(drawn, Range) else drawn
    most = max([base.epochs, *map(int, may_be), *(one.epochs for one in configs.values())])
    made = Halving(plan.fingerprint, most, settings.grace_epochs)
    for trial_id, config in configs.items():
        made.remember(config, recorder.past(trial_id))
    return made


def _check_nodes_are_left(
    blind: frozenset[str], no_gpu: frozenset[str], cpus: float, gpus: float
) -> None:
    """Raise where all nodes for a trial that takes so much are among those that got none."""
    out = blind | no_gpu if gpus else blind
    if out and not any_node_left(out, cpus, gpus):
        needs = ["sees the run folder and the data"] if blind else []
        needs += ["has a GPU that torch can use"] if out & no_gpu else []
        raise NoNodeLeft(f"no node is left that {' and '.join(needs)}")


MOST_AHEAD = 8
"""First trials of a search that are estimated at the same time, each in a process of its own."""


def _draws(
    plan: Plan, recorder: Recorder, limits: Mapping[str, Limits], study: Any, waiting: Sequence[str]
) -> Draws:
    """Make the search; of the trials that wait, those without a record are in the study."""
    runtime, records = recorder.runtime, recorder.ledger.read()
    made = Draws(
        study,
        plan.request.space.dimensions,
        lambda drawn: config_of(drawn, runtime),
        recorder.ledger,
        plan.fingerprint,
        [trial_id for trial_id in waiting if trial_id in records],
        max(0, plan.samples - len(records)),
        limits.of if isinstance(limits, DrawnLimits) else lambda *_: limits[""],
    )
    made.ahead = min(MOST_AHEAD, recorder.view.slots)
    return made


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
    most, there = settings.most_memory_per_trial, resources.memory_gb
    if most and there and not resources.token:  # a private Ray: no larger node will come
        most = min(most, there)
    runtime["most_memory_gb"] = most or there
    assert plan.precision is not None
    precision = plan.precision
    runtime["precision"] = precision.to_dict()
    runtime["refuse"] = resources.avoid is not None
    runtime["token"], runtime["scheduler"] = resources.token, settings.scheduler
    runtime["retries"] = settings.retries
    recorder = Recorder(
        out, recorded, runtime, view, avoid=resources.avoid or (), asks_for=plan.asks_for
    )

    def fit(param_space: dict[str, Any], **options: Any) -> None:
        runtime["round"] = f"{time.time_ns():x}"
        avoid = None if resources.avoid is None else frozenset(recorder.avoid)
        blind, no_gpu = frozenset(recorder.losses.blind), frozenset(recorder.losses.no_gpu)
        _check_nodes_are_left(blind, no_gpu, settings.cpus_per_trial, limits[""].gpu)
        not_for_gpus, other_types = resources.other_nodes | no_gpu, resources.other_types

        # Ray keeps a copy of this function and of what it refers to: plain values only
        def needs(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            own = limits_of(config, limits[""])
            on_gpu = bool(own.gpu)
            bundle: dict[str, float] = {
                "CPU": own.cpus or settings.cpus_per_trial,
                **({"GPU": own.gpu} if own.gpu else {}),
            }
            if own.memory_gb is not None:
                bundle["memory"] = own.memory_gb * 2**30
            bf16 = avoid is not None and precision.demands_bf16(config_of(config, runtime), on_gpu)
            selector = label_selector(
                {*blind, *(avoid if bf16 and avoid else ()), *(not_for_gpus if on_gpu else ())},
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
                scheduler=_scheduler(plan, recorder),
                max_concurrent_trials=settings.concurrency,
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

    def listed(trial_ids: Sequence[str]) -> None:
        fit(grid(trial_ids))

    def to_draw() -> int:
        return max(0, plan.samples - len(recorder.ledger.read()))

    draws: Draws | None = None
    if plan.drawn:
        study, note = open_study(out, base.seed)
        if note:
            view.message(note)

    def search(waiting: Sequence[str]) -> None:
        nonlocal draws
        draws = _draws(plan, recorder, limits, study, waiting)
        fit({}, search_alg=draws, num_samples=max(1, len(waiting) + to_draw()))

    try:
        if plan.drawn:
            _search_on(search, list(todo), recorder, to_draw)
        else:
            _fit_on(listed, list(todo), recorder)
        # what ran out of memory tries again with more of it, and what met a node that does not
        # compute in its precision, or does not see the run folder, on others, until all have ended
        while not recorder.interrupts.happened and (again := recorder.to_try_again()):
            _fit_on(listed, again, recorder)
    finally:
        rows = recorder.write_tables()
        if draws is not None:
            draws.sync()
        if isinstance(limits, DrawnLimits):
            limits.close()
    return rows
