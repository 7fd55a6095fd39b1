"""What the command line asks for: a search space, and what ``--set``, ``--seeds`` and ``--only``
change in it.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import search_spaces
from search_spaces import SearchSpace, override
from sweep.search import dimensions as drawing
from trainables.config import STARDIST, TrialConfig, architecture_name
from trainables.data.splits import DataOptions, some
from trainables.encoders.licences import TRAINING_DATA
from trainables.encoders.sources import WeightsInfo, is_path
from trainables.extensions import look_in

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


class SweepSettings(BaseModel):
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
class Request:
    """What the command line asks for, before data and folder are looked at."""

    space_name: str
    space: SearchSpace
    configs: tuple[TrialConfig, ...]
    settings: SweepSettings
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
    if name.endswith(".py"):
        look_in(path.parent)  # modules of the user's own lie beside the space
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


def _sorted_changes(
    changes: Sequence[str],
) -> tuple[dict[str, list[Any]], dict[str, Any], dict[str, Any]]:
    """Return the values of ``--set`` for trials, for the sweep and for the data."""
    trials: dict[str, list[Any]] = {}
    settings: dict[str, Any] = {}
    data_options: dict[str, Any] = {}
    for text in changes:
        key, value = _split_key(text)
        if key in TrialConfig.model_fields:
            if key == "weights_id":
                raise RequestError("--set weights_id: it follows from encoder_weights")
            trials[key] = [_field_value(key, v.strip()) for v in value.split(",")]
            if key == "encoder_weights":
                trials[key] = [weights_value(str(v)) for v in trials[key]]
        elif key in SweepSettings.model_fields:
            settings[key] = _value(value)
        elif key in DataOptions.model_fields:
            data_options[key] = _value(value)
        else:
            raise RequestError(_no_such_setting(key))
    return trials, settings, data_options


def _no_such_setting(key: str) -> str:
    known = [*TrialConfig.model_fields, *SweepSettings.model_fields, *DataOptions.model_fields]
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
    return f"--set {key}: no such setting{hint}"


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
        grid, or are a choice for a search), of `SweepSettings` or of `DataOptions`.
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
    try:
        SweepSettings.model_validate(space.settings)
    except ValidationError as error:
        raise RequestError(f"search space {space_name}: settings: {_first(error)}") from error
    trial_changes, changed, data_options = _sorted_changes(changes)
    settings = {**space.settings, **changed}
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
            SweepSettings.model_validate(settings),
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


FIELDS = tuple(name for name in TrialConfig.model_fields if name != "weights_id")
"""Settings that trials can be chosen by."""
SHOWN = 12
"""Values that a message lists at most."""


def only(request: Request, filters: Sequence[str]) -> Request:
    """Keep the trials of a request that have given values.

    Parameters
    ----------
    request : Request
    filters : sequence of str
        ``key=value[,value]``: fields of `TrialConfig`. A trial has one of the values of every key.

    Returns
    -------
    Request
        With the filters in `Request.only` and the other trials in `Request.left_out`.

    Raises
    ------
    RequestError
        When a filter names no setting, a value that no trial has (those that exist are named), or
        when no trial has all of them.
    """
    if not filters:
        return request
    if request.settings.search != "grid":
        raise RequestError(
            f"--only: search={request.settings.search} draws its trials, so that there is no list "
            "to choose from; --set key=value,value says what it draws from"
        )
    wanted: dict[str, set[str]] = {}
    for text in filters:
        key, values = _read(text)
        known = dict.fromkeys(_text(config, key) for config in request.configs)
        for value in values:
            found = {name for name in known if _equal(_meant(key, value), name)}
            if not found:
                raise RequestError(
                    f"--only {key}={value}: no trial of this space has it; there are "
                    f"{some(list(known), SHOWN)}"
                )
            wanted[key] = wanted.get(key, set()) | found
    chosen = tuple(config for config in request.configs if _passes(config, wanted))
    if not chosen:
        raise RequestError(f"--only {' '.join(filters)}: {_why_none(request, wanted)}")
    rest = tuple(config for config in request.configs if config not in set(chosen))
    return replace(request, configs=chosen, only=tuple(filters), left_out=rest)


def _read(text: str) -> tuple[str, list[str]]:
    key, equals, value = (part.strip() for part in text.partition("="))
    values = [one.strip() for one in value.split(",") if one.strip()]
    if not equals or not key or not values:
        space = "" if equals else "; SPACE comes before --only"
        raise RequestError(
            f"--only {text!r}: write key=value, such as architecture=Unet,FPN{space}"
        )
    if key not in FIELDS:
        close = difflib.get_close_matches(key, FIELDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(FIELDS)}"
        raise RequestError(f"--only {key}: trials have no such setting{hint}")
    return key, values


def _text(config: TrialConfig, key: str) -> str:
    value: Any = getattr(config, key)
    return str(value.mode if key == "normalization" else value).removesuffix(".0")


def _meant(key: str, value: str) -> str:
    """Return how a configuration spells a value."""
    if key == "architecture":
        with suppress(ValueError):  # an unknown name is no trial's
            return architecture_name(value)
    if key == "encoder_weights":
        return weights_value(value)
    return "None" if value.lower() == "null" else value


def _equal(value: str, name: str) -> bool:
    if value.lower() == name.lower():
        return True
    try:
        return float(value) == float(name)
    except ValueError:
        return False


def _passes(config: TrialConfig, wanted: Mapping[str, set[str]]) -> bool:
    return all(_text(config, key) in values for key, values in wanted.items())


def _why_none(request: Request, wanted: dict[str, set[str]]) -> str:
    """Name the values that go with all conditions but one."""
    for key in reversed(wanted):
        others = {name: values for name, values in wanted.items() if name != key}
        left = dict.fromkeys(_text(c, key) for c in request.configs if _passes(c, others))
        if left:
            return f"no trial has all of these; with the others, {key} is {some(list(left), SHOWN)}"
    return "no trial has all of these"
