"""The plan of a sweep: trials, data and settings, as plan.json records them."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweep import heartbeat
from sweep.detach import LOG
from sweep.difference import data_lines, setting_lines
from sweep.extending import Shorter
from sweep.identity import identity
from sweep.precision import Precision, settle
from sweep.provenance import git_commit, library_versions
from sweep.request import Request, RequestError
from sweep.search import dimensions as drawing
from trainables.config import RECIPE, TrialConfig, recorded_config
from trainables.data.dataset import DataSet
from trainables.records.files import fetched, names, write_json
from trainables.records.objects import address_of

FORMAT = 1
_RESTORE = "restore it from a copy, or name another folder with --out"


@dataclass(frozen=True)
class Trial:
    """One planned trial."""

    trial_id: str
    config: TrialConfig


@dataclass(frozen=True)
class Plan:
    """A request applied to a data set; ``plan.json`` records it."""

    request: Request
    data: str
    fingerprint: str
    trials: tuple[Trial, ...]
    """Empty if a search draws the trials."""
    precision: Precision | None = None
    """None until the sweep has joined its cluster; until then trials have ``auto``."""
    left_out: frozenset[str] = frozenset()
    """trial_ids that ``--only`` left out."""

    def asks_for(self, trial_id: str) -> bool:
        """Whether to run a trial of the run folder: all of them, unless ``--only`` selects some."""
        return not self.request.only or any(one.trial_id == trial_id for one in self.trials)

    @property
    def drawn(self) -> bool:
        """Whether trials are drawn while the sweep runs, instead of listed in advance."""
        return self.request.settings.search != "grid"

    @property
    def key(self) -> dict[str, Any]:
        """What this plan must share with an existing run to continue it."""
        key: dict[str, Any] = {"fingerprint": self.fingerprint}
        if self.drawn:
            key["search"] = self.request.settings.search
            key["base"] = [c.model_dump(mode="json") for c in self.request.configs]
            key["dimensions"] = drawing.to_json(self.request.space.dimensions)
        return key

    @functools.cached_property
    def samples(self) -> int:
        """Number of different trials that a search draws: all wanted ones, if so many exist."""
        there = drawing.count(self.request.configs[0], self.request.space.dimensions)
        wanted = self.request.settings.samples
        return wanted if there is None else min(wanted, there)


def as_recorded(plan: Plan, recorded: Mapping[str, Any]) -> Plan:
    """Return a plan with the precision of the recorded run, if it has none yet."""
    if plan.precision is not None or not recorded.get("precision"):
        return plan
    precision = Precision(**recorded["precision"])
    request = settle(plan.request, precision)
    trials, rest = _trials(request, plan.fingerprint)
    return replace(plan, request=request, trials=trials, precision=precision, left_out=rest)


def _trials(request: Request, fingerprint: str) -> tuple[tuple[Trial, ...], frozenset[str]]:
    """Return the trials of a request (none if a search draws them) and the ids left out."""
    trials = tuple(Trial(config.trial_id(fingerprint), config) for config in request.configs)
    if request.settings.search != "grid":
        trials = ()
    return trials, frozenset(config.trial_id(fingerprint) for config in request.left_out)


def make_plan(request: Request, dataset: DataSet, precision: Precision | None = None) -> Plan:
    """Make the plan of a request on a data set with its split, and with the precision if that is
    already decided.
    """
    request = replace(request, data_options=dataset.options)
    if precision is not None:
        request = settle(request, precision)
    trials, rest = _trials(request, dataset.fingerprint)
    return Plan(request, address_of(dataset.root), dataset.fingerprint, trials, precision, rest)


def with_recorded(plan: Plan, recorded: Mapping[str, Any] | None, ended: Collection[str]) -> Plan:
    """Return a plan with further trials of the recorded run that have not ended and that the
    request does not contain, such as the rest of a grid when a part of it is resumed.
    """
    known = {trial.trial_id for trial in plan.trials} | set(ended)
    more = [
        Trial(t["trial_id"], TrialConfig.model_validate(t["config"]))
        for t in (recorded["trials"] if recorded else [])
        if t["trial_id"] not in known and plan.asks_for(t["trial_id"])
    ]
    return replace(plan, trials=(*plan.trials, *more))


def read_plan(out: Path, option: str = "--out") -> dict[str, Any] | None:
    """Read ``plan.json`` of a run folder, which `option` of the command line named.

    Returns
    -------
    dict or None
        None if there is no run yet.

    Raises
    ------
    RequestError
        When `out` contains something other than a run.
    """
    path = fetched(out / "plan.json")
    if path.is_file():
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise RequestError(
                    f"{path} has format {content['format']}, but this version reads {FORMAT}; name "
                    "another folder with --out"
                )
            _check_recorded(content, path)
        except RequestError:
            raise
        except KeyError as error:
            raise RequestError(f"{path} is damaged: it has no {error}; {_RESTORE}") from error
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(
                f"{path} is damaged: {' '.join(str(error).split())}; {_RESTORE}"
            ) from error
        return content
    if out.exists() and not out.is_dir():
        raise RequestError(f"{option} {out}: is a file; name a folder")
    strange = [name for name in names(out) if not _is_own(name)]
    if strange:
        raise RequestError(
            f"{option} {address_of(out)}: this folder is not a run (it contains {strange[0]} but "
            "no plan.json); name another folder"
        )
    return None


def _check_recorded(content: Mapping[str, Any], path: Path) -> None:
    """Raise KeyError or TypeError if plan.json lacks something that every run has, and RequestError
    if this version cannot read its trials.
    """
    content["key"]["fingerprint"], content["data"]["path"], content["data"]["options"]
    content["commands"], content["created"]
    for trial in content["trials"]:
        config, trial_id = trial["config"], trial["trial_id"]
        config["architecture"], config["task"], config["epochs"], config["normalization"]
        try:
            recorded_config(config)
        except ValidationError as error:
            one = error.errors()[0]
            where = ".".join(map(str, one["loc"]))
            raise RequestError(
                f"{path}: this version cannot read trial {trial_id} ({where}: {one['msg']}); if a "
                f"later version wrote it, use that one; else {_RESTORE}"
            ) from error


OWN_FILES = (".nodes", "data", ".lock", heartbeat.FILE, LOG, "sweep.log", "weights")
"""Files that may exist in a run folder before there is a plan."""


def _is_own(name: str) -> bool:
    """Whether a file of this name may be left over from a sweep that was killed before its plan."""
    return name in OWN_FILES or (name.startswith(".") and name.endswith(".tmp"))


def conflict(plan: Plan, recorded: Mapping[str, Any]) -> str | None:
    """Return why a plan cannot continue a recorded run; None if it can.

    It can if the data are the same and one of them contains all trials of the other: an extended
    grid runs the missing trials, and a part of a grid adds none. It also can if its new trials
    differ from recorded ones only in having more epochs.
    """
    recipe = recorded.get("recipe", 1)
    if recipe != RECIPE:
        return (
            f"its networks were trained with recipe {recipe} of an earlier version (the same crops "
            f"and augmentation in every epoch), but this version uses recipe {RECIPE}"
        )
    was, now = (recorded["data"]["options"].get("folds"), plan.request.data_options.folds)
    if was != now:
        before, asked = (f"{n} folds" if n else "no folds" for n in (was, now))
        return f"its images are divided into {before}, but this command asks for {asked}"
    if recorded["key"]["fingerprint"] != plan.fingerprint:
        return f"it used different data ({recorded['data']['path']}), or they have changed since"
    if (why := drawing.difference(plan.key, recorded["key"])) is not None:
        return why
    old = {trial["trial_id"]: trial["config"] for trial in recorded["trials"]}
    new = {trial.trial_id: trial.config.model_dump(mode="json") for trial in plan.trials}
    whole = new.keys() | plan.left_out
    if plan.drawn or old.keys() <= whole or whole <= old.keys() or new.keys() <= old.keys():
        return None
    shorter = Shorter(recorded["trials"])
    if all(shorter.of(config) for i, config in new.items() if i not in old):
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


def difference(plan: Plan, recorded: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting in which a plan differs from a recorded run.

    Parameters
    ----------
    plan : Plan
        A plan that `conflict` has found not to continue the run.
    recorded : mapping
        Contents of plan.json.
    """
    lines: list[str] = []
    options = plan.request.data_options
    if recorded["key"]["fingerprint"] != plan.fingerprint:
        lines += data_lines(plan.data, options, recorded["data"])
    before = recorded["key"].get("base") or [trial["config"] for trial in recorded["trials"]]
    asked = (*plan.request.configs, *plan.request.left_out)
    now = [config.model_dump(mode="json") for config in asked]
    for name, value in (plan.key.get("dimensions") or {}).items():
        old = recorded["key"].get("dimensions", {}).get(name)
        if old != value:
            lines.append(f"{name}: drawn from {old} in plan.json, from {value} in this command")
    return [*lines, *setting_lines(now, before)]


def _short(value: Any) -> Any:
    return value.get("mode", value) if isinstance(value, dict) else value


def write_plan(
    out: Path, plan: Plan, dataset: DataSet, command: str, recorded: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Record a plan in ``plan.json``; an extended run keeps its earlier trials and commands.

    Returns
    -------
    dict
        The content of the file.
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
            "split": {name: list(stems) for name, stems in dataset.parts.items()},
            "groups": {item.stem: item.group for item in dataset.items},
            "pixel_size_um": dataset.pixel_size_um,
            "notes": list(dataset.notes),
        },
        "trials": list(trials.values()),
    }
    write_json(out / "plan.json", content)
    return content
