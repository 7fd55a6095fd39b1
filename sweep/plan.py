"""What a sweep will do: trials, data and settings, decided and checked before it starts."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import search_spaces
from search_spaces import SearchSpace, override
from sweep.identity import identity
from sweep.precision import Precision, settle
from sweep.provenance import git_commit, library_versions
from sweep.search import dimensions as drawing
from trainables.config import RECIPE, STARDIST, TrialConfig
from trainables.data.dataset import DataOptions, DataSet
from trainables.encoders.licences import TRAINING_DATA
from trainables.encoders.sources import WeightsInfo, is_path
from trainables.records.files import write_json

FORMAT = 1

Pair = tuple[str, str]
"""An encoder and the value of ``encoder_weights`` that it starts from."""


class RequestError(ValueError):
    """A request that cannot be met; the message is the one line that the user sees."""


def _takes_wandb(project: str) -> str:
    """Refuse a name at which W&B would be off for every trial."""
    strange = "".join(sorted({character for character in project if character in "/\\#?%:"}))
    if strange:
        raise ValueError(f"W&B takes no project whose name holds {strange}")
    return project


def _a_share(gpus: float) -> float:
    """Refuse what Ray cannot give: parts of several GPUs, and parts smaller than it counts."""
    if 0 < gpus < 0.001 or (gpus > 1 and not gpus.is_integer()):
        raise ValueError(f"{gpus:g} is no share of a GPU: give 0, a number from 0.001 to 1, or 2")
    return gpus


class Settings(BaseModel):
    """How a sweep runs, beside its trials; every field can be given by ``--set``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scheduler: Literal["fifo", "asha"] = "fifo"
    """``asha`` stops trials early that fall behind."""
    search: Literal["grid", "optuna"] = "grid"
    """``optuna`` draws trials from the space's dimensions; ``--set`` of one value fixes a
    dimension, of several values with commas between is a choice."""
    samples: Annotated[int, Field(ge=1)] = 20
    """Different trials that ``search=optuna`` draws, or as many as there are."""
    grace_epochs: Annotated[int, Field(ge=1)] = 5
    """Epochs that ``scheduler=asha`` gives every trial."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Most trials at once; None: as many as the resources allow."""
    cpus_per_trial: Annotated[float, Field(ge=0.001)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0), AfterValidator(_a_share)] | None = None
    """A fraction lets trials share a GPU; None: a whole one where there are GPUs."""
    stardist_cpus: Annotated[float, Field(gt=0)] | None = None
    """Cores for a trial of stardist's own model where others train on GPUs; None: up to four."""
    stardist_gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a GPU for a trial of stardist's own model. 0: it trains on CPUs, since TensorFlow's
    packages for GPUs and torch's do not fit into one environment; above 0 only where the nodes'
    TensorFlow sees a GPU."""
    memory_per_trial: Annotated[float, Field(gt=0)] | None = None
    """GB that a trial on CPUs may take, reserved and enforced; doubled for a trial that runs out
    of it. None: what it is estimated to need is reserved, and nothing is enforced."""
    most_memory_per_trial: Annotated[float, Field(gt=0)] | None = None
    """GB up to which that is doubled; None: what a node has."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often in a row a trial may lose its worker or node without a new epoch in between."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Least time between two saved states of a trial (and never less than an epoch, or twenty times
    what the last one took); 0: after every epoch, whatever that costs."""
    tensorboard: bool = False
    """Write TensorBoard logs to OUT/tensorboard."""
    artifacts: bool = False
    """Upload each best checkpoint to W&B."""
    project: Annotated[str, Field(max_length=128), AfterValidator(_takes_wandb)] = "segsweep"
    """W&B project."""
    entity: str | None = None
    """W&B entity (user or team)."""


@dataclass(frozen=True)
class Trial:
    """One planned trial."""

    trial_id: str
    config: TrialConfig


@dataclass(frozen=True)
class Request:
    """What the command line asks for, before data and folder are looked at."""

    space_name: str
    space: SearchSpace
    configs: tuple[TrialConfig, ...]
    settings: Settings
    data_options: DataOptions
    weights: Mapping[Pair, WeightsInfo | str] = field(default_factory=dict)
    """What is known of the encoder weights; only their identity where a run has recorded it."""
    only: tuple[str, ...] = ()
    """What ``--only`` says."""
    left_out: tuple[TrialConfig, ...] = ()
    """Trials of the space that it left out: they may lie in the run folder, and stay."""


def load_space(name: str) -> tuple[str, SearchSpace]:
    """Find a search space by the name of its file in ``search_spaces/``, or by path.

    Parameters
    ----------
    name : str
        ``demo``, ``paper``, ... or a path that ends in ``.py``.

    Returns
    -------
    (name, space)
        The file's stem and its ``SPACE``.

    Raises
    ------
    RequestError
        When there is no such file, or it does not define a `SearchSpace`.
    """
    folder = Path(search_spaces.__file__).parent
    builtin = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    path = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        hint = f"; built-in: {', '.join(builtin)}, or the path of a .py file of your own"
        raise RequestError(f"no search space {name!r}{hint}")
    spec = importlib.util.spec_from_file_location(f"segsweep_space_{path.stem}", path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RequestError(f"search space {path}: {_first(error)}") from error
    except (Exception, SystemExit) as error:  # the file is the user's own code
        text = " ".join(str(error).split())
        raise RequestError(f"search space {path}: {type(error).__name__}: {text}") from error
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        raise RequestError(f"search space {path} must define SPACE = SearchSpace(...)")
    if not space.trials:
        raise RequestError(f"search space {path} holds no trial")
    return path.stem, space


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    where = ".".join(str(part) for part in one["loc"])
    message = one["msg"].removeprefix("Value error, ")
    got = "" if one["type"] in ("missing", "value_error") else f", not {one['input']!r}"
    return f"{where}: {message}{got}" if where else message


def _split_key(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise RequestError(f"--set {text!r}: write key=value, such as epochs=20")
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    """Read none as None and leave the rest to pydantic, which reads numbers from strings."""
    return None if text.lower() == "null" else text


def _field_value(key: str, text: str) -> Any:
    """Return a trial's setting; of few numbers to choose from (gap, grid), that number."""
    few = get_args(TrialConfig.model_fields[key].annotation)
    return next((n for n in few if isinstance(n, int) and str(n) == text), _value(text))


def weights_value(text: str) -> str:
    """Return a name as it is, and a path as an absolute one: trials do not run in this folder."""
    if text.lower() in ("imagenet", "pretrained"):
        return "pretrained"  # one name for one thing
    if text.lower() == "none":
        return "none"
    if text in TRAINING_DATA:
        return text
    path = Path(text).expanduser().absolute()
    # what is no path may be a name that timm gives to weights
    return str(path) if is_path(text) or path.exists() else text


def make_request(
    space_name: str, space: SearchSpace, changes: Sequence[str], seeds: int | None
) -> Request:
    """Apply ``--set`` and ``--seeds`` to a space.

    Parameters
    ----------
    space_name, space
        As `load_space` gives them.
    changes : sequence of str
        ``key=value``: a field of `TrialConfig` (several values, with commas between, span a
        grid, or are a choice for a search), of `Settings` or of `DataOptions`.
    seeds : int or None
        Repeat the grid with seeds 0, 1, ... ; refused for a search.

    Returns
    -------
    Request
        The dimensions of its space are what a search will draw from; none for a grid.

    Raises
    ------
    RequestError
        For an unknown key or a value that does not fit, naming both.

    Notes
    -----
    ``normalization=dataset`` changes whose percentiles scale the intensities; other percentiles
    are given in a search space file.
    """
    trial_changes: dict[str, list[Any]] = {}
    try:
        Settings.model_validate(space.settings)
    except ValidationError as error:
        raise RequestError(f"search space {space_name}: settings: {_first(error)}") from error
    settings = dict(space.settings)
    data_options: dict[str, Any] = {}
    for text in changes:
        key, value = _split_key(text)
        if key in TrialConfig.model_fields:
            if key == "weights_id":
                raise RequestError("--set weights_id: it follows from encoder_weights")
            trial_changes[key] = [_field_value(key, v.strip()) for v in value.split(",")]
            if key == "encoder_weights":
                trial_changes[key] = [weights_value(str(v)) for v in trial_changes[key]]
        elif key in Settings.model_fields:
            settings[key] = _value(value)
        elif key in DataOptions.model_fields:
            data_options[key] = _value(value)
        else:
            known = [*TrialConfig.model_fields, *Settings.model_fields, *DataOptions.model_fields]
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise RequestError(f"--set {key}: no such setting{hint}")
    if seeds is not None and seeds < 1:
        raise RequestError(f"--seeds {seeds}: at least 1")
    if settings.get("search") == "optuna":
        space, trial_changes = _searched(space_name, space, trial_changes, seeds)
    else:
        space = space.model_copy(update={"dimensions": {}})
        if seeds is not None and "seed" in trial_changes:
            raise RequestError(f"--seeds {seeds} and --set seed: give one of them")
        if seeds is not None:
            trial_changes["seed"] = list(range(seeds))
    try:
        configs = override(space.trials, trial_changes)
        for key, values in trial_changes.items():
            _refuse_unused(key, values, configs)
        return Request(
            space_name,
            space,
            configs,
            Settings.model_validate(settings),
            DataOptions.model_validate(data_options),
        )
    except ValidationError as error:
        raise RequestError(f"--set {_first(error)}") from error


def _searched(
    name: str, space: SearchSpace, changes: dict[str, list[Any]], seeds: int | None
) -> tuple[SearchSpace, dict[str, list[Any]]]:
    """Return a space as a search draws from it, and what ``--set`` fixes in it."""
    try:
        space = drawing.for_search(name, space, changes, seeds)
    except ValidationError as error:
        raise RequestError(f"--set {_first(error)}") from error
    except ValueError as error:
        raise RequestError(str(error)) from error
    return space, {k: v for k, v in changes.items() if k not in space.dimensions}


def _refuse_unused(key: str, values: Sequence[Any], configs: Sequence[TrialConfig]) -> None:
    """Refuse a change that no trial took up, such as rays without a StarDist trial."""
    if key == "weight_decay" and all(config.architecture == STARDIST for config in configs):
        raise RequestError(f"--set {key}: {STARDIST} trains without it")
    if key in ("gap", "boundary", "rays", "grid", "loss", "encoder", "encoder_weights"):
        taken = {str(getattr(config, key)) for config in configs}
        if not taken & {str(value) for value in values}:
            raise RequestError(f"--set {key}: no trial of this space uses it")


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
        return f"its data are other data ({recorded['data']['path']}), or they have changed"
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
    listed = ", ".join(f"{k} {_short(was)} -> {_short(now)}" for k, (was, now) in changed.items())
    return f"its trials are others ({listed})"


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
