"""Draw trials with Optuna, which keeps its draws and results in ``OUT/optuna.journal``.

optuna-dashboard can open the journal (``optuna-dashboard OUT/optuna.journal``). Only the ledger is
authoritative for trials: the journal is updated from it, and made again if it is missing or
damaged. So a sweep that was killed at any moment continues to draw as if it had not been.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from ray.tune.search import Searcher

from search_spaces._dimensions import Dimension, Range
from sweep.ledger import FINAL, Ledger
from sweep.limits import Limits, limits_from
from trainables.config import TrialConfig

JOURNAL = "optuna.journal"
STUDY = "segsweep"
REDRAWS = 20
"""Number of repeated draws in a row before one is drawn at random."""
RANDOM_TRIES = 2000


def distributions(dimensions: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions for the dimensions."""
    return {name: _distribution(kind) for name, kind in dimensions.items()}


def _distribution(kind: Dimension) -> BaseDistribution:
    if not isinstance(kind, Range):
        return CategoricalDistribution(tuple(kind))
    if kind.integer:
        step = int(kind.step or 1)
        return IntDistribution(int(kind.low), int(kind.high), log=kind.log, step=step)
    return FloatDistribution(kind.low, kind.high, log=kind.log, step=kind.step)


def open_study(out: Path, seed: int) -> tuple[optuna.Study, str]:
    """Open the study of a run folder, or create one.

    Parameters
    ----------
    out : Path
        The run folder, which no other sweep may use at the same time.
    seed : int
        Seed of the draws; the number of earlier draws is added, so that a resumed search does not
        draw the same values again.

    Returns
    -------
    study : optuna.Study
    note : str
        Note for the user, or ''.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path, note = out / JOURNAL, ""
    _repair(path)
    try:
        study = _study(path)
    except (ValueError, KeyError, TypeError, AssertionError):  # json's own is a ValueError
        aside = path.with_name(f"{JOURNAL}.damaged")
        path.replace(aside)
        study = _study(path)
        note = f"{path} was damaged; it was renamed to {aside.name} and made again from the ledger"
    earlier = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed + earlier)
    return study, note


def _study(path: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
    )


def _repair(path: Path) -> None:
    """Cut off a last line that a killed sweep left half written: the next one would join it."""
    # the lock of a killed sweep; Optuna would wait half a minute for it
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines(keepends=True)
        if lines and not _is_json(lines[-1]):
            end -= len(lines[-1])
        file.truncate(end)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class Draws(Searcher):
    """Draws trials for Ray Tune, each only once.

    A draw that equals an earlier one gets the same result, once there is one, and another trial is
    drawn instead.

    Parameters
    ----------
    study : optuna.Study
    dimensions : mapping
    configure : callable
        Returns the configuration for drawn values.
    ledger : Ledger
    fingerprint : str
        Fingerprint of the data.
    waiting : sequence of str
        trial_ids of earlier draws to run first.
    most : int
        Number of further trials to draw.
    allow : callable
        Returns the limits of a trial from its trial_id and configuration; None if not known yet.

    Attributes
    ----------
    ahead : int
        Number of trials to draw at once while there is no result.
    """

    ahead = 1

    # Eight parameters: what draws, what is drawn, and what a sweep asks of it.
    def __init__(
        self,
        study: optuna.Study,
        dimensions: Mapping[str, Dimension],
        configure: Callable[[dict[str, Any]], TrialConfig],
        ledger: Ledger,
        fingerprint: str,
        waiting: Sequence[str],
        most: int,
        allow: Callable[[str, TrialConfig], Limits | None],
    ) -> None:
        super().__init__(metric="score", mode="max")
        self.study, self.distributions = study, distributions(dimensions)
        self._configure, self._fingerprint, self._allow = configure, fingerprint, allow
        self._ledger, self._left = ledger, most
        self._random = random.Random(len(study.get_trials(deepcopy=False)))
        self._running: dict[str, list[int]] = {}
        self._in_study: dict[str, set[TrialState]] = {}
        self._again: dict[str, Any] = {}
        self._queue: list[tuple[str, TrialConfig]] = []
        self._next: tuple[str, TrialConfig] | None = None
        records = ledger.read()
        self._known = set(records)
        self._read_study()
        for trial_id, record in records.items():
            self._match(trial_id, record)
        configs = {i: TrialConfig.model_validate(records[i]["config"]) for i in waiting}
        for trial_id in configs:
            if records[trial_id]["status"] in FINAL:
                self._again[trial_id] = records[trial_id]
                self._add(trial_id, records[trial_id]["config"], state=TrialState.RUNNING)
        self._queue = [*configs.items(), *self._queue]

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to save: Tune saves searches to restore runs, but never restores this."""
        return {}

    def _read_study(self) -> None:
        """Add the earlier draws; those without a record run first: they have not begun, or their
        record was removed so that they are trained again.
        """
        for trial in self.study.get_trials(deepcopy=False):
            drawn = (
                self._name(trial.params) if len(trial.params) == len(self.distributions) else None
            )
            if drawn is None:
                if trial.state == TrialState.RUNNING:  # killed in the middle of a draw
                    self.study.tell(trial.number, state=TrialState.FAIL)
                continue
            trial_id, config = drawn
            if trial.state != TrialState.RUNNING:
                self._in_study.setdefault(trial_id, set()).add(trial.state)
            else:
                self._running.setdefault(trial_id, []).append(trial.number)
            if trial_id not in self._known and self._left:
                self._known.add(trial_id)
                self._queue.append((trial_id, config))
                self._left -= 1

    def _name(self, params: dict[str, Any]) -> tuple[str, TrialConfig] | None:
        try:
            config = self._configure(params)
        except ValidationError:  # values that do not go together
            return None
        return config.trial_id(self._fingerprint), config

    def _match(self, trial_id: str, record: Mapping[str, Any]) -> None:
        """Update the study with the ledger's record of a trial."""
        running = self._running.get(trial_id)
        if record["status"] in FINAL:
            if running or _state(record) not in self._in_study.get(trial_id, ()):
                self._tell(trial_id, record)
        elif not running:
            self._add(trial_id, record["config"], state=TrialState.RUNNING)

    def _add(self, trial_id: str, config: Mapping[str, Any], **fields: Any) -> None:
        params = {name: config[name] for name in self.distributions}
        if isinstance(params.get("normalization"), dict):
            params["normalization"] = params["normalization"]["mode"]
        try:
            trial = optuna.trial.create_trial(
                params=params,
                distributions=self.distributions,
                user_attrs={"trial_id": trial_id},
                **fields,
            )
        except ValueError:  # a task has replaced what was drawn: nothing can be learnt from it
            return
        self.study.add_trial(trial)
        if trial.state == TrialState.RUNNING:
            self._running[trial_id] = [self.study.get_trials(deepcopy=False)[-1].number]

    def _tell(self, trial_id: str, record: Mapping[str, Any]) -> None:
        """Add a trial's result to the study, for each draw of the trial."""
        metrics, state = record.get("metrics", {}), _state(record)
        value, epoch = metrics.get("val_dataset_iou"), int(metrics.get("epochs") or 0)
        self._in_study.setdefault(trial_id, set()).add(state)
        numbers = self._running.pop(trial_id, None)
        if numbers is None:
            values = {"value": value} if state != TrialState.FAIL else {}
            if state == TrialState.PRUNED:
                values["intermediate_values"] = {epoch: value}
            self._add(trial_id, record["config"], state=state, **values)
            return
        for number in numbers:
            if state == TrialState.PRUNED:
                self._trial(number).report(value, epoch)
            reached = value if state == TrialState.COMPLETE else None
            self.study.tell(number, reached, state=state)

    def _trial(self, number: int) -> optuna.Trial:
        frozen: FrozenTrial = self.study.get_trials(deepcopy=False)[number]
        return optuna.Trial(self.study, frozen._trial_id)

    def sync(self) -> None:
        """Add results to the study that the ledger now has for trials without a result."""
        for trial_id in list(self._running):
            record = self._ledger.read_one(trial_id)
            if record is None or record["status"] not in FINAL:
                continue
            if record != self._again.get(trial_id):  # not the failure that is tried again
                self._tell(trial_id, record)

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None while it is being estimated, or FINISHED if all are drawn."""
        self.sync()
        self._next = self._next or (self._queue.pop(0) if self._queue else self._draw())
        if self._next is None:
            return Searcher.FINISHED
        name, config = self._next
        limits = self._allow(name, config)
        if limits is None:
            self._draw_ahead()
            return None
        self._next = None
        limits = limits_from(self._ledger.read_one(name), limits)
        return {"trial": {"config": config.model_dump(mode="json"), "limits": limits.to_dict()}}

    def _draw_ahead(self) -> None:
        """Estimate the first trials together, while there is no result to learn from."""
        while not self._in_study and len(self._queue) < self.ahead - 1 and (drawn := self._draw()):
            self._queue.append(drawn)
            self._allow(*drawn)

    def _draw(self) -> tuple[str, TrialConfig] | None:
        if not self._left:
            return None
        for _ in range(REDRAWS):
            trial = self.study.ask(fixed_distributions=self.distributions)
            drawn = self._name(trial.params)
            if drawn is None:
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr("trial_id", drawn[0])
            self._running.setdefault(drawn[0], []).append(trial.number)
            if drawn[0] not in self._known:
                return self._take(drawn)
            self.sync()  # it takes the result of the earlier one, or waits for it
        return self._at_random()

    def _take(self, drawn: tuple[str, TrialConfig]) -> tuple[str, TrialConfig]:
        self._known.add(drawn[0])
        self._left -= 1
        return drawn

    def _at_random(self) -> tuple[str, TrialConfig] | None:
        """Return values that were not drawn yet, for when the sampler repeats itself."""
        for _ in range(RANDOM_TRIES):
            params = {n: _one_of(kind, self._random) for n, kind in self.distributions.items()}
            drawn = self._name(params)
            if drawn is not None and drawn[0] not in self._known:
                trial = optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=self.distributions,
                    user_attrs={"trial_id": drawn[0]},
                )
                self.study.add_trial(trial)
                self._running[drawn[0]] = [self.study.get_trials(deepcopy=False)[-1].number]
                return self._take(drawn)
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing, as `sync` adds the result from the ledger to the study."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default", **_: Any) -> None:
        """Save nothing with Ray Tune's state, as the journal contains everything."""


def _state(record: Mapping[str, Any]) -> TrialState:
    if record.get("metrics", {}).get("val_dataset_iou") is None:
        return TrialState.FAIL
    states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    return states.get(record["status"], TrialState.FAIL)


def _one_of(kind: BaseDistribution, source: random.Random) -> Any:
    """Draw a value at random."""
    if isinstance(kind, CategoricalDistribution):
        return source.choice(kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.step is not None and not kind.log:
        steps = math.floor((kind.high - kind.low) / kind.step + 1e-9)
        return kind.low + source.randint(0, steps) * kind.step
    if kind.log:
        value = math.exp(source.uniform(math.log(kind.low), math.log(kind.high)))
    else:
        value = source.uniform(kind.low, kind.high)
    value = min(max(value, kind.low), kind.high)
    return round(value) if isinstance(kind, IntDistribution) else value
