"""The ledger: one small file per trial, the only record of what has been done.

A trial's file is written completely or not at all: ``running`` and ``done`` by the worker that
trains it (so that nothing is lost if the driver dies at that moment), ``failed`` and ``stopped`` by
the process that notices it. ``attempts`` lists when and on which node each attempt began.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainables.config import TrialConfig, TrialResult
from trainables.records import mounted, objects
from trainables.records.files import fetch_all, fetched, json_text, names, remove, write_json
from trainables.records.manifest import missing_file
from trainables.records.objects import address_of
from trainables.records.patience import Patience

T = TypeVar("T")
Status = Literal["running", "done", "failed", "stopped"]
FINAL = ("done", "failed", "stopped")
_RERUN = "--resume trains the trial again"
PARTS = ("history", "per_image")
"""Folders in the ledger with a finished trial's epochs and counts."""
LOCK_SECONDS = 5.0
"""Longest wait for another writer, which may have died while its node still keeps the lock."""


class Ledger:
    """The trials' records in ``OUT/ledger``.

    Parameters
    ----------
    out : Path
        The run folder.
    patience : Patience, optional
        Waits while the storage is full, read-only or away; without it, nothing is waited for.
    """

    def __init__(self, out: Path, patience: Patience | None = None) -> None:
        self.folder, self.patience = out / "ledger", patience

    def _patiently(self, path: Path, work: Callable[[], T]) -> T:
        return work() if self.patience is None else self.patience(path, work)

    def write(self, trial_id: str, config: TrialConfig, status: Status, **fields: Any) -> None:
        """Record a trial's state and replace the earlier record.

        A record with status done is never replaced: a later writer may not know of it.
        """
        record = {
            "trial_id": trial_id,
            "status": status,
            "config": config.model_dump(mode="json"),
            **fields,
        }

        def replace(before: dict[str, Any]) -> dict[str, Any] | None:
            if before.get("status") == "done":
                return None
            new = dict(record)
            # stays beside the result: what did not suffice, and what else happened on the way
            for name in ("out_of_memory", "notes"):
                if before.get(name):
                    new.setdefault(name, before[name])
            # also an attempt without W&B leaves the run that an earlier one began
            new["wandb_id"] = record.get("wandb_id") or before.get("wandb_id", "")
            return new

        self._change(trial_id, replace)

    def _change(
        self, trial_id: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        """Replace a record by what `change` makes of it ({} if there is none; None leaves it)."""
        path = self._path(trial_id)
        self._patiently(path, lambda: self._change_once(path, change))

    def _change_once(
        self, path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> None:
        if objects.is_stored(path):

            def changed(content: bytes | None) -> bytes | None:
                new = change({} if content is None else _checked(path, _parsed(path, content)))
                return None if new is None else json_text(new).encode()

            objects.update(path, changed)
            return
        with self._alone():
            new = change(_checked(path, _read(path)) or {})
            if new is not None:
                write_json(path, new)

    def _path(self, trial_id: str) -> Path:
        return self.folder / f"{trial_id}.json"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock out other writers while a record is read and replaced, if the disk has locks."""
        mounted.check(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "a", encoding="utf-8") as handle:
            end = time.monotonic() + LOCK_SECONDS
            while time.monotonic() < end:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.005)
                except OSError:  # it has none
                    break
            yield

    def write_start(
        self, trial_id: str, config: TrialConfig, node: str, gpus: Sequence[str] = (), **fields: Any
    ) -> None:
        """Record that an attempt at a trial begins, on which node and GPUs, and with which limits.

        Records of trials that have ended keep the limits of each attempt.
        """
        before = self.read_one(trial_id) or {}
        attempt = {"node": node, "gpus": [*gpus], "pid": os.getpid(), "started": time.time()}
        if "limits" in fields:
            attempt["limits"] = fields["limits"]
        attempts = [*before.get("attempts", []), attempt]
        self.write(trial_id, config, "running", attempts=attempts, **fields)

    def write_shortage(
        self, trial_id: str, config: TrialConfig, what: str, retry: dict[str, Any], **f: Any
    ) -> None:
        """Record that an attempt ran out of memory, and the limits of the next one."""
        before = (self.read_one(trial_id) or {}).get("out_of_memory", [])
        self.write(
            trial_id,
            config,
            "running",
            attempts=self.attempts(trial_id),
            retry=retry,
            out_of_memory=[*before, what],
            **f,
        )

    def note(self, trial_id: str, text: str) -> None:
        """Add a line for the user to a trial's record; the driver also prints it."""
        self._change(
            trial_id,
            lambda record: (
                {**record, "notes": [*record.get("notes", []), text]} if record else None
            ),
        )

    def attempts(self, trial_id: str) -> list[dict[str, Any]]:
        """Return the attempts at a trial so far."""
        return list((self.read_one(trial_id) or {}).get("attempts", []))

    def write_done(self, config: TrialConfig, trial_id: str, result: TrialResult, **f: Any) -> None:
        """Record a finished trial with its metrics and history; the first such record is kept."""
        if (self.read_one(trial_id) or {}).get("status") == "done":
            return
        apart = ("history", "checkpoint", "per_image")
        metrics = {k: v for k, v in vars(result).items() if k not in apart}
        self.write_parts(trial_id, result)
        attempts = self.attempts(trial_id)
        if attempts:
            attempts[-1]["ended"] = time.time()
        self.write(trial_id, config, "done", metrics=metrics, attempts=attempts, **f)

    def write_parts(self, trial_id: str, result: TrialResult) -> None:
        """Write the epochs and the counts of a finished trial."""
        history = [record.to_dict() for record in result.history]
        self._write(self.folder / "history" / f"{trial_id}.json", history)
        per_image = [vars(one) for one in result.per_image]
        self._write(self.folder / "per_image" / f"{trial_id}.json", per_image)

    def write_history(self, trial_id: str, history: list[dict[str, Any]]) -> None:
        """Record the epochs of an unfinished trial that were reported to the driver.

        They get a separate file, since the worker may write the whole history at that moment.
        """
        self._write(self.folder / "history" / f"{trial_id}.partial.json", history)

    def _write(self, path: Path, value: Any) -> None:
        self._patiently(path, lambda: write_json(path, value))

    def forget(self, trial_ids: Collection[str]) -> None:
        """Delete history and counts of trials whose record was removed to train them again."""
        for folder in (self.folder / part for part in PARTS):
            for name in names(folder) if trial_ids else []:
                if name.removesuffix(".json").removesuffix(".partial") in trial_ids:
                    remove(folder / name)

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all records by trial_id.

        Raises
        ------
        LedgerError
            When a record is damaged.
        """
        fetch_all(self.folder, lambda name: name.endswith(".json") and "/" not in name, alone=True)
        paths = sorted(self.folder.glob("*.json"))
        records = (_checked(path, _read(path)) for path in paths)
        return {record["trial_id"]: record for record in records if record is not None}

    def read_one(self, trial_id: str) -> dict[str, Any] | None:
        """Return one trial's record, or None."""
        path = self._path(trial_id)
        record: dict[str, Any] | None = self._patiently(
            path, lambda: _checked(path, _read(fetched(path)))
        )
        return record

    def fetch(self, folder: str) -> None:
        """Fetch all of ``history`` or ``per_image`` at once, if the run is in an object store."""
        fetch_all(self.folder / folder)

    def read_history(self, trial_id: str, fresh: bool = True) -> list[dict[str, Any]]:
        """Return one row for each recorded epoch of a trial; not `fresh`: after `fetch`."""
        names = (f"{trial_id}.json", f"{trial_id}.partial.json")
        paths = (self.folder / "history" / name for name in names)
        return next(filter(None, (_read(fetched(p) if fresh else p) for p in paths)), [])

    def read_per_image(self, trial_id: str, fresh: bool = True) -> list[dict[str, Any]]:
        """Return one row per validation and test image of a finished trial; see `read_history`."""
        path = self.folder / "per_image" / f"{trial_id}.json"
        return _read(fetched(path) if fresh else path) or []


class LedgerError(ValueError):
    """A record that cannot be read; the message says which, and what to do.

    Parameters
    ----------
    what : str
        What is wrong.
    advice : str
        What to do.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = what


def _read(path: Path) -> Any:
    try:
        return _parsed(path, path.read_bytes())
    except FileNotFoundError:
        mounted.check(path)  # of a run whose storage is away, nothing is known
        return None


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except ValueError as error:  # not JSON, or not UTF-8
        why = " ".join(str(error).split())
        raise LedgerError(
            f"{address_of(path)} is damaged ({why})", f"remove it, then {_RERUN}"
        ) from error


def _checked(path: Path, record: Any) -> Any:
    """Return a trial's record, or None; refuse what is none."""
    if record is None:
        return None
    whole = isinstance(record, dict) and {"trial_id", "status"} <= {*record}
    # a copy under another name, which programs that synchronise folders make, could be older
    if whole and record["status"] in ("running", *FINAL) and record["trial_id"] == path.stem:
        return record
    raise LedgerError(f"{address_of(path)} is not a trial's record", f"remove it, then {_RERUN}")


def has_ended(record: Mapping[str, Any] | None, plan: Mapping[str, Any]) -> bool:
    """Whether a trial has ended according to its record.

    Earlier versions recorded a trial as stopped if its result was lost; without a scheduler, no
    trial can really have been stopped.

    Parameters
    ----------
    record : mapping or None
        The trial's record in the ledger.
    plan : mapping
        Contents of plan.json.
    """
    if record is None or record["status"] not in FINAL:
        return False
    with_scheduler = plan.get("settings", {}).get("scheduler", "fifo") != "fifo"
    return record["status"] != "stopped" or bool(record.get("by")) or with_scheduler


def missing(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return, by trial_id, what is missing from the run folder.

    Parameters
    ----------
    out : Path
        The run folder.
    plan : mapping
        Contents of plan.json.
    records : mapping
        The ledger's records by trial_id.
    """
    lacking = {}
    for trial_id, record in records.items():
        if record["status"] == "stopped" and not has_ended(record, plan):
            lacking[trial_id] = "its result was lost; --resume trains it again"
        elif record["status"] == "done" and (path := missing_file(out / "checkpoints" / trial_id)):
            lacking[trial_id] = (
                f"its checkpoint is missing ({address_of(path)}); put it back, or remove "
                f"{address_of(Ledger(out).folder / trial_id)}.json, then {_RERUN}"
            )
    return lacking
