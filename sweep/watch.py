"""``--watch OUT``: the view of a running sweep, read from its run folder alone.

Nothing is started, joined or written, so any machine that sees OUT can watch. Trials that have
ended come from leaderboard.csv, the epochs of running ones from the ledger, and whether the sweep
runs at all from `sweep.heartbeat`. A refresh reads only files that have changed.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sweep.folds import folds_of
from sweep.heartbeat import FILE, SECONDS, Sign, is_gone, last_sign
from sweep.leaderboard import rows_of
from sweep.ledger import Ledger, missing
from sweep.plan import read_plan
from sweep.request import RequestError
from sweep.results import print_next, print_results
from sweep.runfolder import CONTINUE
from sweep.view import TrialState, View, duration, trial_name
from trainables.cli import DONE, INTERRUPTED
from trainables.records.files import fetched
from trainables.records.objects import address_of

REFRESH_SECONDS = 2.0
"""Least time between two looks into OUT."""
SHARE = 0.05
"""Largest share of the time that looking may take, where storage is slow."""
SILENT_SECONDS = 300.0
"""Time without a sign of life after which a sweep on another machine counts as ended."""
PATIENCE_SECONDS = 60.0
"""How long to wait for a sweep that has not written anything yet."""

T = TypeVar("T")


class Unchanged:
    """Reads files, and those that have not changed only once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], Any]] = {}

    def read(self, path: Path, read: Callable[[], T]) -> T | None:
        """Return ``read()``, or its last result if the file is the same; None if it is missing."""
        try:
            there = os.stat(fetched(path))
        except FileNotFoundError:
            return None
        version = (there.st_mtime_ns, there.st_size, there.st_ino)
        if path not in self._known or self._known[path][0] != version:
            self._known[path] = (version, read())
        result: T = self._known[path][1]
        return result


class Watched:
    """What a run folder says about its trials.

    Parameters
    ----------
    out : Path
        The run folder.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.ledger, self._files = out, Ledger(out), Unchanged()

    def plan(self) -> dict[str, Any] | None:
        """Return the contents of plan.json; None if there is no run yet."""
        return self._files.read(self.out / "plan.json", lambda: read_plan(self.out))

    def sign(self) -> Sign | None:
        """Return the last sign of life of the sweep."""
        return self._files.read(self.out / FILE, lambda: last_sign(self.out))

    def states(self, sign: Sign | None) -> list[TrialState]:
        """Return the states of the trials that the sweep's command asked for."""
        path = self.out / "leaderboard.csv"
        rows = self._files.read(path, lambda: _read_rows(path)) or {}
        plan = self.plan() or {"trials": []}
        for trial in plan["trials"]:  # before the first table all of them wait
            if trial["trial_id"] not in rows:
                rows[trial["trial_id"]] = _state(trial["trial_id"], trial["config"])
        asked = None if sign is None or sign.asked is None else set(sign.asked)
        states = [rows[i] for i in rows if asked is None or i in asked]
        running = None if sign is None or sign.running is None else set(sign.running)
        for state in states:
            if state.status == "running":
                self._add_epochs(state)
                # an interrupted trial waits for its turn, but its record still says running
                if running is not None and state.trial_id not in running:
                    state.status = "waiting"
        return states

    def _add_epochs(self, state: TrialState) -> None:
        path = self.ledger.folder / "history" / f"{state.trial_id}.partial.json"
        epochs = self._files.read(path, lambda: self.ledger.read_history(state.trial_id))
        if epochs:
            ious = [row["val_dataset_iou"] for row in epochs]
            state.epoch, state.train_loss = epochs[-1]["epoch"], epochs[-1]["train_loss"]
            state.seconds = sum(row["seconds"] for row in epochs)
            state.val_dataset_iou = max((iou for iou in ious if iou is not None), default=None)


def _read_rows(path: Path) -> dict[str, TrialState]:
    with open(path, encoding="utf-8", newline="") as handle:
        return {row["trial_id"]: _state(row["trial_id"], row) for row in csv.DictReader(handle)}


def _state(trial_id: str, row: Mapping[str, Any]) -> TrialState:
    """Return a trial's state from its row of leaderboard.csv or, before that, its settings."""
    name = trial_name(row["architecture"], row["encoder"], row["task"], row["seed"], row["fold"])
    if "status" not in row:
        return TrialState(trial_id, name, epochs=row["epochs"])
    iou = row["val_dataset_iou"]
    return TrialState(
        trial_id,
        name,
        row["status"],
        int(row["epochs"] or 0),
        int(row["planned_epochs"] or 0),
        float(iou) if iou else None,
        seconds=float(row["train_seconds"] or 0),
        error=row["error"],
    )


def watch(out: Path, console: Console, now: Callable[[], float] = time.monotonic) -> int:
    """Show a sweep until it has ended.

    Parameters
    ----------
    out : Path
        The run folder.
    console : rich.console.Console
    now : callable
        Returns seconds of a clock that never jumps.

    Returns
    -------
    int
        The exit code that the sweep has, or would have if it ended now.

    Raises
    ------
    RequestError
        When `out` is no run folder, or nothing is written there within a minute.
    KeyboardInterrupt
        When the user stops watching.
    """
    watched = Watched(out)
    alive = Alive(watched, now)
    plan = _wait_for_plan(watched, alive, console, now)
    if plan is None:
        return _ended_before_plan(console, alive.sign)
    _show(watched, alive, console, now)
    return _finish(console, out, read_plan(out) or plan, alive.sign)


class Alive:
    """Whether a sweep is running, as far as its signs of life tell.

    The clocks of two machines may differ, so a sign's age is counted from when it was first seen
    here; only the first one's age is the difference of the clocks.
    """

    def __init__(self, watched: Watched, now: Callable[[], float]) -> None:
        self._watched, self._now = watched, now
        self.sign: Sign | None = None
        self._seen = now()
        self._first_age = 0.0
        self._changed = False

    def look(self) -> bool:
        """Look for a new sign of life; return whether the sweep counts as running."""
        sign = self._watched.sign()
        if sign is None:
            return False
        if self.sign is None or (sign.pid, sign.beat) != (self.sign.pid, self.sign.beat):
            self._changed = self.sign is not None
            self._first_age = 0.0 if self._changed else max(0.0, time.time() - sign.time)
            self.sign, self._seen = sign, self._now()
        if is_gone(sign):
            return False
        here = self._now() - self._seen
        # one that seems old may come from a clock that is behind: see whether another one comes
        return self.age() < SILENT_SECONDS or (not self._changed and here < SECONDS + 5)

    def age(self) -> float:
        """Return the seconds since the last sign of life."""
        return self._first_age + self._now() - self._seen

    def text(self) -> str:
        """Return one line on the process and its last sign of life."""
        sign = self.sign
        assert sign is not None
        parts = [f"process {sign.pid} on {sign.host}", f"sign of life {duration(self.age())} ago"]
        if sign.epoch_seconds is not None:
            parts.append(f"last epoch {duration(sign.epoch_seconds + self.age())} ago")
        if self.age() > 4 * SECONDS:
            parts.append("it may have lost OUT, or have been killed")
        return ", ".join(parts)


def _wait_for_plan(
    watched: Watched, alive: Alive, console: Console, now: Callable[[], float]
) -> dict[str, Any] | None:
    """Return the plan once it is there; None if the sweep ended before."""
    began, said = now(), ""
    while True:
        plan = read_plan(watched.out, "--watch")  # refuses what is no run folder
        if plan is not None:
            return plan
        running = alive.look()
        if alive.sign is not None and not running:
            return None
        text = (
            f"{alive.text().split(', ')[0]} is starting; no trial has begun"
            if alive.sign is not None
            else f"nothing has been written to {address_of(watched.out)} yet; waiting for a sweep "
            "to start"
        )
        if alive.sign is None and now() - began > PATIENCE_SECONDS:
            raise RequestError(
                f"--watch {watched.out}: no sweep has started there within "
                f"{PATIENCE_SECONDS:.0f} s; is it the right folder?"
            )
        if text != said:
            said = text
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        time.sleep(1)


def _ended_before_plan(console: Console, sign: Sign | None) -> int:
    code = INTERRUPTED if sign is None or sign.code is None else sign.code
    console.print(
        "not running: the sweep that was started here ended before its first trial"
        + ("" if sign is None or sign.code is None else f" (exit code {sign.code})")
        + "; run the same command again",
        soft_wrap=True,
    )
    return code


def _show(watched: Watched, alive: Alive, console: Console, now: Callable[[], float]) -> None:
    """Show the trials until the sweep has ended."""
    if not alive.look():
        return
    sign = alive.sign
    assert sign is not None
    title = sign.title or watched.out.name
    view = View(console, title, sign.at_once)
    view.began(sign.seconds + alive.age())
    with view:
        view.known(watched.states(sign))
        while alive.look():
            sign = alive.sign
            assert sign is not None
            looked = now()
            states = watched.states(sign)
            took = now() - looked
            view.title, view.slots = sign.title or title, sign.at_once
            view.below = [alive.text(), *([f"last message: {sign.note}"] if sign.note else [])]
            view.update(states)
            rest = max(REFRESH_SECONDS, took / SHARE)
            while now() - looked < rest:
                time.sleep(min(0.5, rest))


def _finish(console: Console, out: Path, plan: Mapping[str, Any], sign: Sign | None) -> int:
    """Print the leaderboard and how to go on; return the exit code."""
    records = Ledger(out).read()
    rows = rows_of(out, plan, records)
    asked = None if sign is None or sign.asked is None else set(sign.asked)

    def asks_for(trial_id: str) -> bool:
        return asked is None or trial_id in asked

    lacking = missing(out, plan, records)
    code = print_results(console, out, rows, lacking, folds_of(plan), asks_for)
    left = sum(row["status"] in ("running", "waiting") for row in rows if asks_for(row["trial_id"]))
    left += max(0, (sign.samples if sign else 0) - len(records))
    if not left and code == DONE:
        print_next(console, out, rows)
    if not left:
        return code
    when = ""
    if sign is not None:
        last = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sign.time))
        when = f" (process {sign.pid} on {sign.host}, last sign of life {last})"
    command = str(plan["commands"][-1])
    command += "" if "--resume" in command.split() else " --resume"
    console.print(f"not running{when}: {left} trials have not ended; {CONTINUE}:", soft_wrap=True)
    console.print(f"  {command}", markup=False, soft_wrap=True)
    return sign.code if sign is not None and sign.code else INTERRUPTED
