"""Checkpoints: a folder with weights and JSON; reading it executes nothing.

``checkpoint.json`` is written last; a folder without it is not a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from trainables.config import RECIPE, STARDIST, TrialConfig, recorded_config
from trainables.errors import CheckpointError
from trainables.extensions import check_registered
from trainables.predict import Predictor, Scaling
from trainables.records.files import fetched, json_text, write_with
from trainables.records.manifest import (
    FORMAT,
    MANIFEST,
    first_line,
    input_record,
    library_versions,
    read_intensities,
    read_manifest,
    sha256_of,
)
from trainables.stardist.client import StarDistPredictor, load_stardist
from trainables.tasks import build_task
from trainables.tiling import WHOLE, Inference, stored_inference

if TYPE_CHECKING:
    from trainables.architectures import Builder

__all__ = ["load"]

WEIGHTS = "weights.pt"


# Ten parameters: one for each part of a checkpoint, most of which come from different places.
def save(
    folder: Path,
    state: dict[str, torch.Tensor],
    config: TrialConfig,
    scaling: Scaling,
    *,
    data: dict[str, Any],
    metrics: dict[str, Any],
    encoder_weights: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    inference: Inference = WHOLE,
    check: Callable[[], None] | None = None,
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    folder : Path
        Made when absent.
    state : dict
        The network's state dict.
    config : TrialConfig
    scaling : Scaling
    data : dict
        What the network was trained on: at least the fingerprint. `image_shape`, that of the
        largest training image, shows later whether new images are much larger.
    metrics : dict
        Scores of the network, for information only.
    encoder_weights : dict, optional
        Which weights the encoder started from (`trainables.encoders.weights.WeightsInfo.record`):
        name, source, revision, SHA-256, training data and licence.
    task : dict, optional
        What decoding needs, from `trainables.tasks.Task.state`.
    inference : Inference
        How the network predicts images.
    check : callable, optional
        Called before each file is put in place; if it raises, the file is not.
    """
    write_with(folder / WEIGHTS, lambda path: torch.save(state, path), check)
    manifest = {
        "format": FORMAT,
        "recipe": RECIPE,
        "config": config.model_dump(mode="json"),
        "input": input_record(scaling.mean, scaling.std, scaling.intensities),
        "inference": inference.state(),
        "data": data,
        "metrics": metrics,
        "encoder_weights": encoder_weights,
        "task": task or {},
        "versions": library_versions(),
        "weights": {"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)},
    }
    write_with(folder / MANIFEST, lambda p: p.write_text(json_text(manifest), "utf-8"), check)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors, and nothing else, from a file.

    Raises
    ------
    CheckpointError
        When the file contains anything else, or is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever the file makes it raise
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise CheckpointError(f"{path} cannot be read: it may contain only named tensors")
    return state


def _checked_weights(folder: Path, manifest: Mapping[str, Any]) -> Path:
    weights = folder / str(manifest["weights"]["file"])
    if weights.parent == folder:
        fetched(weights)
    if weights.parent != folder or not weights.is_file():
        raise CheckpointError(f"{folder}: weights file {weights.name} is missing")
    if sha256_of(weights) != manifest["weights"]["sha256"]:
        raise CheckpointError(f"{weights} is damaged: its SHA-256 differs from the recorded one")
    return weights


def _recorded_config(folder: Path, manifest: Mapping[str, Any]) -> TrialConfig:
    try:
        return recorded_config(manifest["config"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{folder / MANIFEST}: config.{where}: {first['msg']}") from error


def load(path: Path | str, *, builder: Builder | None = None) -> Predictor | StarDistPredictor:
    """Load a checkpoint; nothing in it is ever executed, and no module that it names is imported.

    Parameters
    ----------
    path : path
        A folder ``checkpoints/<trial_id>``, or its ``checkpoint.json``.
    builder : callable, optional
        Builds the network of a trial whose architecture was ``module:function``: that function, or
        one that gives an equal network. Called as
        ``builder(encoder, in_channels=1, classes=C, encoder_weights=None)``.

    Returns
    -------
    Predictor or StarDistPredictor
        On the CPU; ``predictor.to("cuda")`` moves it.

    Raises
    ------
    CheckpointError
        When it is not a checkpoint, is damaged, has another format, or needs a `builder`.
    """
    from trainables.architectures import build_model, build_own

    folder = Path(path)
    folder = folder.parent if folder.name == MANIFEST else folder
    manifest = read_manifest(folder)
    weights = _checked_weights(folder, manifest)
    config = _recorded_config(folder, manifest)
    try:
        task = build_task(config, manifest.get("task"))
        stored_inference(manifest)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} is damaged: task or inference: {error}"
        ) from error
    if config.architecture == STARDIST:
        return load_stardist(config, weights, manifest)
    name, encoder = config.architecture, config.encoder
    if builder is None:
        check_registered(name, folder)
        network = build_model(name, encoder, in_channels=1, classes=task.channels)
    else:
        network = build_own(builder, name, encoder, in_channels=1, classes=task.channels)
    try:
        network.load_state_dict(load_weights(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{weights} does not fit {config.candidate}: {reason}") from error
    scaling = Scaling(
        float(manifest["input"]["mean"]),
        float(manifest["input"]["std"]),
        read_intensities(manifest, config, folder / MANIFEST),
    )
    network.to(memory_format=torch.channels_last)
    return Predictor(config, network, scaling, task, manifest)
