"""The request on the command line: a search space, and what ``--set`` and ``--seeds`` change in it.

Which of its trials ``--only`` selects is decided in `sweep.selection`.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import search_spaces
from search_spaces import SearchSpace, override
from sweep.search import dimensions as drawing
from trainables.config import STARDIST, TrialConfig
from trainables.data.splits import DataOptions
from trainables.encoders.licences import TRAINING_DATA
from trainables.encoders.names import check_encoder
from trainables.encoders.sources import WeightsInfo, is_path
from trainables.extensions import look_in
from trainables.tasks import TASKS

Pair = tuple[str, str]
"""An encoder and the value of ``encoder_weights`` that it starts from."""


class RequestError(ValueError):
    """A request that cannot be carried out; the user sees the message, which is one line."""


def _takes_wandb(project: str) -> str:
    """Refuse a project name that W&B does not accept, as all trials would then not be reported."""
    strange = "".join(sorted({character for character in project if character in "/\\#?%:"}))
    if strange:
        raise ValueError(f"a W&B project name cannot contain {strange}")
    return project


def _a_share(gpus: float) -> float:
    """Refuse shares that Ray does not support: parts of several GPUs, and shares below 0.001."""
    if 0 < gpus < 0.001 or (gpus > 1 and not gpus.is_integer()):
        raise ValueError(f"{gpus:g} GPUs are not possible: give 0, 0.001 to 1, or a whole number")
    return gpus


class SweepSettings(BaseModel):
    """Settings of a sweep, in addition to its trials; ``--set`` can change every field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scheduler: Literal["fifo", "asha"] = "fifo"
    """``asha`` stops trials early if they fall behind."""
    search: Literal["grid", "optuna"] = "grid"
    """``optuna`` draws trials from the space's dimensions. ``--set`` with one value fixes a
    dimension; with several values (separated by commas) it gives the values to draw from."""
    samples: Annotated[int, Field(ge=1)] = 20
    """Number of different trials that ``search=optuna`` draws, if so many exist."""
    grace_epochs: Annotated[int, Field(ge=1)] = 5
    """Number of epochs that every trial gets with ``scheduler=asha``."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Largest number of trials at once; None means as many as the resources allow."""
    cpus_per_trial: Annotated[float, Field(ge=0.001)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0), AfterValidator(_a_share)] | None = None
    """A fraction lets trials share a GPU; None means a whole GPU if there are any."""
    stardist_cpus: Annotated[float, Field(gt=0)] | None = None
    """Cores for a trial of StarDist's own model if others train on GPUs; None means up to four."""
    stardist_gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a GPU for a trial of StarDist's own model. 0 means that it trains on CPUs, since the
    GPU packages of TensorFlow and torch cannot be installed together; more than 0 works only if
    TensorFlow finds a GPU on the nodes."""
    memory_per_trial: Annotated[float, Field(gt=0)] | None = None
    """GB that a trial on CPUs may use, reserved and enforced; doubled for a trial that runs out of
    memory. None means that the estimated need is reserved, and nothing is enforced."""
    most_memory_per_trial: Annotated[float, Field(gt=0)] | None = None
    """Limit in GB for this doubling; None means the memory of a node."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often in a row a trial may lose its worker or node without a new epoch in between."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Shortest time between two saved states of a trial (and never less than an epoch, or twenty
    times as long as the last save took); 0 saves after every epoch, however long it takes."""
    hang_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """Time without a new epoch after which a trial hangs (and at least 30 of its slowest epochs; a
    day before its first one): its worker is ended, and it is tried again; 0: never."""
    keep_last_state: bool = False
    """Keep the state of each finished trial after its last epoch (four times the size of its
    checkpoint). The same trial with more epochs continues from it if ``lr_schedule=constant``."""
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
    """The request on the command line, before data and folder have been checked."""

    space_name: str
    space: SearchSpace
    configs: tuple[TrialConfig, ...]
    settings: SweepSettings
    data_options: DataOptions
    weights: Mapping[Pair, WeightsInfo | str] = field(default_factory=dict)
    """Information on the encoder weights; only their identity if a run has recorded it."""
    only: tuple[str, ...] = ()
    """Values of ``--only``."""
    left_out: tuple[TrialConfig, ...] = ()
    """Trials of the space that ``--only`` left out; those in the run folder stay there."""


def load_space(name: str) -> tuple[str, SearchSpace]:
    """Load a search space by the name of its file in ``search_spaces/``, or by path.

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
        hint = f"; choose {', '.join(builtin)}, or give the path of your own .py file"
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
        raise RequestError(f"search space {path} has no trials; add some to SPACE")
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
    """Return the value of a trial's setting; if it is a choice of numbers (gap, grid), a number."""
    few = get_args(TrialConfig.model_fields[key].annotation)
    return next((n for n in few if isinstance(n, int) and str(n) == text), _value(text))


def weights_value(text: str) -> str:
    """Return a name unchanged, and a path as an absolute one: trials run in other folders."""
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
                raise RequestError("--set weights_id: cannot be set; set encoder_weights instead")
            if key == "fold":
                raise RequestError(
                    "--set fold: cannot be set; --set folds=5 makes the folds, and --only fold=2 "
                    "runs one of them"
                )
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
    space_name: str,
    space: SearchSpace,
    changes: Sequence[str],
    seeds: int | None,
    is_left_out: Callable[[Mapping[str, Any]], bool] = lambda values: False,
) -> Request:
    """Apply ``--set`` and ``--seeds`` to a space.

    Parameters
    ----------
    space_name, space
        The result of `load_space`.
    changes : sequence of str
        ``key=value`` with a field of `TrialConfig` (several values, separated by commas, make a
        grid, or are drawn from in a search), of `SweepSettings` or of `DataOptions`.
    seeds : int or None
        Repeat the grid with seeds 0, 1, ...; refused for a search.
    is_left_out : callable
        Takes the values of a trial that is not valid; where it returns True, the request has no
        such trial and is not refused (`sweep.selection.is_left_out`).

    Returns
    -------
    Request
        A search draws from the dimensions of its space; a grid has none.

    Raises
    ------
    RequestError
        When a key is unknown or a value is not valid; the message names both.

    Notes
    -----
    ``normalization=dataset`` scales intensities by the percentiles of the whole data set; other
    percentiles can be set in a search space file.
    """
    try:
        SweepSettings.model_validate(space.settings)
    except ValidationError as error:
        raise RequestError(f"search space {space_name}: settings: {_first(error)}") from error
    trial_changes, changed, data_options = _sorted_changes(changes)
    settings = {**space.settings, **changed}
    if any(config.fold is not None for config in space.trials):
        raise RequestError(
            f"search space {space_name}: a space does not say which fold its trials belong to; "
            "remove fold, and use --set folds=5"
        )
    if seeds is not None and seeds < 1:
        raise RequestError(f"--seeds {seeds}: must be at least 1")
    if settings.get("search") == "optuna":
        space, trial_changes = _searched(space_name, space, trial_changes, seeds)
    else:
        space = space.model_copy(update={"dimensions": {}})
        if seeds is not None and "seed" in trial_changes:
            raise RequestError(f"--seeds {seeds} and --set seed: give only one of them")
        if seeds is not None:
            trial_changes["seed"] = list(range(seeds))
    try:
        division = DataOptions.model_validate(data_options)
        if division.folds is not None:
            trial_changes["fold"] = _folds(division.folds, settings)
        configs = override(space.trials, trial_changes, is_left_out)
        for key, values in trial_changes.items():
            _refuse_unused(key, values, configs)
        return Request(
            space_name,
            space,
            configs,
            SweepSettings.model_validate(settings),
            division,
        )
    except ValidationError as error:
        raise RequestError(f"--set {_first(error)}") from error


def _folds(folds: int, settings: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the folds; refuse what compares trials of different folds."""
    for name, plain, why in (
        ("search", "grid", "which trains each draw once"),
        ("scheduler", "fifo", "which compares trials, and validation images of folds differ"),
    ):
        value = settings.get(name, plain)
        if value != plain:
            raise RequestError(
                f"--set folds={folds}: does not work with {name}={value}, {why}; use {name}={plain}"
            )
    return list(range(1, folds + 1))


def _searched(
    name: str, space: SearchSpace, changes: dict[str, list[Any]], seeds: int | None
) -> tuple[SearchSpace, dict[str, list[Any]]]:
    """Return the space that a search draws from, and the settings that ``--set`` fixes in it."""
    try:
        space = drawing.for_search(name, space, changes, seeds)
    except ValidationError as error:
        raise RequestError(f"--set {_first(error)}") from error
    except ValueError as error:
        raise RequestError(str(error)) from error
    return space, {k: v for k, v in changes.items() if k not in space.dimensions}


def _refuse_unused(key: str, values: Sequence[Any], configs: Sequence[TrialConfig]) -> None:
    """Refuse a change that affects no trial, such as rays without a StarDist trial."""
    if key == "weight_decay" and all(config.architecture == STARDIST for config in configs):
        raise RequestError(f"--set {key}: {STARDIST} does not use it; remove it")
    of_tasks = {name for task in TASKS.values() for name in task.settings}
    if key in {*of_tasks, "loss", "encoder", "encoder_weights"}:
        taken = {str(getattr(config, key)) for config in configs}
        if not taken & {str(value) for value in values}:
            raise RequestError(f"--set {key}: no trial of this space uses it; remove it")


def check_encoders(request: Request) -> None:
    """Raise a RequestError for an encoder that does not exist."""
    drawn = request.space.dimensions.get("encoder", ())
    for name in dict.fromkeys([*(config.encoder for config in request.configs), *drawn]):
        try:
            if name != "none":  # of StarDist's own model
                check_encoder(name)
        except ValueError as error:
            raise RequestError(str(error)) from error
