"""Saved states, from which a trial continues after an interruption. Imports no torch.

All kinds of networks use the same protocol. A *saved state* is two files: what training needs to
continue, and the best weights so far, named after their epochs. ``resume.json``, written after
them, names the last two states with sizes and SHA-256 of their files, and contains the history.
Whenever a process dies, the last ``resume.json`` names complete files. If storage damages or loses
some of them, the older state is used.

States are saved at the end of epochs. A sweep that must end within seconds asks for one within an
epoch; its name also has the number of batches of that epoch, and `State.batches` is not 0.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from trainables.config import EpochRecord, RunOptions
from trainables.errors import Paused
from trainables.records import mounted
from trainables.records.attempts import Attempt
from trainables.records.files import fetched, names, remove
from trainables.records.manifest import sha256_of
from trainables.records.patience import Patience
from trainables.records.progress import RESUME, History
from trainables.records.stops import Looks

KEPT = 2
"""Number of states that are kept, and one more while a new one is being written."""
COST = 20.0
"""The time between two saves is at least this many times the time that the last save took, so that
saving takes at most 5 % of the time."""

W = TypeVar("W")


@dataclass(frozen=True)
class Form(Generic[W]):
    """How a kind of network stores its weights."""

    suffix: str
    """Ending of the names of files with states."""
    best_suffix: str
    """Ending of the names of files with weights."""
    write: Callable[[Path, W], Any]
    read: Callable[[Path], W]


@dataclass(frozen=True)
class State:
    """One saved state whose files are complete."""

    epoch: int
    """Epochs that had ended."""
    path: Path
    batches: int = 0
    """Batches of the next epoch that had been trained on, if it was saved within that."""


class Progress(Generic[W]):
    """How far a trial is: its history, its best weights, and its saved states.

    Parameters
    ----------
    attempt : Attempt
    form : Form
    options : RunOptions
        ``checkpoint_seconds`` is the least time between two saves, which happen at the end of an
        epoch; ``stop_file`` asks for one, then or at once, and to stop after it.
    say : callable
        Called with a line for the user.

    Attributes
    ----------
    history : History
    keeps_last : bool
        Whether the state after the last epoch will be kept, too.
    looks : Looks
        Whether training shall stop.
    """

    def __init__(
        self, attempt: Attempt, form: Form[W], options: RunOptions, say: Callable[[str], None]
    ) -> None:
        self.attempt, self.form, self.say = attempt, form, say
        self.seconds, self.looks = options.checkpoint_seconds, Looks(options.stop_file)
        self._stopping = False
        attempt.patience = Patience(say, options.stop_file)
        self.folder = attempt.folder
        self.history, self.keeps_last = History(), False
        self._best: W | None = None
        self._best_file: str | None = None
        self._kept: list[dict[str, Any]] = []
        self._files: dict[str, dict[str, Any]] = {}
        self._problems: list[str] = []
        self._saved, self._took = time.monotonic(), 0.0

    def states(self) -> Iterator[State]:
        """Yield the complete saved states, newest first; progress is then that of the state.

        A caller that can use a state stops iterating. A caller that cannot gives the reason with
        `refuse` and continues. If no state is left, progress is that of a new trial. One
        line tells the user which states were skipped.
        """
        states, rows = self._recorded()
        for number, entry in enumerate(states):
            problem = self._problem(entry)
            if problem is not None:
                self._problems.append(problem)
                continue
            if self._problems:
                self.say(
                    f"the last saved state cannot be used ({'; '.join(self._problems)}): training "
                    f"continues from the state of {_moment(entry)}"
                )
            self._begin(states[number:], rows)
            yield State(entry["epoch"], self.folder / entry["state"], entry["batches"])
        self._begin([], [])
        if self._problems:
            self.say(
                f"no saved state can be used ({'; '.join(self._problems)}): training starts again "
                "at epoch 1"
            )

    def refuse(self, state: State, error: Exception) -> None:
        """Skip a state that is complete but cannot be used."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:200] or type(error).__name__
        self._problems.append(f"{state.path.name} does not fit: {reason}")

    def _begin(self, states: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        self._kept, self._best, self.history = states, None, History()
        self._best_file = states[0]["best"] if states else None
        if states:
            self.history.restore(rows[: states[0]["epoch"]])

    def _recorded(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the states that `RESUME` names, newest first, and the rows of the history."""
        path = fetched(self.folder / RESUME)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            # versions before this protocol kept one state and nothing about its files
            states = content.get("states", [content])
            states = [
                {
                    **{k: one[k] for k in ("epoch", "state", "best")},
                    "batches": one.get("batches", 0),
                }
                for one in states
            ]
            self._files, self._took = content.get("files", {}), content.get("seconds", 0.0)
            return states, content.get("history", [])
        except FileNotFoundError:
            mounted.check(path)
            if any(name.startswith("resume-") for name in names(self.folder)):
                self._problems.append(f"{RESUME}, which names the files, is missing")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._problems.append(f"{RESUME} is damaged")
        return [], []

    def _problem(self, entry: dict[str, Any]) -> str | None:
        for name in filter(None, (entry["state"], entry["best"])):
            path, known = fetched(self.folder / name), self._files.get(name)
            if not path.is_file():
                return f"{name} is missing"
            if known is None:
                if not _is_whole_zip(path):
                    return f"{name} is damaged"
            elif path.stat().st_size != known["bytes"]:
                return f"{name} has {path.stat().st_size} of {known['bytes']} bytes"
            elif sha256_of(path) != known["sha256"]:
                return f"{name} is damaged: its SHA-256 differs from the recorded one"
        return None

    def add(self, record: EpochRecord, weights: Callable[[], W]) -> None:
        """Record an epoch; `weights` is called for a copy if it is the best so far."""
        if self.history.append(record):
            self._best = weights()

    def save_if_due(self, write: Callable[[Path], Any], *, ended: bool = False) -> None:
        """Save a state at an epoch's end, if the last one is old enough or training shall stop.

        Parameters
        ----------
        write : callable
            ``write(path)`` writes what training needs.
        ended : bool
            Whether it was the last epoch, and only the result is missing. Training then stops here
            only if it shall stop at once.

        Raises
        ------
        trainables.errors.Superseded
            When another attempt has begun.
        OSError
            When the disk is full, for instance.
        """
        least = max(self.seconds, COST * self._took) if self.seconds else 0.0
        self._stopping = self.looks.at_step() if ended else self.looks.at_epoch()
        wanted = self._stopping or (ended and self.keeps_last)
        if wanted or time.monotonic() - self._saved >= least:
            self.save(write)

    def stop_if_asked(self) -> None:
        """Stop training if a state was saved for that; call this when the epoch was reported.

        Raises
        ------
        Paused
        """
        if self._stopping:
            raise Paused("the sweep is being stopped; the trial has saved its state")

    def pause(self, write: Callable[[Path], Any], batches: int) -> NoReturn:
        """Save a state within an epoch, after so many of its batches, and stop.

        Raises
        ------
        Paused
        """
        self.save(write, batches)
        self._stopping = True
        self.stop_if_asked()
        raise AssertionError

    def save(self, write: Callable[[Path], Any], batches: int = 0) -> None:
        """Save a state now; see `save_if_due` and `pause`."""
        epoch = self.history.records[-1].epoch if self.history.records else 0
        if batches and (epoch, batches) in [(s["epoch"], s["batches"]) for s in self._kept[:1]]:
            return  # training continued from this very state, and got no further
        began = time.monotonic()
        if self._best is not None and self.history.best is not None:
            self._best_file = f"best-{self.history.best.epoch:05d}{self.form.best_suffix}"
            best = self._best
            self._write(self._best_file, lambda path: self.form.write(path, best))
            self._best = None  # on disk now; read back only if nothing better comes
        within = f"-{batches:07d}" if batches else ""
        state = f"resume-{epoch:05d}{within}{self.form.suffix}"
        self._write(state, write)
        newest = {"epoch": epoch, "batches": batches, "state": state, "best": self._best_file}
        # one from the end of an epoch fits where one from within does not (other micro-batches)
        self._kept = [newest, *sorted(self._kept, key=lambda one: one["batches"] > 0)][:KEPT]
        named = {name for one in self._kept for name in (one["state"], one["best"]) if name}
        self._files = {name: file for name, file in self._files.items() if name in named}
        self._took = time.monotonic() - began
        content = {
            "states": self._kept,
            "files": self._files,
            "seconds": self._took,
            "history": self.history.rows(),
        }
        self.attempt.write_json(self.folder / RESUME, content)
        self.attempt.check()  # this process may have been stopped for minutes
        for path in [*self.folder.glob("resume-*"), *self.folder.glob("best-*")]:
            if path.name not in named:
                remove(path)
        self._saved = time.monotonic()

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        path = self.folder / name
        self.attempt.write_with(path, write)
        self._files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}

    def best_weights(self) -> W:
        """Return the weights of the best validated epoch."""
        if self._best is not None:
            return self._best
        assert self._best_file is not None
        return self.form.read(self.folder / self._best_file)


def _moment(entry: Mapping[str, Any]) -> str:
    """Return where a state was saved, in words."""
    within = f"batch {entry['batches']} of " if entry["batches"] else ""
    return f"{within}epoch {entry['epoch'] + bool(within)}"


@dataclass(frozen=True)
class Saved:
    """What others can know of a trial's last saved state, without its files."""

    rows: list[dict[str, Any]]
    """One row per epoch that had ended."""
    within: bool
    """Whether it was saved within the epoch after these."""

    @property
    def epoch(self) -> int:
        """Number of the last epoch that had ended; 0 if none had."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0


def saved(folder: Path) -> Saved:
    """Return what a trial's folder says of its last saved state: no epoch, if that is damaged or
    missing, or was written before this protocol.
    """
    try:
        content = json.loads(fetched(folder / RESUME).read_text(encoding="utf-8"))
        rows = [row for row in content["history"] if isinstance(row["epoch"], int)]
        newest = (content.get("states") or [{}])[0]
        return Saved(rows, newest.get("batches", 0) > 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Saved([], False)


def _is_whole_zip(path: Path) -> bool:
    """Whether a file of torch or numpy, both of which are zip archives, holds what it did."""
    try:
        with zipfile.ZipFile(path) as content:
            return content.testzip() is None
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        return False
