"""Weights & Biases and TensorBoard, from inside a trial's worker.

Problems with tracking never stop a trial: each one becomes a line in ``sweep.log``, and the trial
continues. It is reported offline if W&B cannot be reached, and not at all if nothing can be
written.

The id of a run in W&B is the trial_id with the sweep's token (``run_token`` in ``plan.json``), so
equal trials of two sweeps are two runs. All runs of a sweep form one group. The job type is the
candidate, which is the same for runs that differ only in the seed.

W&B has every epoch once; its step is the epoch. An attempt that resumes a trial also logs the
earlier epochs (`Tracker.past`): online, only those that the server lacks, since an interruption
loses data that were not uploaded yet; offline, all of them, so that the last folder under
``OUT/wandb`` contains the whole run. ``wandb sync`` uploads that folder; earlier ones are marked as
synced. It does not know what the server has; if that may be a part of a run, `sweep.wandb_upload`
adds the rest. See docs/wandb.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweep.wandb_mode import QUIET, Mode, key_source, seconds, server, wandb_mode, wandb_settings
from trainables.config import EpochRecord
from trainables.records.attempts import ATTEMPT
from trainables.records.files import send
from trainables.records.lasting import LAST
from trainables.records.objects import address_of, place

INIT_TIMEOUT_SECONDS = 30.0
FINISH_TIMEOUT_SECONDS = 120.0
"""Longest wait for uploads at the end of a trial; the rest can be synced later."""
RETRY_ONLINE_SECONDS = 900.0
"""For how long a worker's next trials report offline after W&B could not be reached."""

__all__ = [
    "Mode",
    "Tracker",
    "TrackingOptions",
    "key_source",
    "known_id",
    "options_of",
    "run_id",
    "server",
    "wandb_mode",
    "wandb_settings",
]
logger = logging.getLogger(__name__)

_unreachable_until = 0.0
_REACHED = "reached-the-server"
"""Name of a file in the local folder of a run that was started online."""


@dataclass(frozen=True)
class TrackingOptions:
    """How and where the trials of a sweep report."""

    mode: Mode
    group: str
    """Name of the sweep, unique in the project."""
    folder: str
    """The run folder OUT."""
    token: str = ""
    """Token of the sweep, which separates its runs from equal trials of other sweeps."""
    copied: bool = False
    """Whether the run folder is a copy of another one, whose runs belong to another sweep."""
    project: str = "segsweep"
    entity: str | None = None
    artifacts: bool = False
    """Upload the best checkpoint of every trial."""
    tensorboard: bool = False


def options_of(out: Path, plan: Mapping[str, Any], mode: Mode) -> TrackingOptions:
    """Return how and where the trials of a run report.

    Parameters
    ----------
    out : Path
        The run folder.
    plan : mapping
        Contents of plan.json, which in runs of earlier versions has neither token nor group.
    mode : {"online", "offline", "off"}
    """
    settings = plan["settings"]
    return TrackingOptions(
        mode=mode,
        group=plan.get("wandb_group") or out.name,
        folder=address_of(out),
        token=plan.get("run_token", ""),
        copied="copy_of" in plan,
        project=settings["project"],
        entity=settings["entity"],
        artifacts=settings["artifacts"],
        tensorboard=settings.get("tensorboard", False),
    )


def run_id(trial_id: str, token: str = "") -> str:
    """Return the W&B run id of a trial in the sweep with a token.

    Parameters
    ----------
    trial_id : str
    token : str
        ``run_token`` of plan.json; '' in runs of earlier versions, whose ids were the trial_ids.

    Examples
    --------
    >>> run_id("semantic2-FPN-resnet18-s0-0123456789", "5e1f00d2")
    'semantic2-FPN-resnet18-s0-0123456789-5e1f00d2'
    """
    whole = f"{trial_id}-{token}" if token else trial_id
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", whole):
        return whole
    # W&B does not accept this id
    digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", whole)[:117] + "-" + digest


def known_id(recorded: str, trial_id: str, options: TrackingOptions) -> str:
    """Return the run id that the ledger records for a trial, if the run belongs to this sweep.

    Parameters
    ----------
    recorded : str
        Recorded id; '' if the trial has not reported.
    trial_id : str
    options : TrackingOptions

    Returns
    -------
    str
        '' if there is no id, or if it belongs to the sweep that this one was copied from. Ids of
        earlier versions, without a token, count only in folders that are not copies.
    """
    own = [run_id(trial_id, options.token), *([] if options.copied else [run_id(trial_id)])]
    return recorded if recorded in own else ""


def _short(text: str, most: int = 64) -> str:
    """Shorten a name to the length that W&B accepts; its end, which distinguishes it, is kept."""
    return text if len(text) <= most else text[: most - 11] + text[-11:]


def files_of(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint, without an attempt's token and a state that is kept."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    kept = checkpoint / LAST
    return [path for path in files if path.name != ATTEMPT and kept not in path.parents]


class Tracker:
    """One attempt at a trial, in W&B and TensorBoard; a context manager.

    Parameters
    ----------
    options : TrackingOptions
    trial_id : str
    config : dict
        Values that W&B shows and filters by: all fields of the TrialConfig, and any others.
    parameters_m : float, optional
        Size of the network in millions of parameters.
    resumed : bool
        Tags the run as one that was continued after an interruption.
    known_id : str
        Id of an earlier attempt, which is kept; if '', the result of `run_id` is used.
    fall_back : bool
        Write offline if W&B cannot be reached.

    Attributes
    ----------
    wandb_id : str
        Id of the W&B run, the same for all attempts; '' if there is no run.
    """

    def __init__(
        self,
        options: TrackingOptions,
        trial_id: str,
        config: dict[str, Any],
        *,
        parameters_m: float | None = None,
        resumed: bool = False,
        known_id: str = "",
        fall_back: bool = True,
    ) -> None:
        self.options, self.trial_id = options, trial_id
        self._id = known_id or run_id(trial_id, options.token)
        self.wandb_id = ""
        self._run: Any = None
        self._writer: Any = None
        self._tensorboard = options.tensorboard
        self._epoch = 0
        self._held = 0  # the last step that W&B's server has
        self._whole = False  # whether this attempt tells of every epoch
        self._resumed, self._fall_back = resumed, fall_back
        if parameters_m is not None:
            config = {**config, "parameters_m": parameters_m}
        if options.mode != "off":
            self._start(config, resumed)

    def _start(self, config: dict[str, Any], resumed: bool) -> None:
        global _unreachable_until
        online = self.options.mode == "online" and time.monotonic() >= _unreachable_until
        if online:
            try:
                # W&B itself would ask on a terminal, or raise
                if not key_source(wandb_settings()):
                    raise RuntimeError("no API key is configured on this node; run wandb login")
                self._init("online", config, resumed)
                return
            except Exception as error:
                _unreachable_until = time.monotonic() + RETRY_ONLINE_SECONDS
                self._warn(f"W&B is {'written offline' if self._fall_back else 'off'}", error)
                self._drop_service()
        if self.options.mode == "online" and not self._fall_back:
            return
        try:
            self._init("offline", config, resumed)
        except Exception as error:  # tracking must not harm training, whatever it raises
            self._warn("W&B is off", error)

    def _drop_service(self) -> None:
        """Stop W&B's process, which may be broken and still uses the id of the failed run."""
        try:
            import wandb

            wandb.teardown()
        except (Exception, SystemExit) as error:  # wandb exits where its process was killed
            logger.debug("stopping W&B's service: %s", error)

    def _init(
        self, mode: Literal["online", "offline"], config: dict[str, Any], resumed: bool
    ) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        wanted = {
            **QUIET,
            "init_timeout": seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT_SECONDS),
            "finish_timeout": seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_SECONDS),
            "finish_timeout_raises": True,
        }
        known = wandb.Settings.model_fields
        place(self.options.folder).mkdir(parents=True, exist_ok=True)
        shown = [config.get(name) for name in ("task", "architecture", "encoder")]
        run = wandb.init(
            id=self._id,
            name=self.trial_id.rsplit("-", 1)[0],
            resume="allow" if mode == "online" else None,  # a local file is the whole run
            project=self.options.project,
            entity=self.options.entity,
            group=_short(self.options.group, 128),
            job_type=_short(str(config.get("candidate") or config.get("task", ""))),
            tags=[_short(str(tag)) for tag in (*shown, "resumed" if resumed else "") if tag],
            config=config,
            dir=str(place(self.options.folder)),
            mode=mode,
            reinit="create_new",  # a run that a lost trial left here must not be waited for
            settings=wandb.Settings(**{k: v for k, v in wanted.items() if k in known}),
        )
        self._run, self.wandb_id = run, run.id
        self._held = run.starting_step - 1 if run.resumed else 0
        self._mark(Path(run.settings.sync_dir), mode)
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    def _warn(self, what: str, error: BaseException, hint: str = "") -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        line = f"{what} for trial {self.trial_id}: {reason}{hint}"
        logger.warning("%s", line)
        # what a worker logs is not shown; the sweep's own log is appended to, line by line
        log = place(self.options.folder) / "sweep.log"
        with contextlib.suppress(OSError):
            if log.is_file():
                with log.open("a", encoding="utf-8") as handle:
                    handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _wandb(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run, hint = None, ""
            if self.options.mode == "online" and self._fall_back:
                hint = f"; run python -m sweep.wandb_upload {self.options.folder} to add the rest"
            self._warn("W&B is off", error, hint)
            self._drop_service()

    def _board(self, action: Callable[[Any], None]) -> None:
        if not self._tensorboard:
            return
        try:
            if self._writer is None:
                # not torch.utils.tensorboard: it imports TensorFlow where that is installed,
                # and the two cannot share a process
                from tensorboardX import SummaryWriter

                folder = place(self.options.folder) / "tensorboard" / self.trial_id
                # a resumed trial's epochs replace those that the attempt before had logged
                self._writer = SummaryWriter(
                    str(folder),
                    purge_step=self._epoch if self._resumed else None,
                    filename_suffix=f".{time.time_ns()}",  # attempts within a second
                )
            action(self._writer)
        except Exception as error:
            self._tensorboard, self._writer = False, None
            self._warn("TensorBoard is off", error)

    def epoch(self, record: EpochRecord, **extra: float) -> None:
        """Log the metrics of one epoch; those that are None are left out."""
        self._epoch = record.epoch
        row = {k: v for k, v in {**record.to_dict(), **extra}.items() if v is not None}
        self._whole = self._whole or record.epoch == 1
        if record.epoch > self._held:
            self._wandb(lambda run: run.log(row, step=record.epoch, commit=True))

        def write(writer: Any) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, record.epoch)

        self._board(write)

    def past(self, records: Iterable[EpochRecord]) -> None:
        """Log the epochs before this attempt if they are missing.

        Parameters
        ----------
        records : iterable of EpochRecord
            All epochs in order, starting with the first.
        """
        for record in records:
            if record.epoch > self._epoch:
                self.epoch(record)

    def overlays(self, images: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
        """Log pictures.

        Parameters
        ----------
        images : sequence of (str, ndarray of uint8, shape (H, W, 3))
            Caption and RGB picture.
        """
        if not images:
            return

        def log(run: Any) -> None:
            import wandb

            if self._held > self._epoch:
                return
            pictures = [
                wandb.Image(picture, caption=text, file_type="png") for text, picture in images
            ]
            # a row of their own: the last epoch's is sent
            row = {"overlays": pictures, "epoch": self._epoch}
            run.log(row, step=self._epoch + 1, commit=True)

        def write(writer: Any) -> None:
            for number, (text, picture) in enumerate(images):
                name = f"overlays/{number} {text}"
                writer.add_image(name, picture, self._epoch, dataformats="HWC")

        self._wandb(log)
        self._board(write)

    def finish(
        self, summary: dict[str, Any], *, failed: bool = False, checkpoint: str | None = None
    ) -> bool:
        """Close the run with its final metrics; a second call does nothing.

        Parameters
        ----------
        summary : dict
            Final metrics; those that are None are left out.
        failed : bool
            Mark the run as failed.
        checkpoint : str, optional
            Folder to upload as an artifact if `TrackingOptions.artifacts` is set.

        Returns
        -------
        bool
            Whether W&B, online or offline, has accepted everything.
        """

        def close(run: Any) -> None:
            run.summary.update({k: v for k, v in summary.items() if v is not None})
            problem = self._upload(run, checkpoint)
            self._finish(run, 1 if failed else 0)
            self._supersede(Path(run.settings.sync_dir))
            if problem is not None:
                raise problem

        self._wandb(close)
        taken, self._run = self._run is not None, None
        if self._writer is not None:
            self._board(lambda writer: writer.close())
            self._board(lambda writer: send(place(self.options.folder) / "tensorboard"))
        self._tensorboard, self._writer = False, None
        return taken

    def _upload(self, run: Any, checkpoint: str | None) -> Exception | None:
        if not checkpoint or not self.options.artifacts:
            return None
        try:
            import wandb

            artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
            # from where they lie: W&B would copy them into the home folder, twice
            for path in files_of(Path(checkpoint)):
                name = path.relative_to(checkpoint).as_posix()
                artifact.add_file(str(path), name, policy="immutable", skip_cache=True)
            run.log_artifact(artifact, aliases=["best"])
        except Exception as error:  # the numbers come first
            return error
        return None

    def _mark(self, mine: Path, mode: str) -> None:
        """Keep ``wandb sync`` from uploading again what the server has from an earlier attempt."""
        if mode == "online":
            (mine / _REACHED).touch()
        elif any(mine.parent.glob(f"run-*-{self.wandb_id}/{_REACHED}")):
            (mine / f"run-{self.wandb_id}.wandb.synced").touch()

    def _supersede(self, mine: Path) -> None:
        """Mark local files of earlier attempts as synced, as this attempt contains all of them."""
        if not self._whole:
            return
        for file in mine.parent.glob(f"offline-run-*-{self.wandb_id}/*.wandb"):
            if file.parent != mine:
                file.with_suffix(".wandb.synced").touch()

    def _finish(self, run: Any, exit_code: int) -> None:
        global _unreachable_until
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            # the next trials of this worker shall not wait as long again
            _unreachable_until = time.monotonic() + RETRY_ONLINE_SECONDS
            raise

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish({}, failed=isinstance(error, Exception))
