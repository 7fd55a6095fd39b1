"""Weights & Biases and TensorBoard, from inside a trial's worker.

Tracking never harms a trial: whatever goes wrong is one warning in the log, and the trial goes
on without it. Offline runs lie under ``OUT/wandb``; ``wandb sync`` uploads them. A resumed
trial continues the run of the same id; offline it writes a second folder of that id, which
``wandb sync --append`` adds to the first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainables.config import EpochRecord

Mode = Literal["online", "offline", "off"]
INIT_TIMEOUT_SECONDS = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackingOptions:
    """Where a sweep's trials report."""

    mode: Mode
    group: str
    folder: str
    """The run folder OUT."""
    project: str = "segsweep"
    entity: str | None = None
    artifacts: bool = False
    tensorboard: bool = False


def wandb_mode(requested: str | None) -> Mode:
    """Decide how to use W&B.

    Parameters
    ----------
    requested : {"online", "offline", "off"} or None
        None: what ``WANDB_MODE`` says, else online when an API key is configured, else offline.
    """
    asked = requested or {"disabled": "off"}.get(
        os.environ.get("WANDB_MODE", ""), os.environ.get("WANDB_MODE")
    )
    if asked in ("online", "offline", "off"):
        return asked  # type: ignore[return-value]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    import netrc

    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if any("wandb" in host for host in hosts) else "offline"


class Tracker:
    """One trial's run in W&B and TensorBoard.

    Parameters
    ----------
    options : TrackingOptions
    trial_id : str
        Also the id of the W&B run, so that retries and resumes continue it.
    config : dict
        Shown and filtered by in W&B.
    """

    def __init__(self, options: TrackingOptions, trial_id: str, config: dict[str, Any]) -> None:
        self.options, self.trial_id = options, trial_id
        self.wandb_id = ""
        self._run: Any = None
        self._writer: Any = None
        if options.mode != "off":
            self._try("start", lambda: self._start_wandb(config))
        if options.tensorboard:
            self._try("start TensorBoard", self._start_tensorboard)

    def _start_wandb(self, config: dict[str, Any]) -> None:
        import wandb

        Path(self.options.folder).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            id=self.trial_id,
            name=self.trial_id.rsplit("-", 1)[0],
            resume="allow" if self.options.mode == "online" else None,
            project=self.options.project,
            entity=self.options.entity,
            group=self.options.group,
            job_type=str(config.get("task", "")),
            tags=[str(config[k]) for k in ("architecture", "encoder") if k in config],
            config=config,
            dir=self.options.folder,
            mode=self.options.mode,  # type: ignore[arg-type]
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                init_timeout=INIT_TIMEOUT_SECONDS,
                x_disable_stats=True,
            ),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")
        self.wandb_id = self._run.id

    def _start_tensorboard(self) -> None:
        # not torch.utils.tensorboard: it imports TensorFlow where that is installed, and the
        # two cannot share a process
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(Path(self.options.folder, "tensorboard", self.trial_id)))

    def _try(self, what: str, action: Any) -> None:
        try:
            action()
        except Exception as error:  # tracking must not harm training, whatever it raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("tracking of %s is off, could not %s: %s", self.trial_id, what, reason)
            self._run = self._writer = None

    def epoch(self, record: EpochRecord, **extra: float) -> None:
        """Log one epoch's figures; those that are None are left out."""
        row = {k: v for k, v in {**record.to_dict(), **extra}.items() if v is not None}
        if self._run is not None:
            self._try("log", lambda: self._run.log(row))
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, record.epoch)

    def overlays(self, images: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
        """Log pictures: (caption, (h, w, 3) uint8 array) pairs."""
        if self._run is not None:
            import wandb

            self._try(
                "log images",
                lambda: self._run.log(
                    {"overlays": [wandb.Image(picture, caption=text) for text, picture in images]}
                ),
            )
        if self._writer is not None:
            for number, (_, picture) in enumerate(images):
                self._writer.add_image(f"overlays/{number}", picture, dataformats="HWC")

    def finish(
        self, summary: dict[str, Any], *, failed: bool = False, checkpoint: str | None = None
    ) -> None:
        """Close the run with its final figures, uploading the checkpoint when asked to.

        Parameters
        ----------
        summary : dict
        failed : bool
            Mark the run as failed.
        checkpoint : str, optional
            Folder to upload as an artifact, when `TrackingOptions.artifacts` is set.
        """
        if self._run is not None:
            self._try("finish", lambda: self._finish_wandb(summary, failed, checkpoint))
            self._run = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _finish_wandb(self, summary: dict[str, Any], failed: bool, checkpoint: str | None) -> None:
        import wandb

        self._run.summary.update({k: v for k, v in summary.items() if v is not None})
        if checkpoint and self.options.artifacts:
            artifact = wandb.Artifact(f"checkpoint-{self.trial_id}", type="model")
            artifact.add_dir(checkpoint)
            self._run.log_artifact(artifact, aliases=["best"])
        self._run.finish(exit_code=1 if failed else 0)
