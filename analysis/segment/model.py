"""A trained network as a function: ``segment(array) -> label image``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluation.calibration import CALIBRATION, read_calibration
from analysis.evaluation.prediction import MapPredictor, predict_maps
from analysis.instances.methods import (
    GIVEN_BACK,
    WAYS,
    default_parameters,
    make_instances,
)
from analysis.runfolder import AnalysisError, candidates, read_run
from analysis.segment.sizes import trained_shape
from trainables.config import TrialConfig, recorded_config
from trainables.data.normalization import normalize
from trainables.errors import CheckpointError
from trainables.extensions import check_registered
from trainables.records.files import fetched
from trainables.records.manifest import (
    MANIFEST,
    first_line,
    read_intensities,
    read_manifest,
    sha256_of,
)
from trainables.records.objects import address_of
from trainables.tiling import Inference, stored_inference


@dataclass(frozen=True)
class Choice:
    """A checkpoint, and how its maps are turned into instances."""

    checkpoint: Path
    parameters: dict[str, float]
    calibrated: bool
    give_back_gap: bool
    pixel_size_um: float | None
    """Pixel size of the images it was trained on."""
    why: str
    weights: str
    """SHA-256 of the weights file."""
    config: TrialConfig
    inference: Inference
    """How the network predicts images."""
    image_shape: tuple[int, int] | None = None
    """(H, W) of the largest training image; None if an older checkpoint does not record it."""
    appearance: dict[str, Any] | None = None
    """Appearance of the training images; None if an older checkpoint does not record it."""


def choose_model(model: Path) -> Choice:
    """Find the checkpoint to use.

    Parameters
    ----------
    model : Path
        A checkpoint's folder or its ``checkpoint.json``; or the folder of a sweep, to take its
        report's first method or, without a report, the best trial by validation IoU.

    Returns
    -------
    Choice

    Raises
    ------
    AnalysisError, trainables.errors.CheckpointError
        When there is no checkpoint.
    """
    folder = model.parent if model.name == MANIFEST else model
    if fetched(folder / MANIFEST).is_file():
        return _choice(folder.absolute(), None, f"checkpoint {folder.name}")
    if not fetched(folder / "plan.json").is_file():
        raise AnalysisError(
            f"{address_of(model)} is neither a checkpoint (it has no {MANIFEST}) nor the folder of "
            "a sweep (it has no plan.json); give a folder such as runs/demo"
        )
    run = read_run(folder.absolute())
    table = fetched(folder / "report" / "methods.csv")
    if table.is_file():
        try:
            methods = pd.read_csv(table)
            best = methods[methods["representative"].astype(bool)].iloc[0]
            trial_id, way, name = str(best["trial_id"]), best["way"], best["method"]
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise AnalysisError(
                f"{table} cannot be read ({error!r}); run python -m analysis.run to make it again"
            ) from error
        why = f"{name}, the first method of the report"
        return _choice(run.checkpoint(trial_id), str(way).endswith(GIVEN_BACK), why)
    best_candidate = candidates(run)[0]
    why = f"{best_candidate.name}, the best by validation IoU ({folder.name} has no report yet)"
    return _choice(run.checkpoint(best_candidate.trials[0]), None, why)


def _choice(checkpoint: Path, give_back_gap: bool | None, why: str) -> Choice:
    manifest = read_manifest(checkpoint)
    try:
        config = recorded_config(manifest["config"])
        inference = stored_inference(manifest)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint / MANIFEST}: config or inference: {first_line(error)}"
        ) from error
    check_registered(config.architecture, checkpoint)
    weights = fetched(checkpoint / manifest["weights"]["file"])
    if not weights.is_file() or sha256_of(weights) != manifest["weights"]["sha256"]:
        raise CheckpointError(f"{weights} is missing or damaged; copy the checkpoint again")
    stored = read_calibration(checkpoint)
    if stored is None and (checkpoint / CALIBRATION).exists():
        raise CheckpointError(
            f"{checkpoint / CALIBRATION} cannot be read; run python -m analysis.run to make it "
            "again, or remove it to use default parameters"
        )
    if stored is not None and stored["weights"] != manifest["weights"]["sha256"]:
        stored = None  # of other weights
    if give_back_gap is None:  # areas without the bias of a line that only separates
        give_back_gap = WAYS[config.task].has_gap
    own = (stored or {}).get("given_back") if give_back_gap else None
    chosen = own or stored  # the given gap is calibrated for the report's first network only
    parameters = chosen["calibrated"] if chosen else default_parameters(config, manifest)
    data = manifest.get("data") or {}
    return Choice(
        checkpoint,
        dict(parameters),
        stored is not None,
        give_back_gap,
        data.get("pixel_size_um"),
        why,
        manifest["weights"]["sha256"],
        config,
        inference,
        trained_shape(manifest),
        data.get("appearance"),
    )


def normalizer(choice: Choice) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return the function that scales raw images as the model's training images were scaled.

    Parameters
    ----------
    choice : Choice
        The network itself is not loaded.

    Raises
    ------
    trainables.errors.CheckpointError
        When the checkpoint lacks the intensities that its network needs.
    """
    path = choice.checkpoint / MANIFEST
    intensities = read_intensities(read_manifest(choice.checkpoint), choice.config, path)
    return lambda image: normalize(image, choice.config.normalization, intensities)


class Segmenter:
    """A trained network with its way of making instances.

    Parameters
    ----------
    model : path or Choice
        See `choose_model`; or its result.
    tile, flips
        See `analysis.evaluation.prediction.predict_maps`.
    device : str
        ``auto`` uses a GPU if there is one.

    Examples
    --------
    >>> with Segmenter("runs/demo") as segment:  # doctest: +SKIP
    ...     labels = segment(image)
    """

    def __init__(
        self,
        model: Path | str | Choice,
        *,
        tile: int | str = "auto",
        flips: bool = False,
        device: str = "auto",
    ) -> None:
        from trainables.checkpoint import load
        from trainables.predict import resolve_device

        self.choice = model if isinstance(model, Choice) else choose_model(Path(model))
        self.tile, self.flips = tile, flips
        predictor = load(self.choice.checkpoint)
        where = resolve_device(device)
        if where.type == "cuda":
            predictor.to(where)
        self.predictor: MapPredictor = predictor

    def __call__(self, image: NDArray[Any]) -> NDArray[np.int32]:
        """Segment one image.

        Parameters
        ----------
        image : (H, W) array
            Raw intensities of any integer or float type.

        Returns
        -------
        (H, W) int32 array
            Label image: 0 is background, cells are numbered from 1.

        Raises
        ------
        ValueError
            When the image is not two-dimensional, or its pixels are not finite numbers.
        """
        image = np.asarray(image)
        if image.dtype.kind not in "uif":
            raise ValueError(f"the pixels of an image must be numbers, not {image.dtype}")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError("the image contains NaN or infinity; replace them first")
        maps = predict_maps(self.predictor, image, tile=self.tile, flips=self.flips)
        return make_instances(
            self.predictor.config,
            maps,
            self.choice.parameters,
            (image.shape[0], image.shape[1]),
            give_back_gap=self.choice.give_back_gap,
        )

    def close(self) -> None:
        """Stop the process of StarDist's own model, if there is one."""
        self.predictor.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def segment(
    image: NDArray[Any],
    model: Path | str | Segmenter,
    *,
    tile: int | str = "auto",
    flips: bool = False,
    device: str = "auto",
) -> NDArray[np.int32]:
    """Segment one image; for many, keep a `Segmenter`.

    Parameters
    ----------
    image : (H, W) array
        Raw intensities of any integer or float type.
    model : path or Segmenter
        A checkpoint, or the folder of a sweep, which is loaded for this image only; or a
        `Segmenter`, with which the other arguments are ignored.
    tile, flips
        See `analysis.evaluation.prediction.predict_maps`.
    device : {"auto", "cpu", "cuda"}

    Returns
    -------
    (H, W) int32 array
        Label image: 0 is background, cells are numbered from 1.

    Raises
    ------
    AnalysisError, trainables.errors.CheckpointError
        When there is no model, or it cannot be read.
    ValueError
        When the image is not two-dimensional.
    """
    if isinstance(model, Segmenter):
        return model(image)
    with Segmenter(model, tile=tile, flips=flips, device=device) as one:
        return one(image)
