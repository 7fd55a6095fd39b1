"""stardist's own StarDist2D as a trial; imports neither torch nor TensorFlow.

The model trains and predicts in a separate process (`trainables.stardist.worker`), which never
imports torch and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet
from trainables.data.normalization import normalize
from trainables.errors import (
    CheckpointError,
    HostMemoryShort,
    NoGpu,
    OutOfMemory,
    Paused,
    Superseded,
    TrainingError,
)
from trainables.machine.cores import usable_cpus
from trainables.memory import CONTEXT_MB
from trainables.pictures import validation_picture
from trainables.records.attempts import attempt_at
from trainables.records.manifest import MANIFEST, read_intensities
from trainables.records.progress import ended_before, read_result
from trainables.starconvex import Thresholds, decode
from trainables.tiling import Inference, stored_inference

logger = logging.getLogger(__name__)

OnEpoch = Callable[[EpochRecord], None]
OnResume = Callable[[Sequence[EpochRecord]], None]
OnNote = Callable[[str], None]
OnOverlays = Callable[[Sequence[tuple[str, NDArray[np.uint8]]]], None]


_NOISE = re.compile(r"([IWE]\d{4} |\d{4}-\d\d-\d\d |@ |\*\*\* |PC: )")
"""Starts of lines that TensorFlow logs, and of its traces of the stack."""


class _Worker:
    """The process with TensorFlow, until `close`.

    Parameters
    ----------
    request : dict
        What it shall do.
    options : RunOptions
    """

    def __init__(self, request: dict[str, Any], options: RunOptions) -> None:
        self.limited = options.memory_gb is not None
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        read, write = os.pipe()
        root = str(Path(__file__).resolve().parents[2])
        paths = filter(None, [root, os.environ.get("PYTHONPATH")])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
            "OMP_NUM_THREADS": str(options.threads),
        }
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainables.stardist.worker", str(write)],
                stdin=subprocess.PIPE,
                stdout=self.log,
                stderr=self.log,
                text=True,
                pass_fds=(write,),
                env=environment,
            )
        finally:
            os.close(write)
        self.answers = os.fdopen(read, encoding="utf-8")
        common = {
            "options": options.model_dump(mode="json"),
            "gpu_memory_mb": gpu_share_mb(options.gpu_fraction),
        }
        self.send({**common, **request})

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; if the process has ended, `listen` reports it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield answers until the process ends; raise what it ends with."""
        for line in self.answers:
            message = json.loads(line)
            if "error" in message:
                raise _error(message["kind"], message["error"])
            yield message
        code = self.process.wait()
        if code:
            raise self._death(code)

    def _death(self, code: int) -> Exception:
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().splitlines() if line.strip()]
        lines = [line for line in lines if not _NOISE.match(line)] or ["no message"]
        last = lines[-1][:300]
        if "bad_alloc" in last or "OOM" in last or (self.limited and code < 0):
            return OutOfMemory(f"out of memory (StarDist's process ended with code {code}: {last})")
        hint = "; most likely memory ran out" if code == -9 else ""
        return RuntimeError(f"StarDist's process ended with code {code}{hint}: {last}")

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.answers.close()
        self.log.close()


def _error(kind: str, text: str) -> Exception:
    known: dict[str, type[Exception]] = {
        "TrainingError": TrainingError,
        "OutOfMemory": OutOfMemory,
        "MemoryError": OutOfMemory,
        "Superseded": Superseded,
        "Paused": Paused,
        "OSError": OSError,
        "FileNotFoundError": FileNotFoundError,
        "NoGpu": NoGpu,
        "HostMemoryShort": HostMemoryShort,
    }
    if kind in known:
        return known[kind](text)
    return RuntimeError(f"{kind}: {text}")


def gpu_share_mb(fraction: float | None) -> float | None:
    """Return the MiB of a share of the visible GPU's memory that remain beside the process's CUDA
    context; None without a share or a GPU.
    """
    if fraction is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    try:
        done = subprocess.run(
            [
                "nvidia-smi",
                f"--id={visible}",
                "--query-gpu=memory.total",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return max(0.0, float(done.stdout.split()[0]) * fraction - CONTEXT_MB)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def train_stardist(
    config: TrialConfig,
    dataset: DataSet,
    folder: Path,
    *,
    options: RunOptions = RunOptions(),
    on_epoch: OnEpoch | None = None,
    on_overlays: OnOverlays | None = None,
    on_resume: OnResume | None = None,
    on_note: OnNote = logger.warning,
) -> TrialResult:
    """Train stardist's own model, continue an earlier attempt, or return a finished result.

    Parameters, result and the files in `folder` are those of `trainables.train.train`; the
    weights are Keras's ``model.weights.h5``. The IoU of an epoch uses StarDist's
    default thresholds; the IoU of the result uses thresholds optimised on the validation images.

    Raises
    ------
    trainables.errors.TrainingError
        When the trial cannot succeed however often it is repeated.
    trainables.errors.OutOfMemory
        When it needs more memory than `options` allow.
    trainables.errors.Superseded
        When another attempt at the trial has begun; this one has written nothing since.
    """
    done = ended_before(folder, on_note)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "do": "train",
        "config": config.model_dump(mode="json"),
        "folder": str(folder),
        "data": str(dataset.root),
        "data_options": dataset.options.model_dump(mode="json"),
    }
    with (
        attempt_at(folder, options.attempt) as attempt,
        contextlib.closing(_Worker({**request, "attempt": attempt.token}, options)) as worker,
    ):
        for message in worker.listen():
            if "note" in message:
                on_note(message["note"])
            if "resumed" in message and on_resume is not None:
                on_resume([EpochRecord(**row) for row in message["resumed"]])
            if "epoch" in message:
                if on_epoch is not None:
                    on_epoch(EpochRecord(**message["epoch"]))
                worker.send({"reported": message["epoch"]["epoch"]})
    result = read_result(folder)
    if result is None:
        raise RuntimeError("StarDist's process ended without a result")
    pictures = folder / "overlays.npz"
    if on_overlays is not None and pictures.exists():
        on_overlays(_overlays(config, dataset, pictures))
    pictures.unlink(missing_ok=True)
    return result


def _overlays(
    config: TrialConfig, dataset: DataSet, path: Path
) -> list[tuple[str, NDArray[np.uint8]]]:
    found = []
    with np.load(path, allow_pickle=False) as content:
        for number, item in enumerate(dataset.subset("val")[: len(content.files)]):
            image, labels = dataset.load(item, config.normalization)
            mask = content[f"arr_{number}"]
            found.append(validation_picture(number + 1, image, mask, labels > 0))
    return found


class StarDistPredictor:
    """A trained StarDist2D that predicts from raw images, in a process started when needed.

    Parameters
    ----------
    config : TrialConfig
    weights : Path
    thresholds : Thresholds
    info : dict
        What ``checkpoint.json`` says.

    Raises
    ------
    CheckpointError
        When `info` lacks the intensities that the configuration needs.
    """

    def __init__(
        self, config: TrialConfig, weights: Path, thresholds: Thresholds, info: dict[str, Any]
    ) -> None:
        self.config, self.weights, self.thresholds, self.info = config, weights, thresholds, info
        self.inference = stored_inference(info)
        self.intensities = read_intensities(info, config, weights.parent / MANIFEST)
        self.options = RunOptions(threads=max(1, usable_cpus() // 2), device="cpu")
        self._worker: _Worker | None = None
        self._answers: Iterator[dict[str, Any]] = iter(())
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def to(self, device: object) -> StarDistPredictor:
        """Use a device from now on, given by name or as torch's object: ``cpu`` or ``cuda``."""
        self.close()
        device = "cuda" if str(device).startswith("cuda") else "cpu"
        self.options = self.options.model_copy(update={"device": device})
        return self

    def raw(self, image: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict object probability (h, w) and radial distances (rays, h, w) in pixels, of every
        ``config.grid``-th pixel.
        """
        maps = self.maps(self.normalize(image))
        return maps[0], maps[1:]

    def normalize(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Scale a raw (H, W) image as the training images were scaled: (H, W) float32."""
        return normalize(image, self.config.normalization, self.intensities)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        """Predict from a normalised image.

        Parameters
        ----------
        normalized : (H, W) float32 array
            As `normalize` gives it for the whole image.
        inference : Inference, optional
            Whether to use tiles, and of which size; None: as the checkpoint says.

        Returns
        -------
        (1 + rays, h, w) float32 array
            Object probability and radial distances in pixels, of every ``config.grid``-th pixel.
        """
        if self._worker is None:
            request = {
                "do": "predict",
                "config": self.config.model_dump(mode="json"),
                "weights": str(self.weights.absolute()),
            }
            self._worker = _Worker(request, self.options)
            self._answers = self._worker.listen()
            self._folder = tempfile.TemporaryDirectory(prefix="segsweep-")
            self._answer()
        assert self._folder is not None
        source, target = Path(self._folder.name, "image.npy"), Path(self._folder.name, "out.npz")
        np.save(source, normalized)
        how = (inference or self.inference).state()
        self._worker.send({"image": str(source), "output": str(target), "inference": how})
        self._answer()
        with np.load(target, allow_pickle=False) as content:
            return np.concatenate([content["arr_0"][None], content["arr_1"]])

    def _answer(self) -> None:
        try:
            next(self._answers)
        except StopIteration:
            self.close()
            raise RuntimeError("StarDist's process ended while predicting") from None
        except Exception:
            self.close()
            raise

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Predict the (H, W) object probability, which falls towards a cell's edge."""
        prob, grid = self.raw(image)[0], self.config.grid
        return np.repeat(np.repeat(prob, grid, 0), grid, 1)[: image.shape[0], : image.shape[1]]

    def labels(self, image: NDArray[Any]) -> NDArray[np.int32]:
        """Predict the (H, W) label image."""
        shape = (image.shape[0], image.shape[1])
        prob, dist = self.raw(image)
        return decode(prob, dist, self.thresholds, grid=self.config.grid, shape=shape)

    def foreground(self, image: NDArray[Any]) -> NDArray[np.bool_]:
        """Predict which pixels belong to a cell, as the ranking counts them: (H, W)."""
        return self.labels(image) > 0

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> StarDistPredictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def load_stardist(config: TrialConfig, weights: Path, info: dict[str, Any]) -> StarDistPredictor:
    """Make the predictor of a checkpoint whose files were checked.

    Raises
    ------
    CheckpointError
        When the manifest has no thresholds.
    """
    try:
        thresholds = Thresholds(**info["task"]["thresholds"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{weights.parent} is damaged: no thresholds ({error})") from error
    return StarDistPredictor(config, weights, thresholds, info)
