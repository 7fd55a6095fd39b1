"""Record what happens to Tune's trials: ledger, tables and screen."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from sweep.background import Pace
from sweep.budget import Budget, Caps, units_up
from sweep.cluster.nodes import resources_of_nodes
from sweep.ended import forget_metrics, metrics_so_far
from sweep.hanging import Hanging
from sweep.heartbeat import Heartbeat
from sweep.interrupts import Interrupts
from sweep.leaderboard import planned, write_history, write_per_image, write_tables
from sweep.ledger import Ledger
from sweep.limits import Limits, after_shortage
from sweep.lost_trials import NO_RECORD, LostTrials, killed_for_memory, root_cause
from sweep.stalls import Stall
from sweep.stopping import Stopping
from sweep.trial import config_of, limits_of
from sweep.view import TrialState, View, trial_name
from trainables.config import EpochRecord, TrialConfig
from trainables.records.files import send
from trainables.records.patience import Patience
from trainables.records.progress import forget_states
from trainables.records.resumable import Saved, saved

TABLES_SECONDS = 2.0
PER_IMAGE_SECONDS = 60.0
"""Interval for per_image.csv, which is long, and in any case complete at the end."""
MOST_ATTEMPTS = 8
"""How often a trial may be running when Ray Tune gives up, as it may be the cause."""
_EPOCH_FIELDS = tuple(EpochRecord.__dataclass_fields__)


def short_name(config: TrialConfig) -> str:
    """Return the name of a trial on the screen."""
    return trial_name(config.architecture, config.encoder, config.task, config.seed, config.fold)


class Recorder(Callback):
    """Records what happens to the trials, and shows it.

    Parameters
    ----------
    out : Path
        The run folder.
    plan : dict
        Contents of plan.json.
    runtime : dict
        See `sweep.trial.run_trial`.
    view : View
    avoid : iterable of str
        Ids of nodes that do not compute in the run's precision; more may be found later.
    asks_for : callable
        Returns for a trial_id whether to run and show it (`Plan.asks_for`).
    heart : Heartbeat, optional
        Is told which trials run, and when an epoch has ended.
    budget : Budget, optional
        Ends the sweep, as Ctrl-C does, when a limit is reached.
    """

    def __init__(
        self,
        out: Path,
        plan: Mapping[str, Any],
        runtime: dict[str, Any],
        view: View,
        avoid: Iterable[str] = (),
        asks_for: Callable[[str], bool] = lambda trial_id: True,
        heart: Heartbeat | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.out, self.plan, self.runtime, self.view = out, plan, runtime, view
        self.avoid, self.heart = set(avoid), heart
        self.budget = budget or Budget(Caps())
        self.interrupts = Interrupts()
        self.stopping = Stopping(out, self.interrupts, self._say)
        # trials wait meanwhile for their reports to be taken
        self.patience = Patience(
            self._say, stop=lambda: self.interrupts.happened, who="the sweep", stores=False
        )
        self._failures = 0
        self.ledger = Ledger(out, self.patience)
        self.records = self.ledger.read()
        self.states: dict[str, TrialState] = {}
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self.lost_trials = LostTrials(runtime.get("retries", 0))
        self.hanging = Hanging(runtime.get("hang_seconds", 0.0))
        self._stall = Stall(self._say, self._nodes)
        self._per_image = 0.0
        self._pace = Pace(TABLES_SECONDS)
        self._keeping, self._kept = threading.Lock(), dict[str, int]()
        self._furthest: dict[str, int] = {}
        self._gave_up = Counter[str]()
        self._said = {i: len(record.get("notes", [])) for i, record in self.records.items()}
        for trial_id, config in planned(plan, self.records).items():
            if asks_for(trial_id):
                self._state(trial_id, TrialConfig.model_validate(config))

    def begin_round(self) -> None:
        """Prepare for the next of Tune's runs."""
        self.runtime["round"], stop_file = self.stopping.begin()
        self.runtime["options"]["stop_file"] = stop_file

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing to save: Tune saves callbacks to restore runs, but this one is never
        restored, and the screen cannot be saved.
        """
        return {}

    def setup(self, *args: Any, **info: Any) -> None:
        """Start to watch for signals, as Tune has just installed its handler."""
        self.interrupts.watch()

    @property
    def drawn(self) -> list[str]:
        """Trials that a search has drawn; none if the plan lists the trials."""
        return [] if self.plan["trials"] else list(self.states)

    def past(self, trial_id: str) -> list[dict[str, Any]]:
        """Return one row per epoch of a trial so far, in order, as far as they are known."""
        rows = self.history.get(trial_id) or self._recorded(trial_id, self._saved(trial_id))
        return [rows[epoch] for epoch in sorted(rows)]

    def _saved(self, trial_id: str) -> Saved:
        return saved(self.out / "checkpoints" / trial_id)

    def _recorded(self, trial_id: str, state: Saved) -> dict[int, dict[str, Any]]:
        """Return the epochs of earlier attempts: those that the driver recorded and, if it was
        killed before recording all of them, those that the trial itself has saved.
        """
        return {row["epoch"]: row for row in [*state.rows, *self.ledger.read_history(trial_id)]}

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

    def _say(self, text: str, log: str = "") -> None:
        """Print a line on the screen, and the same or another line to ``sweep.log``."""
        self.view.message(text)
        print(log or text, file=sys.stderr)  # to sweep.log, while the screen is quiet

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of the nodes that may get trials."""
        return resources_of_nodes(self.lost_trials.blind, self.lost_trials.no_gpu)

    def _read(self, state: TrialState) -> dict[str, Any] | None:
        """Return a trial's record, and print new notes of its worker."""
        record = self.ledger.read_one(state.trial_id)
        notes = record.get("notes", []) if record else []
        for note in notes[self._said.get(state.trial_id, 0) :]:
            self._say(f"{state.name}: {note}", f"{state.trial_id}: {note}")
        self._said[state.trial_id] = len(notes)
        return record

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Mark a trial as running; its worker records this in the ledger."""
        _, state = self._of(trial)
        record = self.ledger.read_one(state.trial_id)
        self.lost_trials.begin(state.trial_id, record)
        last = self._saved(state.trial_id)
        known = self.history.setdefault(state.trial_id, self._recorded(state.trial_id, last))
        self._furthest.setdefault(state.trial_id, max(known, default=0))
        state.status, state.epoch, state.within = "running", last.epoch, last.within
        self.hanging.begin(state.trial_id, len((record or {}).get("notes", [])))

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record one epoch."""
        _, state = self._of(trial)
        self.lost_trials.hear(state.trial_id, result)
        if "epoch" not in result:
            return
        self.hanging.hear(state.trial_id, result["seconds"])
        if self.heart is not None:
            self.heart.epoch_ended()
        row: dict[str, Any] = {name: result.get(name) for name in _EPOCH_FIELDS}
        self.history.setdefault(state.trial_id, {})[row["epoch"]] = row
        if row["epoch"] > self._furthest.get(state.trial_id, 0):
            self._furthest[state.trial_id] = row["epoch"]
            # `retries` counts losses without progress in between, and Tune counts them all
            trial.run_metadata.num_failures = 0
        state.epoch = row["epoch"]
        state.epochs_here += 1
        state.train_loss = row["train_loss"]
        state.seconds += row["seconds"]
        if row["val_dataset_iou"] is not None:
            state.val_dataset_iou = result["score"]

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Take note of the end of a trial."""
        self._completed(trial)
        forget_metrics(trial)

    def _completed(self, trial: Any) -> None:
        """Read what the worker recorded. If there is no record and no scheduler stopped the trial,
        its result was lost.
        """
        config, state = self._of(trial)
        record = self._read(state)
        if record is not None and self.lost_trials.is_of_this_attempt(
            state.trial_id, record, self.runtime["round"]
        ):
            if record.get("retry"):
                self._again(state, record)
                return
            self.records[state.trial_id] = record
            if record["status"] != "done":
                self._keep_history(state.trial_id)  # what its worker does not write
        elif refused := self.lost_trials.refused(state.trial_id):
            self._place_elsewhere(state, config, refused)
            return
        elif self.lost_trials.was_stopped(state.trial_id):
            self._end(state, config, "stopped", by=self.runtime.get("scheduler", ""))
            # it never goes on, and its states are several times as large as a checkpoint
            forget_states(self.out / "checkpoints" / state.trial_id)
        elif self.interrupts.happened:  # it has saved its state, or has not begun
            state.status = "waiting"
            self._keep_history(state.trial_id)
            if self.drawn:
                self._wait(state, config)
            return
        elif self.lost_trials.try_again(state.trial_id):
            self._wait(state, config)
            self.view.message(f"{state.name}: {NO_RECORD}; it will be tried again")
            return
        else:
            tries = self.lost_trials.tries(state.trial_id)
            self._end(state, config, "failed", error=f"{NO_RECORD} ({tries} times)")
        self._settle(state)

    def _end(self, state: TrialState, config: TrialConfig, status: str, **fields: Any) -> None:
        """Record the end of a trial that its worker did not record."""
        self._keep_history(state.trial_id)
        self._record(
            state,
            config,
            status,
            metrics=metrics_so_far(self.history.get(state.trial_id, {})),
            attempts=self.ledger.attempts(state.trial_id),
            **fields,
        )

    def _wait(self, state: TrialState, config: TrialConfig) -> None:
        """Make a trial wait for the next round."""
        state.status = "waiting"
        if self.ledger.read_one(state.trial_id) is None:  # what a search drew is known from here
            self._record(state, config, "running", attempts=[])

    def _place_elsewhere(
        self, state: TrialState, config: TrialConfig, refused: dict[str, Any]
    ) -> None:
        """Make a trial wait for another node than the one that refused it."""
        self._wait(state, config)
        if self.lost_trials.place_elsewhere(state.trial_id):
            text = (
                f"{refused['name']} gets no trial{' on a GPU' if refused.get('gpu') else ''}: "
                f"{refused['why']}; its trials will run on other nodes"
            )
            self._say(text)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Take note of the end of a trial whose retries are used up."""
        self._failed(trial)
        forget_metrics(trial)

    def _failed(self, trial: Any) -> None:
        """Record a trial as failed, unless its worker recorded something else."""
        config, state = self._of(trial)
        error = root_cause(trial)
        self._keep_history(state.trial_id)
        record = self._read(state)
        if record is not None and record["status"] == "done":
            self.records[state.trial_id] = record  # its worker was lost after that
            self._settle(state)
            return
        if record is not None and record.get("round") == self.runtime["round"]:
            # its worker ended itself after recording that memory was short
            if record.get("retry"):
                self._again(state, record)
            else:
                self.records[state.trial_id] = record
                self._settle(state)
            return
        limits = limits_of(trial.config)
        if killed_for_memory(trial, limits):
            before = self.ledger.attempts(state.trial_id)
            step, _ = after_shortage(
                limits,
                config,
                host=bool(limits.gpu),
                node=before[-1]["node"] if before else "",
                most_memory_gb=self.runtime.get("most_memory_gb"),
            )
            what = f"{error} with {limits}"
            if step is not None:
                self.ledger.write_shortage(state.trial_id, config, what, step.to_dict())
                record = self.ledger.read_one(state.trial_id)
                assert record is not None
                self._again(state, record)
                return
        attempts = len(self.ledger.attempts(state.trial_id))
        self._end(state, config, "failed", error=f"{error} (after {attempts} attempts)")
        self._settle(state)

    def left_by_tune(self, trial_ids: list[str], reason: str) -> list[str]:
        """Return the trials that have not ended after Ray Tune gave up.

        A trial that is running at that moment for the ninth time in this command has failed.
        """
        left = []
        for trial_id in trial_ids:
            record = self.ledger.read_one(trial_id)
            if record is None:
                left.append(trial_id)
                continue
            self.records[trial_id] = record
            if record["status"] != "running" or record.get("retry"):
                continue
            state, attempts = self.states[trial_id], record.get("attempts", [])
            # attempts that were interrupted, as on preemption, say nothing about the trial
            self._gave_up[trial_id] += 1
            if self._gave_up[trial_id] <= MOST_ATTEMPTS:
                state.status = "waiting"
                left.append(trial_id)
                continue
            config = TrialConfig.model_validate(record["config"])
            self._record(
                state,
                config,
                "failed",
                attempts=attempts,
                error=f"{reason} (after {len(attempts)} attempts)",
            )
            self._settle(state)
        self.view.message(f"Ray Tune gave up ({reason}); continuing with {len(left)} trials")
        return left

    def to_try_again(self) -> list[str]:
        """Return the trials to try again: those that ran out of memory, were sent to a node that
        does not compute in their precision or cannot read the run folder, or lost their result.
        """
        again = self.lost_trials.again
        return [i for i in self.states if i in again or self.records.get(i, {}).get("retry")]

    def _again(self, state: TrialState, record: dict[str, Any]) -> None:
        """Make a trial wait for its next attempt, after other trials."""
        self.records[state.trial_id] = record
        state.status = "waiting"
        if refused := record.get("refused"):
            if refused["node"] not in self.avoid:
                self.avoid.add(refused["node"])
                self.view.message(
                    f"node {refused['host']} gets no trial: {refused['why']}; its trials will run "
                    "on other nodes"
                )
            return
        self.view.message(
            f"{state.name}: {record['out_of_memory'][-1]}; it will be tried again with "
            f"{Limits(**record['retry'])}"
        )

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Print that a trial starts again after an error."""
        _, state = self._of(trial)
        state.status = "waiting"
        record = self._read(state) or {}
        if record.get("round") != self.runtime["round"]:
            self.view.message(f"{state.name}: {root_cause(trial)}; trying again")

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Update screen and tables, each at its own pace; tell the user if no trial can start."""
        if self.budget.look(units_up) and not self.interrupts.happened:
            self._say(f"{self.budget.why}: the sweep ends; trials that run save their state first")
            signal.raise_signal(signal.SIGINT)  # the one way to end Tune's run in order
        self._look_whether_to_stop()
        self._end_hanging(trials)
        self.view.update(list(self.states.values()))
        running = any(state.status == "running" for state in self.states.values())
        waiting = [] if running else [one for one in trials if one.status == "PENDING"]
        needs = [one.placement_group_factory.required_resources for one in waiting]
        self._stall.look(running, needs)
        if self._pace.due():
            histories = self._read_running()
            records = dict(self.records)
            self._pace.start(partial(self._write, records, histories))

    def _look_whether_to_stop(self) -> None:
        try:
            self.stopping.look([i for i, one in self.states.items() if one.status == "running"])
        except OSError as error:
            self._say(f"the trials cannot be asked to save ({error.strerror}): the sweep ends now")
            self.interrupts.end()

    def _end_hanging(self, trials: Iterable[Any]) -> None:
        """End the workers of trials that report nothing any more; Tune then tries them again."""
        if self.patience.failures > self._failures:
            self._failures = self.patience.failures
            self.hanging.excuse()
        running = {i for i, state in self.states.items() if state.status == "running"}
        for trial_id, seconds in self.hanging.look(running).items():
            record = self._read(self.states[trial_id]) or {}
            if self.hanging.is_waiting(trial_id, record.get("notes", [])):
                continue
            self._say(
                f"{self.states[trial_id].name}: no new epoch for {seconds:.0f} seconds: it hangs, "
                "and its worker is ended (hang_seconds)"
            )
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                if actor is not None and trial.config and self._of(trial)[1].trial_id == trial_id:
                    ray.kill(actor)

    def _read_running(self) -> dict[str, list[dict[str, Any]]]:
        """Read the records of running trials; return the epochs that were reported."""
        running = [i for i, state in self.states.items() if state.status == "running"]
        if self.heart is not None:
            self.heart.say(running=running)
        for trial_id in running:
            record = self._read(self.states[trial_id])
            if record is not None:
                self.records[trial_id] = record
        return {trial_id: self._epochs(trial_id) for trial_id in running}

    def _write(
        self, records: dict[str, dict[str, Any]], histories: dict[str, list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Write all tables. In long sweeps this takes a second, so it has its own thread: trials
        wait for the driver's thread at the end of every epoch.
        """
        tables = partial(self._write_once, records, histories)
        return self.patience(self.out / "leaderboard.csv", tables)

    def _write_once(
        self, records: dict[str, dict[str, Any]], histories: dict[str, list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        for trial_id, epochs in histories.items():
            self._keep_history(trial_id, epochs)
        send(self.out / "sweep.log")
        rows = write_tables(self.out, self.plan, records)
        write_history(self.out, self.ledger, [row["trial_id"] for row in rows])
        if any(r["status"] == "done" for r in records.values()) and (
            time.monotonic() - self._per_image >= PER_IMAGE_SECONDS
        ):
            self._per_image = time.monotonic()
            write_per_image(self.out, self.ledger, rows)
        return rows

    def write_tables(self) -> list[dict[str, Any]]:
        """Write the tables of the run now, in this thread; return the ranked rows."""
        self._pace.wait()
        histories = self._read_running()
        return self._write(dict(self.records), histories)

    def _epochs(self, trial_id: str) -> list[dict[str, Any]]:
        return sorted(self.history.get(trial_id, {}).values(), key=lambda row: row["epoch"])

    def _keep_history(self, trial_id: str, epochs: list[dict[str, Any]] | None = None) -> None:
        rows = self._epochs(trial_id) if epochs is None else epochs
        with self._keeping:
            if rows and len(rows) >= self._kept.get(trial_id, 0):  # not over what is newer
                self._kept[trial_id] = len(rows)
                self.ledger.write_history(trial_id, rows)

    def _settle(self, state: TrialState) -> None:
        record = self.records[state.trial_id]
        state.status, state.error = record["status"], record.get("error", "")
        self.history.pop(state.trial_id, None)
        self.view.update(list(self.states.values()))
