"""Run the missing trials of a plan with Ray Tune."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search_spaces._dimensions import Range
from sweep.budget import Budget
from sweep.cluster.nodes import any_node_left, label_selector
from sweep.extending import Shorter
from sweep.heartbeat import Heartbeat
from sweep.leaderboard import planned
from sweep.limits import Limits, limits_from
from sweep.plan import Plan
from sweep.recorder import Recorder
from sweep.resources import Resources
from sweep.runfolder import storage_error
from sweep.search.asha import Halving
from sweep.search.drawn_limits import DrawnLimits
from sweep.search.searcher import Draws, open_study
from sweep.tracking import TrackingOptions
from sweep.trial import config_of, limits_of, reason_of, run_trial
from sweep.view import View
from sweep.weights import weights_ids
from trainables.config import TrialConfig
from trainables.records.objects import address_of


class GivenUp(RuntimeError):
    """Remaining trials cannot be run now; the message says why."""


class NoNodeLeft(GivenUp):
    """No node can run the remaining trials: all have left, lack the folders, or have no GPU."""


@dataclass(frozen=True)
class Sweep:
    """The trials to train, their resources, and the view that shows them."""

    out: Path
    """Run folder, absolute."""
    plan: Plan
    """The plan, whose precision has been decided."""
    recorded: Mapping[str, Any]
    """Contents of plan.json."""
    limits: Mapping[str, Limits]
    """First limits by trial_id, and under ``""`` those of all other trials."""
    resources: Resources
    tracking: TrackingOptions
    view: View
    heart: Heartbeat
    budget: Budget


def run(sweep: Sweep, todo: Sequence[str]) -> None:
    """Run trials until all are done or have finally failed, or the user interrupts.

    Parameters
    ----------
    sweep : Sweep
    todo : sequence of str
        trial_ids to run; in a search, those that were interrupted (it draws the others).

    Raises
    ------
    NoNodeLeft
        When no node can train the remaining trials.
    """
    plan = sweep.plan
    recorder = Recorder(
        sweep.out,
        sweep.recorded,
        runtime_of(sweep),
        sweep.view,
        avoid=sweep.resources.avoid or (),
        asks_for=plan.asks_for,
        heart=sweep.heart,
        budget=sweep.budget,
    )
    recorder.ledger.forget({*todo} - recorder.records.keys())
    listed = partial(fit_listed, sweep, recorder)
    with ExitStack() as at_the_end:
        if isinstance(sweep.limits, DrawnLimits):
            at_the_end.callback(sweep.limits.close)
        search = at_the_end.enter_context(searching(sweep, recorder)) if plan.drawn else None
        at_the_end.callback(recorder.stopping.forget)
        at_the_end.callback(recorder.write_tables)
        if search is not None:
            keep_searching(search, list(todo), recorder, partial(_left_to_draw, plan, recorder))
        elif todo:  # none, if plan.json had lost trials that the ledger has
            keep_fitting(listed, list(todo), recorder)
        # what ran out of memory tries again with more of it, and what met a node that does not
        # compute in its precision, or does not see the run folder, on others, until all have ended
        while not recorder.interrupts.happened and (again := recorder.to_try_again()):
            keep_fitting(listed, again, recorder)


def runtime_of(sweep: Sweep) -> dict[str, Any]:
    """Return what each worker gets in addition to the configuration of its trial."""
    plan, resources = sweep.plan, sweep.resources
    settings = plan.request.settings
    most, there = settings.most_memory_per_trial, resources.memory_gb
    if most and there and not resources.token:  # a private Ray: no larger node will come
        most = min(most, there)
    assert plan.precision is not None
    return {
        # each node has its own copy of what is in an object store
        "out": address_of(sweep.out),
        "data": plan.data,
        "data_options": plan.request.data_options.model_dump(),
        "fingerprint": plan.fingerprint,
        "base": plan.request.configs[0].model_dump(mode="json"),
        "weights_ids": weights_ids(plan.request),
        "tracking": vars(sweep.tracking),
        "options": {
            "threads": max(1, math.floor(settings.cpus_per_trial)),
            "checkpoint_seconds": settings.checkpoint_seconds,
            "keep_last_state": settings.keep_last_state,
            "weights_cache": address_of(sweep.out / "weights"),
        },
        "limits": sweep.limits[""].to_dict(),
        "most_memory_gb": most or there,
        "precision": plan.precision.to_dict(),
        "refuse": resources.avoid is not None,
        "token": resources.token,
        "scheduler": settings.scheduler,
        "retries": settings.retries,
        "hang_seconds": settings.hang_seconds,
    }


def scheduler(plan: Plan, recorder: Recorder) -> Halving | None:
    """Return the scheduler, which knows all earlier epochs of trials; None if none is stopped."""
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


def takes(
    sweep: Sweep, recorder: Recorder
) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """Return a function that gives the resources of a trial, and the nodes that it must not get.

    Raises
    ------
    NoNodeLeft
        When no node is left for it.
    """
    resources, precision, default = sweep.resources, sweep.plan.precision, sweep.limits[""]
    assert precision is not None
    runtime, cpus = recorder.runtime, sweep.plan.request.settings.cpus_per_trial
    avoid = None if resources.avoid is None else frozenset(recorder.avoid)
    blind, no_gpu = frozenset(recorder.lost_trials.blind), frozenset(recorder.lost_trials.no_gpu)
    _check_nodes_are_left(blind, no_gpu, cpus, default.gpu)
    not_for_gpus, other_types = resources.other_nodes | no_gpu, resources.other_types

    # Ray keeps a copy of this function and of what it refers to: plain values only
    def takes_of(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        own = limits_of(config, default)
        on_gpu = bool(own.gpu)
        bundle: dict[str, float] = {
            "CPU": own.cpus or cpus,
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

    return takes_of


def _check_nodes_are_left(
    blind: frozenset[str], no_gpu: frozenset[str], cpus: float, gpus: float
) -> None:
    """Raise an error if all nodes that are large enough for a trial have refused trials."""
    out = blind | no_gpu if gpus else blind
    if out and not any_node_left(out, cpus, gpus):
        needs = ["can read the run folder and the data"] if blind else []
        needs += ["has a GPU that torch can use"] if out & no_gpu else []
        raise NoNodeLeft(f"no node is left that {' and '.join(needs)}")


def fit(sweep: Sweep, recorder: Recorder, param_space: dict[str, Any], **options: Any) -> None:
    """Let Ray Tune run trials once, until each has ended or must wait for another round.

    Parameters
    ----------
    sweep : Sweep
    recorder : Recorder
    param_space : dict
        See `ray.tune.Tuner`; empty for a search.
    **options
        Further fields of `ray.tune.TuneConfig`.

    Raises
    ------
    NoNodeLeft
        When no node may get a trial.
    """
    settings = sweep.plan.request.settings
    recorder.begin_round()
    trainable = tune.with_parameters(run_trial, runtime=recorder.runtime)
    tuner = tune.Tuner(
        tune.with_resources(trainable, takes(sweep, recorder)),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            scheduler=scheduler(sweep.plan, recorder),
            max_concurrent_trials=settings.concurrency,
            **options,
        ),
        run_config=tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}",
            storage_path=str(sweep.out / "tune"),
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            verbose=0,
        ),
    )
    # at its end, Tune looks for result files that it was told not to write, and warns of each trial
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with recorder.interrupts:
        tuner.fit()


def fit_listed(sweep: Sweep, recorder: Recorder, trial_ids: Sequence[str]) -> None:
    """Run the trials with given trial_ids once."""
    configs, limits = planned(sweep.recorded, recorder.records), sweep.limits
    shorter = Shorter(sweep.recorded["trials"])
    scheduler = sweep.plan.request.settings.scheduler
    listed = [
        {
            "config": configs[i],
            "continues": shorter.continued(configs[i], sweep.out, scheduler),
            "limits": limits_from(recorder.records.get(i), limits.get(i, limits[""])).to_dict(),
        }
        for i in trial_ids
    ]
    fit(sweep, recorder, {"trial": tune.grid_search(listed)})


MOST_AHEAD = 8
"""How many first trials of a search are estimated at the same time, each in its own process."""


@contextmanager
def searching(sweep: Sweep, recorder: Recorder) -> Iterator[Callable[[Sequence[str]], None]]:
    """Yield a function that runs waiting trials once and draws further ones.

    At the end, the results of the last trials are added to the search's study.
    """
    plan, limits = sweep.plan, sweep.limits
    study, note = open_study(sweep.out, plan.request.configs[0].seed)
    if note:
        sweep.view.message(note)
    made: list[Draws] = []

    def search(waiting: Sequence[str]) -> None:
        records, left = recorder.ledger.read(), _left_to_draw(plan, recorder)
        draws = Draws(
            study,
            plan.request.space.dimensions,
            lambda drawn: config_of(drawn, recorder.runtime),
            recorder.ledger,
            plan.fingerprint,
            # of those that wait, the ones without a record are in the study
            [trial_id for trial_id in waiting if trial_id in records],
            left,
            limits.of if isinstance(limits, DrawnLimits) else lambda *_: limits[""],
        )
        draws.ahead = min(MOST_AHEAD, sweep.view.slots)
        made.append(draws)
        fit(sweep, recorder, {}, search_alg=draws, num_samples=max(1, len(waiting) + left))

    try:
        yield search
    finally:
        for draws in made[-1:]:
            draws.sync()


def _left_to_draw(plan: Plan, recorder: Recorder) -> int:
    return max(0, plan.samples - len(recorder.ledger.read()))


MOST_RESTARTS = 20
"""Most restarts of Ray Tune in one sweep."""


def keep_fitting(
    once: Callable[[list[str]], None],
    todo: list[str],
    recorder: Recorder,
    to_draw: Callable[[], int] = lambda: 0,
) -> None:
    """Run trials until they end, and continue if Ray Tune itself gives up.

    Tune gives up if Ray's memory monitor kills a worker at the wrong moment.

    Parameters
    ----------
    once : callable
        Runs the trials with the given trial_ids, and those that a search draws.
    todo : list of str
    recorder : Recorder
    to_draw : callable
        Returns how many trials a search has not drawn yet.

    Raises
    ------
    GivenUp
        When Ray Tune has given up too often.
    """
    for restart in range(MOST_RESTARTS + 1):
        try:
            once(todo)
            return
        except (ray.exceptions.RayError, tune.TuneError) as error:
            if (storage := storage_error(error)) is not None:
                raise storage from error  # the next try would fail at the same
            if recorder.interrupts.happened:
                return
            if restart == MOST_RESTARTS:
                raise GivenUp(
                    f"Ray Tune gave up {restart + 1} times ({reason_of(error)})"
                ) from error
            begun = list(dict.fromkeys([*todo, *recorder.drawn]))
            todo = recorder.left_by_tune(begun, reason_of(error))
            if not todo and not to_draw():
                return


def keep_searching(
    search: Callable[[list[str]], None],
    todo: list[str],
    recorder: Recorder,
    to_draw: Callable[[], int],
) -> None:
    """Search until everything is drawn or nothing new is drawn; see `keep_fitting`."""
    left = None
    while left is None or 0 < to_draw() < left:
        left = to_draw()
        keep_fitting(search, todo, recorder, to_draw)
        if recorder.interrupts.happened:
            return
        todo = []
