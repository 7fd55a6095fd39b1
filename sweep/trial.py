"""The function that Ray runs for one trial, in a worker that is reused for many."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any

from sweep.ledger import Ledger
from sweep.tracking import Tracker, TrackingOptions
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.data import DataError, DataOptions, cached_index


class TransientError(RuntimeError):
    """A failure that another attempt, perhaps elsewhere, may not meet."""


def config_of(tune_config: dict[str, Any], runtime: dict[str, Any]) -> TrialConfig:
    """Return the TrialConfig that a Tune configuration stands for.

    Parameters
    ----------
    tune_config : dict
        ``{"trial": {...}}`` of a grid, or what a search drew.
    runtime : dict
        Holds ``base``: what a search does not draw.
    """
    if "trial" in tune_config:
        return TrialConfig.model_validate(tune_config["trial"])
    drawn = {k: v for k, v in tune_config.items() if k in TrialConfig.model_fields}
    return TrialConfig.model_validate({**runtime["base"], **drawn})


def run_trial(tune_config: dict[str, Any], *, runtime: dict[str, Any]) -> None:
    """Train one trial, reporting every epoch to Tune; record its result in the ledger.

    Errors of the trial's own making end it as failed and leave the worker alive for the next
    trial; errors of the machine are raised, so that Tune tries again.
    """
    import ray
    from ray import tune

    config = config_of(tune_config, runtime)
    trial_id = config.trial_id(runtime["fingerprint"])
    out = Path(runtime["out"])
    ledger = Ledger(out)
    if (ledger.read_one(trial_id) or {}).get("status") == "done":
        return  # an attempt that was lost after it had recorded its result
    tracking = TrackingOptions(**runtime["tracking"])
    tracker = Tracker(
        tracking,
        trial_id,
        {**config.model_dump(mode="json"), "trial_id": trial_id},
        resumed=bool(ledger.attempts(trial_id)),
    )
    node = ray.get_runtime_context().get_node_id()
    ledger.write_start(trial_id, config, node, wandb_id=tracker.wandb_id)
    best = 0.0

    def on_epoch(record: EpochRecord) -> None:
        nonlocal best
        best = max(best, record.val_dataset_iou or 0.0)
        tracker.epoch(record)
        tune.report({**record.to_dict(), "score": best, "trial_key": trial_id})

    ended = False
    try:
        from trainables.train import train

        dataset = cached_index(runtime["data"], DataOptions(**runtime["data_options"]))
        if dataset.fingerprint != runtime["fingerprint"]:
            raise DataError(f"data set {runtime['data']} has changed since the sweep started")
        result = train(
            config,
            dataset,
            out / "checkpoints" / trial_id,
            options=RunOptions(**runtime["options"]),
            on_epoch=on_epoch,
            on_overlays=tracker.overlays,
        )
        ledger.write_done(config, trial_id, result, wandb_id=tracker.wandb_id)
        summary = {k: v for k, v in vars(result).items() if k not in ("history", "checkpoint")}
        tracker.finish(summary, checkpoint=result.checkpoint)
        ended = True
    except Exception as error:
        tracker.finish({"error": str(error)}, failed=True)
        ended = True
        if _is_transient(error):
            raise TransientError(reason_of(error)) from error
        logging.getLogger(__name__).exception("trial %s failed", trial_id)
        ledger.write(
            trial_id, config, "failed",
            error=reason_of(error),
            traceback=traceback.format_exc(),
            attempts=ledger.attempts(trial_id),
            wandb_id=tracker.wandb_id,
        )  # fmt: skip
    finally:
        if not ended:  # Tune stopped the trial from inside a report
            tracker.finish({})
        _release_memory()


def _is_transient(error: Exception) -> bool:
    """Whether trying again may help: a full disk, a lost mount, a GPU that fell off."""
    if isinstance(error, DataError):
        return False
    return isinstance(error, OSError | MemoryError) or "CUDA error" in str(error)


def reason_of(error: BaseException) -> str:
    """Return an error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    name = type(error).__name__
    return text if name == "TrainingError" else f"{name}: {text}"


def _release_memory() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    os.chdir("/")  # Tune's folder of this trial may go away
