"""Training stardist's own model; imported by `trainables.stardist.worker` only.

TensorFlow is imported inside functions, after the worker has seen to it that torch is not.
"""

from __future__ import annotations

import json
import math
import queue
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from trainables import memory
from trainables.config import RECIPE, EpochRecord, ImageCounts, RunOptions, TrialConfig
from trainables.data.appearance import trained_on
from trainables.data.crop_positions import (
    Cutter,
    derived_seed,
    epoch_batches,
    steps_per_epoch,
)
from trainables.data.dataset import index_dataset
from trainables.data.splits import DataOptions
from trainables.errors import NoGpu, TrainingError
from trainables.evenly import evenly
from trainables.labels import compact
from trainables.learning_rate import learning_rate_factor
from trainables.machine.hardware import pretended_gpu
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.records.attempts import Attempt
from trainables.records.manifest import FORMAT, MANIFEST, input_record, library_versions, sha256_of
from trainables.records.progress import RESULT, forget_states
from trainables.records.resumable import Progress
from trainables.starconvex import (
    Thresholds,
    at_bound,
    decode,
    optimize_thresholds,
    polygon_ceiling,
    star_targets,
)
from trainables.stardist.arrays import FORM, read_arrays, save_weights, savez
from trainables.tiling import Inference

WEIGHTS = "model.weights.h5"
MOST_CALIBRATION_IMAGES = 20
MOST_TARGETS_MB = 1024
"""Size of the validation targets that are kept in memory; others are made again each time."""

Pair = tuple[NDArray[np.float32], NDArray[np.integer]]


def start_tensorflow(options: RunOptions, gpu_memory_mb: float | None) -> Any:
    """Import TensorFlow, pin its threads, and limit its share of a GPU's memory."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    gpus = tf.config.list_physical_devices("GPU")
    if options.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    for gpu in gpus if options.device != "cpu" else []:
        if gpu_memory_mb is not None:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=gpu_memory_mb)
            tf.config.set_logical_device_configuration(gpu, [limit])
        else:
            tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    return tf


def build(config: TrialConfig) -> Any:
    """Build stardist's StarDist2D with its default network; nothing is written to disk."""
    from stardist.models import Config2D, StarDist2D

    settings = Config2D(
        n_rays=config.rays,
        grid=(config.grid, config.grid),
        n_channel_in=1,
        train_patch_size=(config.crop_size, config.crop_size),
        train_batch_size=config.batch_size,
        train_tensorboard=False,
        use_gpu=False,
    )
    return StarDist2D(settings, name="model", basedir=None)


def standardise(image: NDArray[np.float32], config: TrialConfig) -> NDArray[np.float32]:
    """Return what the network sees of a normalised image, as other networks see it."""
    own = config.normalization
    return (image - (0.5 if own.mean is None else own.mean)) / (own.std or 0.25)


def polygons(
    model: Any, image: NDArray[np.float32], inference: Inference
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return object probability (h, w) and distances (rays, h, w) of a normalised image, on the
    model's grid; tiles are stardist's own, which overlap by the network's reach.
    """
    side = inference.side(image.shape)
    tiles = None if side is None else tuple(-(-length // side) for length in image.shape)
    prob, dist = model.predict(image, n_tiles=tiles, show_tile_progress=False)
    return prob, np.moveaxis(dist, -1, 0)


class _Asked(Exception):
    """Training shall stop at once, and an evaluation is not finished."""


@dataclass
class _Epoch:
    """What an epoch has come to so far."""

    losses: list[float]
    """Of each batch."""
    began: float
    """When it began, had it not been interrupted."""

    @property
    def seconds(self) -> float:
        """Time spent on it."""
        return time.monotonic() - self.began


class Trial:
    """One trial of stardist's own model.

    Parameters
    ----------
    request : dict
        What `trainables.stardist.client.train_stardist` sends.
    lines : SimpleQueue
        What the parent sends: a line for every epoch that it has reported.
    answer : TextIO
        Where answers go.
    """

    def __init__(
        self, request: dict[str, Any], lines: queue.SimpleQueue[str | None], answer: TextIO
    ) -> None:
        self.lines, self.answer = lines, answer
        self.config = TrialConfig.model_validate(request["config"])
        self.options = RunOptions.model_validate(request["options"])
        self.folder = Path(request["folder"])
        self.attempt = Attempt(self.folder, request["attempt"])
        self.progress = Progress(
            self.attempt,
            FORM,
            self.options,
            lambda text: self.say({"note": text}),
        )
        data = index_dataset(Path(request["data"]), DataOptions(**request["data_options"]))
        self.data = data.of_fold(self.config.fold)
        self.tf = start_tensorflow(self.options, request["gpu_memory_mb"])
        demanded = self.options.device == "cuda" and pretended_gpu() is None
        if demanded and not self.tf.config.list_physical_devices("GPU"):
            raise NoGpu("the trial was given a share of a GPU, but TensorFlow sees none here")
        self.inference = Inference()
        self.targets: dict[int, NDArray[np.float32]] = {}

    def images(self, split: str) -> Iterator[Pair]:
        """Load a split, normalised, one image after the other."""
        for item in self.data.subset(split):
            image, labels = self.data.load(item, self.config.normalization)
            yield standardise(image, self.config), compact(labels)

    def _batches(
        self, epoch: int, first: int = 0
    ) -> Iterator[tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]]:
        """Yield an epoch's batches from number `first`, in the order and with the augmentation of
        other trials.
        """
        size, rays, grid = self.config.crop_size, self.config.rays, self.config.grid
        count = len(self.cutter.corners)
        for batch in epoch_batches(count, self.steps, self.config.seed, epoch)[first:]:
            x = np.empty((len(batch), size, size, 1), np.float32)
            y = np.empty((len(batch), size // grid, size // grid, 1 + rays), np.float32)
            for place, index in enumerate(batch):
                crop, cells = self.cutter.cut(int(index), epoch)
                x[place, ..., 0] = standardise(crop, self.config)
                y[place] = np.moveaxis(star_targets(cells, rays, grid), 0, -1)
            yield x, _for_keras(y)

    def run(self) -> None:
        """Train to the end and write checkpoint and result."""
        config = self.config
        self.tf.keras.utils.set_random_seed(derived_seed(config.seed, "weights"))
        model = build(config)
        network = model.keras_model
        optimizer = self.tf.keras.optimizers.Adam(config.learning_rate)
        model.prepare_for_training(optimizer)
        optimizer.build(network.trainable_variables)
        # not standardised yet: augmentation takes what normalisation gives
        items = self.data.subset("train")
        loaded = (self.data.load(item, config.normalization) for item in items)
        training = [(image, compact(labels)) for image, labels in loaded]
        self.shapes = [labels.shape for _, labels in training]
        self.cutter = Cutter(training, config.crop_size, config.augmentation, config.seed)
        self.steps = steps_per_epoch(len(self.cutter.corners), config.batch_size)
        validation = list(self.images("val"))
        self.inference = Inference(None, max(labels.size for _, labels in validation))
        now = self._resume(network, optimizer)
        rate = learning_rate_factor(config.lr_schedule, config.epochs * self.steps)
        while not self._is_over():
            epoch = len(self.progress.history.records)
            first = len(now.losses)
            for step, (x, y) in enumerate(self._batches(epoch, first), first):
                factor = rate(epoch * self.steps + step)
                optimizer.learning_rate.assign(config.learning_rate * factor)
                logs = network.train_on_batch(x, y, return_dict=True)
                now.losses.append(float(logs["loss"]))
                network.reset_metrics()
                if step + 1 < self.steps and self.progress.looks.at_step():
                    self._pause(network, optimizer, now)
            self._end_epoch(epoch + 1, now, model, optimizer, validation)
            now = _Epoch([], time.monotonic())
        self._finish(model, validation)

    def _is_over(self) -> bool:
        """Whether the trial has had its epochs, or too many without an improvement."""
        history = self.progress.history
        stopped = history.patience_is_over(self.config.early_stopping)
        return stopped or len(history.records) >= self.config.epochs

    def _pause(self, network: Any, optimizer: Any, now: _Epoch) -> NoReturn:
        """Save a state within the epoch, and stop."""
        within = [np.array(now.losses), np.array(now.seconds)]
        self.progress.pause(
            lambda path: savez(path, [*_variables(network, optimizer), *within]), len(now.losses)
        )

    def _end_epoch(
        self, epoch: int, now: _Epoch, model: Any, optimizer: Any, validation: Sequence[Pair]
    ) -> None:
        network, progress = model.keras_model, self.progress
        try:
            record = self._evaluate(epoch, now, model, validation)
        except _Asked:
            self._pause(network, optimizer, now)
        progress.add(record, network.get_weights)
        progress.save_if_due(
            lambda path: savez(path, _variables(network, optimizer)), ended=self._is_over()
        )
        self.attempt.check()
        self.say({"epoch": record.to_dict()})
        # not ahead of the reports: a resumed trial would never report what was saved meanwhile
        self.lines.get()
        progress.stop_if_asked()

    def _evaluate(
        self, epoch: int, now: _Epoch, model: Any, validation: Sequence[Pair]
    ) -> EpochRecord:
        loss = float(np.mean(now.losses))
        val_loss, dataset_iou, image_iou = None, None, None
        if math.isfinite(loss) and (
            epoch % self.config.validate_every == 0 or epoch == self.config.epochs
        ):
            images = enumerate(self._unless_asked(validation))
            val_loss = float(np.mean([self._loss(model, i, *pair) for i, pair in images]))
            counts = self._counts(model, self._unless_asked(validation), Thresholds())
            dataset_iou, image_iou = iou_from_counts(counts)
        for name, value in (("training", loss), ("validation", val_loss)):
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"{name} loss became {value} in epoch {epoch}; try a smaller learning_rate"
                )
        return EpochRecord(epoch, loss, val_loss, dataset_iou, image_iou, now.seconds)

    def _unless_asked(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Yield images, unless training shall stop at once."""
        for pair in pairs:
            if self.progress.looks.at_step():
                raise _Asked
            yield pair

    def _loss(
        self, model: Any, number: int, image: NDArray[np.float32], labels: NDArray[np.integer]
    ) -> float:
        """Return the loss of a whole validation image, mirrored to sides that the network can
        halve.
        """
        pad = [(0, -side % (8 * self.config.grid)) for side in image.shape]
        x = np.pad(image, pad, mode="reflect")[None, ..., None]
        y = self.targets.get(number)
        if y is None:
            cells = np.pad(labels, pad, mode="reflect")
            y = np.moveaxis(star_targets(cells, self.config.rays, self.config.grid), 0, -1)
            kept = sum(one.nbytes for one in self.targets.values())
            if kept + y.nbytes <= MOST_TARGETS_MB * 2**20:
                self.targets[number] = y
        logs = model.keras_model.test_on_batch(x, _for_keras(y[None]), return_dict=True)
        model.keras_model.reset_metrics()
        return float(logs["loss"])

    def _counts(
        self, model: Any, pairs: Iterable[Pair], thresholds: Thresholds
    ) -> list[tuple[int, int]]:
        """Return intersection and union of each image, in pixels."""
        return [
            overlap_counts(self._mask(model, image, thresholds), labels > 0)
            for image, labels in pairs
        ]

    def _mask(
        self, model: Any, image: NDArray[np.float32], thresholds: Thresholds
    ) -> NDArray[np.bool_]:
        prob, dist = polygons(model, image, self.inference)
        return decode(prob, dist, thresholds, grid=self.config.grid, shape=image.shape) > 0

    def _resume(self, network: Any, optimizer: Any) -> _Epoch:
        """Give network and optimiser what the last saved state that can be used holds; return the
        epoch that training continues with.
        """
        count, first = len(network.get_weights()), _variables(network, optimizer)

        def put(arrays: Sequence[NDArray[Any]]) -> None:
            network.set_weights(arrays[:count])
            for variable, array in zip(optimizer.variables, arrays[count:], strict=True):
                variable.assign(array)

        for state in self.progress.states():
            try:
                arrays, now = read_arrays(state.path), _Epoch([], time.monotonic())
                if state.batches:
                    *arrays, losses, seconds = arrays
                    now = _Epoch([float(one) for one in losses], now.began - float(seconds))
                put(arrays)
                self.say({"resumed": self.progress.history.rows()})
                return now
            except (ValueError, KeyError, BadZipFile) as error:
                self.progress.refuse(state, error)
                put(first)  # what fitted of the state must not stay
        return _Epoch([], time.monotonic())

    def _finish(self, model: Any, validation: Sequence[Pair]) -> None:
        config, network = self.config, model.keras_model
        network.set_weights(self.progress.best_weights())
        chosen = evenly(validation, MOST_CALIBRATION_IMAGES)
        thresholds = optimize_thresholds(
            [polygons(model, image, self.inference) for image, _ in chosen],
            [labels for _, labels in chosen],
            grid=config.grid,
        )
        counts = {
            "val": self._counts(model, validation, thresholds),
            "test": self._counts(model, self.images("test"), thresholds),
        }
        self.attempt.write_with(self.folder / WEIGHTS, lambda path: save_weights(network, path))
        ceiling = polygon_ceiling([y for _, y in chosen], config.rays, config.grid)
        metrics = self._metrics(counts, network.count_params() / 1e6, ceiling)
        per_image = [
            vars(ImageCounts(split, item.stem, item.group, *one))
            for split, those in counts.items()
            for item, one in zip(self.data.subset(split), those)
        ]
        manifest = self._manifest(model, thresholds, metrics)
        self.attempt.write_json(self.folder / MANIFEST, manifest)
        masks = [self._mask(model, image, thresholds) for image, _ in validation[:4]]
        self.attempt.write_with(self.folder / "overlays.npz", lambda path: savez(path, masks))
        self.attempt.write_json(
            self.folder / RESULT,
            {**metrics, "history": self.progress.history.rows(), "per_image": per_image},
        )
        forget_states(self.folder)
        self.say({"done": True})

    def _manifest(
        self, model: Any, thresholds: Thresholds, metrics: Mapping[str, Any]
    ) -> dict[str, Any]:
        config = self.config
        return {
            "format": FORMAT,
            "recipe": RECIPE,
            "inference": self.inference.state(),
            "config": config.model_dump(mode="json"),
            "input": input_record(
                0.5 if config.normalization.mean is None else config.normalization.mean,
                config.normalization.std or 0.25,
                self.data.intensities(config.normalization),
            ),
            "data": trained_on(self.data, self.shapes),
            "metrics": metrics,
            "encoder_weights": None,
            "task": {
                "thresholds": {"prob": thresholds.prob, "nms": thresholds.nms},
                "at_bound": at_bound(thresholds),
            },
            "stardist": json.loads(json.dumps(vars(model.config), default=str)),
            "versions": library_versions("tensorflow", "stardist", "keras"),
            "weights": {"file": WEIGHTS, "sha256": sha256_of(self.folder / WEIGHTS)},
        }

    def _metrics(
        self, counts: Mapping[str, Any], parameters_m: float, ceiling: float
    ) -> dict[str, Any]:
        history = self.progress.history
        best = history.best
        assert best is not None
        val, test = iou_from_counts(counts["val"]), iou_from_counts(counts["test"])
        return {
            "best_epoch": best.epoch,
            "epochs": history.records[-1].epoch,
            "val_dataset_iou": val[0],
            "val_image_iou": val[1],
            "test_dataset_iou": test[0],
            "test_image_iou": test[1],
            "parameters_m": parameters_m,
            "train_seconds": sum(record.seconds for record in history.records),
            "peak_memory_mb": memory.process_peak_mb(),
            "inference": str(self.inference),
            "ceiling_iou": ceiling,
        }

    def say(self, message: dict[str, Any]) -> None:
        """Send one line to the parent."""
        print(json.dumps(message), file=self.answer, flush=True)


def _for_keras(target: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split (N, H, W, 1 + rays) targets as stardist's losses take them: probability; distances
    with the probability as their mask behind them.
    """
    return target[..., :1], np.concatenate([target[..., 1:], target[..., :1]], axis=-1)


def _variables(network: Any, optimizer: Any) -> list[NDArray[Any]]:
    """Return everything that training needs to continue."""
    return [*network.get_weights(), *(np.array(v) for v in optimizer.variables)]
