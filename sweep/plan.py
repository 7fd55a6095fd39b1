"""What a sweep will do: trials, data and settings, as plan.json records them."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.identity import identity
from sweep.precision import Precision, settle
from sweep.provenance import git_commit, library_versions
from sweep.request import Request, RequestError
from sweep.search import dimensions as drawing
from trainables.config import RECIPE, TrialConfig
from trainables.data.dataset import DataSet
from trainables.records.files import write_json

FORMAT = 1


@dataclass(frozen=True)
class Trial:
    """One planned trial."""

    trial_id: str
    config: TrialConfig


@dataclass(frozen=True)
class Plan:
    """A request on given data: what ``plan.json`` records."""

    request: Request
    data: str
    fingerprint: str
    trials: tuple[Trial, ...]
    """Empty where a search draws them."""
    precision: Precision | None = None
    """None: decided when the sweep has joined its cluster; until then trials say ``auto``."""
    left_out: frozenset[str] = frozenset()
    """Names of the trials that ``--only`` left out."""

    def asks_for(self, trial_id: str) -> bool:
        """Whether a trial of the run folder is to be run: all are, unless ``--only`` names some."""
        return not self.request.only or any(one.trial_id == trial_id for one in self.trials)

    @property
    def drawn(self) -> bool:
        """Whether trials are drawn while the sweep runs, rather than listed before."""
        return self.request.settings.search != "grid"

    @property
    def key(self) -> dict[str, Any]:
        """What an existing run must have in common with this plan."""
        key: dict[str, Any] = {"fingerprint": self.fingerprint}
        if self.drawn:
            key["search"] = self.request.settings.search
            key["base"] = [c.model_dump(mode="json") for c in self.request.configs]
            key["dimensions"] = drawing.to_json(self.request.space.dimensions)
        return key

    @functools.cached_property
    def samples(self) -> int:
        """Different trials that a search draws: as many as are wanted, or as there are."""
        there = drawing.count(self.request.configs[0], self.request.space.dimensions)
        wanted = self.request.settings.samples
        return wanted if there is None else min(wanted, there)


def make_plan(request: Request, dataset: DataSet, precision: Precision | None = None) -> Plan:
    """Name the trials of a request on a data set, divided as it was there, in a precision if
    that is decided.
    """
    request = replace(request, data_options=dataset.options)
    if precision is not None:
        request = settle(request, precision)
    trials = tuple(
        Trial(config.trial_id(dataset.fingerprint), config) for config in request.configs
    )
    if request.settings.search != "grid":
        trials = ()
    rest = frozenset(config.trial_id(dataset.fingerprint) for config in request.left_out)
    return Plan(request, str(dataset.root), dataset.fingerprint, trials, precision, rest)


def with_recorded(plan: Plan, recorded: Mapping[str, Any] | None, ended: Collection[str]) -> Plan:
    """Return a plan with the trials that a run has recorded, still has to run, and that the
    request does not name itself, such as a part of a grid that is resumed whole.
    """
    known = {trial.trial_id for trial in plan.trials} | set(ended)
    more = [
        Trial(t["trial_id"], TrialConfig.model_validate(t["config"]))
        for t in (recorded["trials"] if recorded else [])
        if t["trial_id"] not in known and plan.asks_for(t["trial_id"])
    ]
    return replace(plan, trials=(*plan.trials, *more))


def read_plan(out: Path) -> dict[str, Any] | None:
    """Read ``plan.json`` of a run folder.

    Returns
    -------
    dict or None
        None where there is no run yet.

    Raises
    ------
    RequestError
        When `out` holds something that is not a run.
    """
    path = out / "plan.json"
    if path.is_file():
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise RequestError(f"{path} is of format {content['format']}, not {FORMAT}")
            _check_recorded(content)
        except RequestError:
            raise
        except KeyError as error:
            raise RequestError(f"{path} is damaged: it has no {error}") from error
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(f"{path} is damaged: {' '.join(str(error).split())}") from error
        return content
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: is a file")
    strange = [p.name for p in out.iterdir() if not _is_own(p.name)] if out.is_dir() else []
    if strange:
        raise RequestError(
            f"--out {out}: this folder is not a run (it holds {strange[0]} and no plan.json); "
            "name another folder"
        )
    return None


def _check_recorded(content: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError where plan.json lacks what every run has."""
    content["key"]["fingerprint"], content["data"]["path"], content["data"]["options"]
    content["commands"], content["created"]
    for trial in content["trials"]:
        trial["config"]["architecture"], trial["trial_id"]


OWN_FILES = (".nodes", "data", ".lock", "sweep.log", "weights")
"""What may lie in a run folder before there is a plan."""


def _is_own(name: str) -> bool:
    """Whether a sweep that was killed before it had a plan may have left a file of this name."""
    return name in OWN_FILES or (name.startswith(".") and name.endswith(".tmp"))


def conflict(plan: Plan, recorded: Mapping[str, Any]) -> str | None:
    """Say why a recorded run cannot be continued by a plan; None when it can.

    It can when the data are the same and one's trials contain the other's: an extended grid
    runs what is missing, a part of a grid asks for nothing new.
    """
    recipe = recorded.get("recipe", 1)
    if recipe != RECIPE:
        return (
            f"its networks were trained by recipe {recipe} of an earlier version (every epoch saw "
            f"the same crops and augmentation), this version trains by recipe {RECIPE}"
        )
    if recorded["key"]["fingerprint"] != plan.fingerprint:
        return f"it used other data ({recorded['data']['path']}), or they have changed since"
    if (why := drawing.difference(plan.key, recorded["key"])) is not None:
        return why
    old = {trial["trial_id"]: trial["config"] for trial in recorded["trials"]}
    new = {trial.trial_id: trial.config.model_dump(mode="json") for trial in plan.trials}
    whole = new.keys() | plan.left_out
    if plan.drawn or old.keys() <= whole or whole <= old.keys() or new.keys() <= old.keys():
        return None
    missing = [trial_id for trial_id in old if trial_id not in new]
    one = next(iter(new.values()))
    defaults = TrialConfig().model_dump(mode="json")
    changed = min(
        (
            {k: (was, now) for k, now in one.items() if (was := old[i].get(k, defaults[k])) != now}
            for i in missing
        ),
        key=len,
    )
    listed = ", ".join(
        f"{k} was {_short(was)}, now {_short(now)}" for k, (was, now) in changed.items()
    )
    return f"its settings differ ({listed})"


def _short(value: Any) -> Any:
    return value.get("mode", value) if isinstance(value, dict) else value


def write_plan(
    out: Path, plan: Plan, dataset: DataSet, command: str, recorded: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Record a plan in ``plan.json``; an extended run keeps the trials and commands it had.

    Returns
    -------
    dict
        What was written.
    """
    trials = {t["trial_id"]: t for t in (recorded["trials"] if recorded else [])}
    for trial in plan.trials:
        config = trial.config.model_dump(mode="json")
        trials.setdefault(trial.trial_id, {"trial_id": trial.trial_id, "config": config})
    content = {
        "format": FORMAT,
        "recipe": RECIPE,
        "space": plan.request.space_name,
        "key": plan.key,
        "commands": [*(recorded["commands"] if recorded else []), command],
        "created": recorded["created"] if recorded else datetime.now(UTC).isoformat("T", "seconds"),
        **identity(out, recorded),
        "git_commit": git_commit(),
        "versions": library_versions(),
        "settings": plan.request.settings.model_dump(mode="json"),
        "precision": plan.precision.to_dict() if plan.precision else None,
        "data": {
            "path": plan.data,
            "fingerprint": dataset.fingerprint,
            "options": dataset.options.model_dump(mode="json"),
            "split": {name: list(stems) for name, stems in dataset.split.items()},
            "groups": {item.stem: item.group for item in dataset.items},
            "pixel_size_um": dataset.pixel_size_um,
            "notes": list(dataset.notes),
        },
        "trials": list(trials.values()),
    }
    write_json(out / "plan.json", content)
    return content
