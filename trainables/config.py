"""What defines one trial, as validated, immutable values. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from trainables import extensions
from trainables.tasks import DEFAULT_TASK, TASKS, StarConvex, settings_of_others

Boundary = Literal["outline", "touching"]
Augmentation = Literal["none", "light", "medium", "strong"]

ARCHITECTURES: tuple[str, ...] = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
)
"""The paper's eight architectures, in the order of its Table 1."""

PAPER_ENCODERS: tuple[str, ...] = (
    "inceptionresnetv2",
    "resnest269",
    "resnet152",
    "resnext101_32x32d",
    "vgg19",
)
"""The paper's five encoders."""

LOSSES: tuple[str, ...] = (
    "dice",
    "jaccard",
    "focal",
    "tversky",
    "lovasz",
    "cross_entropy",
    "dice_cross_entropy",
)
"""Losses of tasks ``semantic2`` and ``semantic3``; a further one is a name here, and what builds it
under that name in `trainables.losses.LOSSES`."""

SMALLEST_CROP = {"PAN": 128}
"""Sides, in pixels, below which an architecture cannot work (PAN pools its 1/16 maps thrice)."""

STARDIST = "StarDist"
"""Architecture name of stardist's own model, which has no encoder to choose."""

NO_ENCODER = "none"
"""Encoder of networks that have none to choose."""

RECIPE = 2
"""Version of the training procedure behind a configuration; part of every trial_id.

1: every epoch had the crops, order and augmentation of the first; 2-class targets had a gap between
touching cells; ``medium`` and ``strong`` changed cells' shapes; overlap losses learnt nothing from
crops without cells; star-convex heads learnt at every pixel; frames were always predicted as a
whole. 2: as documented here.
"""

_DIGITS = BeforeValidator(lambda v: int(v) if isinstance(v, str) and v.isdecimal() else v)
"""``--set gap=1`` is text; pydantic reads numbers from text, but not choices of numbers."""

_ALIASES = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in (*ARCHITECTURES, STARDIST)}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower().replace("+", "plus"))


def architecture_name(name: str) -> str:
    """Return the canonical spelling of an architecture.

    Parameters
    ----------
    name : str
        Any spelling: case and punctuation do not matter, ``+`` reads as "Plus". Or
        ``module:function``, a builder of one's own.

    Returns
    -------
    str
        One of `ARCHITECTURES`, `STARDIST`, a name that an installed package registers
        (`trainables.extensions`), or ``module:function`` as it is.

    Raises
    ------
    ValueError
        When the name is not known. Whether ``module:function`` is there is not looked at: a
        recorded run can be read without it.

    Examples
    --------
    >>> architecture_name("U-Net++")
    'UnetPlusPlus'
    """
    if extensions.is_own(str(name)):
        return extensions.own_name(name)
    key = _key(name)
    if key in _ALIASES:
        return _ALIASES[key]
    others = extensions.registered(extensions.ARCHITECTURES)
    for other in others:
        if _key(other) == key:
            return other
    known = ", ".join((*ARCHITECTURES, STARDIST, *others))
    raise ValueError(f"unknown architecture {name!r}; known: {known}, and module:function")


def loss_name(name: str) -> str:
    """Return the name of a loss as it is.

    Raises
    ------
    ValueError
        When it is none of `LOSSES`, a task's own, a name that an installed package registers, or
        ``module:function``.
    """
    if name in (*LOSSES, *(task.own_loss for task in TASKS.values())):
        return name
    if extensions.is_own(name):
        return extensions.own_name(name)
    others = extensions.registered(extensions.LOSSES)
    if name not in others:
        known = ", ".join((*LOSSES, *others))
        raise ValueError(f"unknown loss {name!r}; known: {known}, and module:function")
    return name


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class Normalization(_Frozen):
    """Intensity scaling, the same in training and in prediction.

    ``x = clip((image - p_low) / (p_high - p_low), -0.5, 1.5)`` with intensity percentiles of the
    image itself, or of all training images together. With an image's own percentiles, exposure and
    camera offset cancel, and a few hot pixels do not set the scale. The network then sees
    ``(x - mean) / std``.

    A single word is taken as the mode: ``Normalization.model_validate("dataset")``.
    """

    mode: Literal["image", "dataset"] = "image"
    """``image``: each image's own percentiles; ``dataset``: those of all training images together
    (stored in the checkpoint), for images with one exposure but different contents, such as
    cut-outs."""
    low: Annotated[float, Field(ge=0, lt=50)] = 1.0
    """Percentile that becomes 0."""
    high: Annotated[float, Field(gt=50, le=100)] = 99.8
    """Percentile that becomes 1."""
    mean: float | None = None
    """None: that of the encoder weights (grey average), or 0.5 without weights."""
    std: Annotated[float, Field(gt=0)] | None = None
    """None: that of the encoder weights (grey average), or 0.25 without weights."""

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, values: Any) -> Any:
        return {"mode": values} if isinstance(values, str) else values


def with_changes(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> TrialConfig:
    """Make a configuration from the fields of another one and changes to them.

    Changing only the mode of normalisation keeps the percentiles.
    """
    changed = {**fields, **changes}
    mode, before = changes.get("normalization"), fields.get("normalization")
    if isinstance(mode, str) and before is not None:
        changed["normalization"] = {**before, "mode": mode}
    return TrialConfig.model_validate(changed)


class TrialConfig(_Frozen):
    """Everything that determines the outcome of one trial, given its data set.

    Two trials with equal configurations on equal data are the same trial; how fast or where
    it runs (`RunOptions`) is not part of it.
    """

    task: str = DEFAULT_TASK
    """Which labels are learnt, of `trainables.tasks.TASKS`: foreground, three classes, or
    star-convex polygons, or what a further task teaches."""
    architecture: str = "Unet"
    """One of `ARCHITECTURES` (case and punctuation ignored), or `STARDIST`; or another's, as
    `architecture_name` takes it."""
    encoder: str = "resnet18"
    """Any encoder name of segmentation-models-pytorch, or one of `PAPER_ENCODERS`; ``none`` for
    networks of one's own that have no encoder to choose."""
    encoder_weights: str = "none"
    """``none``, ``pretrained`` (ImageNet-1k alone), the name of other published weights, or the
    absolute path of a weights file or folder (`trainables.encoders.sources.resolve`)."""
    weights_id: str = ""
    """Which bytes `encoder_weights` means (`WeightsInfo.identity`); a sweep sets it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds initial weights, order of crops, augmentation and dropout."""
    fold: Annotated[int, Field(ge=1)] | None = None
    """Which fold of the data set is for validation, counted from 1; None: no folds
    (`trainables.data.folds`)."""
    crop_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 224
    """Side of the square training crops, in pixels."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training crops."""
    batch_size: Annotated[int, Field(ge=2)] = 8
    """Crops per optimiser step; at least 2, as some networks normalise 1x1 maps."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Weight decay of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """``cosine`` decays to 1 % of the peak over the trial, after a warm-up of 5 % of it."""
    loss: Annotated[str, AfterValidator(loss_name)] = "dice"
    """Training loss, as `loss_name` takes it; Dice is the paper's. Always ``stardist`` for task
    ``stardist``."""
    gap: Annotated[Literal[0, 1], _DIGITS] = 0
    """Task ``semantic2``: 1 makes a line between touching cells, one pixel wide, background in the
    target, so that cells stay apart; a perfect network then misses these pixels."""
    boundary: Boundary = "outline"
    """Task ``semantic3``: every cell outlined, as in the paper, or only where cells touch."""
    rays: Annotated[int, Field(ge=8, le=256)] = 32
    """Task ``stardist``: number of radial distances of a star-convex polygon."""
    grid: Annotated[Literal[1, 2, 4], _DIGITS] = 2
    """Task ``stardist``: distance in pixels, in both directions, between possible centres of
    polygons (stardist's examples and published models take 2)."""
    augmentation: Augmentation = "light"
    """Named strength of the training transforms (`trainables.data.augmentation`)."""
    validate_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations; the last epoch is always validated."""
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better val_dataset_iou; None: never."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """``auto`` is bfloat16 autocast if the hardware computes in it, or else float32."""
    normalization: Normalization = Normalization()
    """Intensity scaling, applied identically in training and prediction."""

    @field_validator("architecture", mode="before")
    @classmethod
    def _canonical_architecture(cls, value: str) -> str:
        return architecture_name(value)

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in TASKS:
            names = [repr(name) for name in TASKS]
            expected = f"{', '.join(names[:-1])} or {names[-1]}"
            raise PydanticCustomError("task", "Input should be {expected}", {"expected": expected})
        return value

    @model_validator(mode="before")
    @classmethod
    def _only_what_counts(cls, values: Any) -> Any:
        """Reset what the task does not use, so that equal trials have equal names."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        task = values.get("task", DEFAULT_TASK)
        if task in TASKS:
            for name in settings_of_others(task):
                values.pop(name, None)
            if TASKS[task].own_loss is not None:
                values["loss"] = TASKS[task].own_loss
        if task == StarConvex.name and _key(values.get("architecture", "")) == _key(STARDIST):
            # it is trained by Adam, without weight decay; TensorFlow computes in float32
            values.update(encoder="none", encoder_weights="none", weight_decay=0.0, precision="32")
        if values.get("encoder") == NO_ENCODER:
            values["encoder_weights"] = "none"
        if values.get("encoder_weights", "none") == "none":
            values.pop("weights_id", None)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> TrialConfig:
        for name, task in TASKS.items():
            if self.loss == task.own_loss and self.task != name:
                raise ValueError(f"loss {self.loss!r} needs task {name!r}, not {self.task!r}")
        needed = StarConvex.name
        if self.architecture == STARDIST and self.task != needed:
            raise ValueError(f"architecture {STARDIST} needs task {needed!r}, not {self.task!r}")
        smallest = SMALLEST_CROP.get(self.architecture, 0)
        if self.crop_size < smallest:
            raise ValueError(
                f"{self.architecture} needs crop_size of at least {smallest}, not {self.crop_size}"
            )
        return self

    @property
    def candidate(self) -> str:
        """Name of the candidate: task, architecture and encoder, whatever the seed and the fold."""
        return f"{self.task}/{self.architecture}/{self.encoder}"

    def trial_id(self, fingerprint: str) -> str:
        """Name of this trial on data with the given fingerprint.

        Parameters
        ----------
        fingerprint : str
            `trainables.data.DataSet.fingerprint`.

        Returns
        -------
        str
            Readable prefix and a 10-digit hash of configuration and data; a valid file name
            and W&B run id that stays the same over retries and resumes.
        """
        fields = {**self.model_dump(mode="json"), "recipe": RECIPE}
        part = "" if self.fold is None else f"-f{self.fold}"
        if self.fold is None:  # so that trials without folds keep the names of earlier versions
            del fields["fold"]
        return f"{self._prefix()}-s{self.seed}{part}-{_digest(fields, fingerprint)}"

    def candidate_key(self) -> str:
        """Name of this trial's candidate: equal for trials that differ only in seed and fold.

        Returns
        -------
        str
            Readable prefix and a 10-digit hash of all fields but these two. Neither the data nor
            the outcomes of a trial (how it predicts, micro-batches) are part of it.

        Examples
        --------
        >>> one = TrialConfig(seed=1)
        >>> one.candidate_key() == TrialConfig(seed=2).candidate_key()
        True
        >>> one.candidate_key() == TrialConfig(seed=1, gap=1).candidate_key()
        False
        """
        fields = {**self.model_dump(mode="json", exclude={"seed", "fold"}), "recipe": RECIPE}
        return f"{self._prefix()}-{_digest(fields)}"

    def _prefix(self) -> str:
        words = (self.architecture, self.encoder)
        architecture, encoder = (re.sub(r"[^A-Za-z0-9_]+", "_", word) for word in words)
        return f"{self.task}-{architecture}-{encoder}"


def _digest(fields: Mapping[str, Any], more: str = "") -> str:
    text = json.dumps(fields, sort_keys=True) + more
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def recorded_config(values: Mapping[str, Any]) -> TrialConfig:
    """Read a configuration from a checkpoint or a run folder, even of an earlier version.

    Parameters
    ----------
    values : mapping
        Result of `TrialConfig.model_dump`.

    Returns
    -------
    TrialConfig
        Recipe 1 did not record ``gap``: its 2-class targets always had one (`Task.recipe1`).

    Raises
    ------
    pydantic.ValidationError
        When a field is not known, or does not fit.
    """
    values = dict(values)
    task = TASKS.get(values.get("task", ""))
    if task is not None:
        values = {**task.recipe1, **values}
    return TrialConfig.model_validate(values)


class RunOptions(_Frozen):
    """How a trial runs, without influence on its result (beyond rounding)."""

    threads: Annotated[int, Field(ge=1)] = 1
    """Threads for computing, pinned: one per core that the trial was given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes the visible GPU, or else the CPU; a sweep's trials get ``cuda`` if they have a
    share of a GPU, or else ``cpu``."""
    weights_cache: str | None = None
    """Folder for downloaded encoder weights; None: segsweep's in the user's cache folder."""
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """Crops per forward pass; gradients are summed over a batch. None: the whole batch. (It changes
    results a little, so it is recorded with them.)"""
    gpu_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the GPU's memory that the trial may use, including its CUDA context; None: all."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory that the process may use for the trial on a CPU; None: no limit."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Least seconds between two saved states, which are written at the end of an epoch; always at
    least 20 times what the last save took. 0: one after every epoch, however long that takes."""
    keep_last_state: bool = False
    """Keep the state after the last epoch, from which a trial with more epochs continues
    (`trainables.records.lasting`). Not for stardist's own model."""
    continues: str | None = None
    """Folder of a finished trial with fewer epochs, whose last state this one starts from."""
    stop_file: str | None = None
    """While this file exists, training saves its state and stops, at the end of its epoch or at its
    next step (`trainables.records.stops`)."""
    attempt: str | None = None
    """Token of the attempt that the caller began (`trainables.records.attempts.Attempt`); None:
    training begins one."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch; `val_*` are None if the epoch was not validated."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_loss: float | None
    val_dataset_iou: float | None
    val_image_iou: float | None
    seconds: float
    """Wall-clock time of training and validation."""
    val_background_iou: float | None = None
    """Data-set IoU of each class of task ``semantic3``."""
    val_cell_iou: float | None = None
    val_boundary_iou: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class ImageCounts:
    """Foreground pixels that prediction and truth share, and those that at least one has."""

    split: str
    image: str
    group: str
    intersection: int
    union: int


@dataclass(frozen=True)
class TrialResult:
    """Results of a completed trial, from its best checkpoint."""

    best_epoch: int
    epochs: int
    val_dataset_iou: float
    val_image_iou: float
    test_dataset_iou: float
    test_image_iou: float
    parameters_m: float
    """Parameters in millions."""
    train_seconds: float
    """Sum of the epochs' seconds, over all attempts."""
    peak_memory_mb: float
    """Largest GPU memory, or on CPUs resident memory of the process."""
    checkpoint: str
    """Folder that `trainables.checkpoint.load` reads."""
    history: tuple[EpochRecord, ...]
    class_iou: dict[str, dict[str, float]] | None = None
    """Of task ``semantic3``: data-set IoU by split and class."""
    micro_batch: int | None = None
    """Crops per forward pass if memory did not suffice for a whole batch: batch normalisation and
    losses over the batch used only this many."""
    inference: str = "whole"
    """How images are predicted: ``whole``, or ``tiles of N`` pixels; chosen on validation."""
    ceiling_iou: float = 1.0
    """Data-set IoU of the foreground, on validation, that perfect outputs would reach: below 1
    for targets with a gap and for star-convex polygons."""
    per_image: tuple[ImageCounts, ...] = ()
    """For the validation and test images."""
