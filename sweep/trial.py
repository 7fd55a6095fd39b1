"""The function that Ray runs for each trial, in a worker that runs many trials."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sweep.ledger import Ledger
from sweep.limits import Limits, after_shortage
from sweep.orphans import end_with_parent
from sweep.precision import Precision, refusal
from sweep.refusals import is_blind, is_without_gpu
from sweep.tracking import Tracker, TrackingOptions, known_id
from sweep.worker_log import warnings_to_sweep_log
from trainables.config import (
    STARDIST,
    EpochRecord,
    RunOptions,
    TrialConfig,
    TrialResult,
    with_changes,
)
from trainables.data.dataset import DataError, cached_index
from trainables.data.splits import DataOptions
from trainables.errors import Paused, Superseded
from trainables.records import mounted, objects
from trainables.records.attempts import ATTEMPT, Attempt
from trainables.records.files import exists
from trainables.records.objects import fetched_folder, place
from trainables.records.patience import Patience

SCORE, TIME = "score", "scheduler_epoch"
"""Names of the values that schedulers use."""
OUT_OF_MEMORY = 77
"""Exit code of a worker that stops itself after running out of memory."""


class TransientError(RuntimeError):
    """A failure that may not happen again in another attempt, perhaps on another node."""


def config_of(tune_config: dict[str, Any], runtime: dict[str, Any]) -> TrialConfig:
    """Return the TrialConfig that a Tune configuration describes.

    Parameters
    ----------
    tune_config : dict
        ``{"trial": {"config": {...}, "limits": {...}}}`` for a grid, or the values that a search
        drew.
    runtime : dict
        Contains ``base``, the settings that a search does not draw, and ``weights_ids``, the
        identities of encoder weights by encoder and weights.
    """
    if "trial" in tune_config:
        return TrialConfig.model_validate(tune_config["trial"]["config"])
    drawn = {k: v for k, v in tune_config.items() if k in TrialConfig.model_fields}
    fields = with_changes(runtime["base"], drawn).model_dump()
    # a search may draw another encoder, which starts from other weights
    pair = f"{fields['encoder']} {fields['encoder_weights']}"
    fields["weights_id"] = runtime.get("weights_ids", {}).get(pair, "")
    return TrialConfig.model_validate(fields)


def limits_of(tune_config: dict[str, Any], default: Limits = Limits()) -> Limits:
    """Return the limits of the trial that a Tune configuration describes."""
    if "trial" in tune_config:
        return Limits(**tune_config["trial"]["limits"])
    return default


def to_tune(epoch: int, epochs: int, best: float) -> dict[str, Any]:
    """Return the values that schedulers get for an epoch.

    Parameters
    ----------
    epoch, epochs : int
        The epoch, and the trial's number of epochs.
    best : float
        val_dataset_iou of the best epoch so far.

    Examples
    --------
    >>> to_tune(3, 10, 0.5), to_tune(10, 10, 0.75)
    ({'score': 0.5, 'scheduler_epoch': 3}, {'score': 0.75, 'scheduler_epoch': 0})
    """
    # at its last epoch a trial is no longer stopped: only its test is missing
    return {SCORE: best, TIME: 0 if epoch >= epochs else epoch}


def shown_config(config: TrialConfig, trial_id: str) -> dict[str, Any]:
    """Return the configuration that trackers show for a trial."""
    names = {"trial_id": trial_id, "candidate": config.candidate_key()}
    return {**config.model_dump(mode="json"), **names}


@dataclass(frozen=True)
class Assignment:
    """A trial assigned to this worker."""

    trial_id: str
    config: TrialConfig
    limits: Limits
    node: str
    """Ray's id of this node."""
    runtime: Mapping[str, Any]
    """The result of `sweep.tuner.runtime_of`, and ``round``."""
    continues: str | None = None
    """trial_id of the trial with fewer epochs that it continues."""

    @property
    def out(self) -> Path:
        """The run folder."""
        return place(self.runtime["out"])

    @property
    def ledger(self) -> Ledger:
        """The records of all trials; they wait while the storage is away."""
        return Ledger(self.out, self.patience)

    @property
    def patience(self) -> Patience:
        """What waits for the storage; a line about it reaches the user if it can be written."""
        notes = Ledger(self.out)
        say = partial(notes.note, self.trial_id)
        return Patience(say, self.runtime["options"]["stop_file"], who="the trial")


def run_trial(tune_config: dict[str, Any], *, runtime: dict[str, Any]) -> None:
    """Train one trial, report every epoch to Tune, and record the result in the ledger.

    After errors of the trial itself, it has failed and the worker stays alive for the next trial.
    Errors of the machine are raised, so that Tune tries again.
    """
    import ray

    end_with_parent()
    node = ray.get_runtime_context().get_node_id()
    limits = limits_of(tune_config, Limits(**runtime["limits"]))
    if exists(place(runtime["options"]["stop_file"])):
        return  # the sweep is being stopped
    if is_blind(runtime, limits, node):
        return
    config = config_of(tune_config, runtime)
    continues = tune_config.get("trial", {}).get("continues")
    trial_id = config.trial_id(runtime["fingerprint"])
    mine = Assignment(trial_id, config, limits, node, runtime, continues)
    mounted.expect(mine.out)
    record = mine.ledger.read_one(mine.trial_id) or {}
    if record.get("status") == "done":
        return  # an attempt that was lost after it had recorded its result
    if record.get("round") == runtime["round"]:
        return  # it ran out of memory, recorded that, and took its worker with it
    if not limits.gpu:
        # Ray leaves GPUs visible, and torch's optimisers then start CUDA, whatever they optimise
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if unfit(mine) or is_without_gpu(config, limits, node):
        return
    reporting = TrackingOptions(**runtime["tracking"])
    tracker = Tracker(
        reporting,
        mine.trial_id,
        shown_config(config, mine.trial_id),
        resumed=bool(record.get("attempts")),
        known_id=known_id(record.get("wandb_id", ""), mine.trial_id, reporting),
    )
    folder = mine.out / "checkpoints" / mine.trial_id
    attempt = mine.patience(folder / ATTEMPT, lambda: Attempt.begin(folder))
    mine.ledger.write_start(
        mine.trial_id,
        config,
        node,
        [str(gpu) for gpu in ray.get_gpu_ids()],
        wandb_id=tracker.wandb_id,
        limits=limits.to_dict(),
    )
    ended, logs = False, contextlib.ExitStack()
    try:
        logs.enter_context(warnings_to_sweep_log(mine.out, mine.trial_id))
        _finish(mine, attempt, tracker, _train(mine, attempt, tracker))
        ended = True
    except Exception as error:
        ended = True
        _end_without_result(mine, attempt, tracker, error)
    finally:
        if not ended:  # Tune stopped the trial from inside a report
            tracker.finish({})
        logs.close()
        _release_memory()


def _train(mine: Assignment, attempt: Attempt, tracker: Tracker) -> TrialResult:
    """Train, and report every epoch to Tune and the trackers."""
    from ray import tune

    runtime, config, ledger = mine.runtime, mine.config, mine.ledger
    # a resumed trial's best may lie before the interruption
    history = ledger.read_history(mine.trial_id)
    best = max((r["val_dataset_iou"] or 0.0 for r in history), default=0.0)

    def on_epoch(record: EpochRecord) -> None:
        nonlocal best
        best = max(best, record.val_dataset_iou or 0.0)
        tracker.epoch(record)
        tune.report({**record.to_dict(), **to_tune(record.epoch, config.epochs, best)})

    dataset = cached_index(
        str(fetched_folder(runtime["data"])), DataOptions(**runtime["data_options"])
    )
    if dataset.fingerprint != runtime["fingerprint"]:
        raise DataError(
            f"data set {runtime['data']} has changed since the sweep started; restore it"
        )
    options = {**runtime["options"], **mine.limits.options(), "attempt": attempt.token}
    if mine.continues is not None:
        options["continues"] = str(mine.out / "checkpoints" / mine.continues)
    result: TrialResult = _trainable(config)(
        config,
        dataset.of_fold(config.fold),
        attempt.folder,
        options=RunOptions(**options),
        on_epoch=on_epoch,
        on_overlays=tracker.overlays,
        on_resume=tracker.past,
        on_note=partial(Ledger(mine.out).note, mine.trial_id),
    )
    return result


def _finish(mine: Assignment, attempt: Attempt, tracker: Tracker, result: TrialResult) -> None:
    """Record a result, unless another attempt at the trial has begun in the meantime."""
    attempt.check()
    mine.ledger.write_done(mine.config, mine.trial_id, result, wandb_id=tracker.wandb_id)
    apart = ("history", "checkpoint", "per_image")
    tracker.past(result.history)  # all of it, where the result was there already
    tracker.finish(
        {k: v for k, v in vars(result).items() if k not in apart}, checkpoint=result.checkpoint
    )
    attempt.end()
    if objects.is_stored(attempt.folder):
        objects.drop_copies(attempt.folder)  # all networks of a sweep may not fit on this node


def _end_without_result(
    mine: Assignment, attempt: Attempt, tracker: Tracker, error: Exception
) -> None:
    """Record why an attempt ended, and the trial's next limits if it ran out of memory.

    Raises
    ------
    TransientError
        When the error may not happen again, or another attempt is already running.
    """
    if (why := _overtaken(attempt)) is not None:
        # ledger and W&B are the other attempt's by now
        logging.getLogger(__name__).warning(why)
        raise TransientError(why) from None
    if isinstance(error, Paused):
        tracker.finish({})
        return
    tracker.finish({"error": str(error)}, failed=True)
    if type(error).__name__ in ("OutOfMemory", "HostMemoryShort"):
        _note_shortage(mine, error, tracker.wandb_id)
        if not mine.limits.gpu:
            # oneDNN remembers that it could not compile: the process is of no more use
            os._exit(OUT_OF_MEMORY)
        return
    if _is_transient(error):
        raise TransientError(reason_of(error)) from error
    logging.getLogger(__name__).exception("trial %s failed", mine.trial_id)
    mine.ledger.write(
        mine.trial_id,
        mine.config,
        "failed",
        error=reason_of(error),
        traceback=traceback.format_exc(),
        attempts=mine.ledger.attempts(mine.trial_id),
        wandb_id=tracker.wandb_id,
    )


def _note_shortage(mine: Assignment, error: Exception, wandb_id: str) -> None:
    """Record the next limits after a trial ran out of memory, or that it has failed."""
    step, advice = after_shortage(
        mine.limits,
        mine.config,
        host=type(error).__name__ == "HostMemoryShort",
        node=mine.node,
        most_memory_gb=mine.runtime.get("most_memory_gb"),
    )
    what, more = f"{error} with {mine.limits}", {"round": mine.runtime["round"]}
    if step is not None:
        mine.ledger.write_shortage(
            mine.trial_id, mine.config, what, step.to_dict(), wandb_id=wandb_id, **more
        )
        return
    mine.ledger.write(
        mine.trial_id,
        mine.config,
        "failed",
        error=f"{what}: {advice}",
        attempts=mine.ledger.attempts(mine.trial_id),
        wandb_id=wandb_id,
        **more,
    )


def unfit(mine: Assignment) -> bool:
    """Whether this node cannot compute in a trial's precision. This is recorded, so that the trial
    runs on another node; it does not count as an attempt, because nothing was trained.
    """
    precision, on_gpu = Precision(**mine.runtime["precision"]), bool(mine.limits.gpu)
    if on_gpu and not precision.tf32:
        # read by CUDA's libraries when they are loaded, under torch as under TensorFlow
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    why = refusal(precision, mine.config, on_gpu) if mine.runtime["refuse"] else None
    if why is None:
        return False
    mine.ledger.write(
        mine.trial_id,
        mine.config,
        "running",
        attempts=mine.ledger.attempts(mine.trial_id),
        retry=mine.limits.to_dict(),
        refused={"node": mine.node, "host": os.uname().nodename, "why": why},
        round=mine.runtime["round"],
    )
    return True


def _trainable(config: TrialConfig) -> Any:
    """Return the function that trains a configuration, importing only what it needs."""
    if config.architecture == STARDIST:
        from trainables.stardist.client import train_stardist

        examples = sys.modules.get("trainables.data.examples")
        if examples is not None:  # the model's own process has images of its own
            examples.forget_images()
        return train_stardist
    from trainables.train import train

    return train


def _overtaken(attempt: Attempt) -> str | None:
    """Return a message if another attempt at the trial has begun in the meantime, else None."""
    try:
        attempt.check()
    except Superseded as error:
        return str(error)
    except OSError:
        pass  # the storage is away: that is this attempt's own error
    return None


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: after a full disk, a lost mount or a lost GPU."""
    if isinstance(error, DataError):
        return False
    if isinstance(error, OSError | MemoryError):
        return True
    return any(sign in str(error) for sign in _GPU_FAILURES) or not _gpu_answers()


_GPU_FAILURES = ("CUDA error", "CUDA driver error", "cuDNN error")


def _gpu_answers() -> bool:
    """Whether this process can still use CUDA, or has not started it. After some errors every
    further call fails, and so would every further trial of this worker.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def reason_of(error: BaseException) -> str:
    """Return an error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    name = type(error).__name__
    return text if name == "TrainingError" else f"{name}: {text}"


def _release_memory() -> None:
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # glibc keeps what a large network had, and the next trial's worker comes on top of it
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # after an error of CUDA, which was reported
            torch.cuda.empty_cache()
    os.chdir("/")  # Tune's folder of this trial may go away
