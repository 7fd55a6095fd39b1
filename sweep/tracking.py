"""Weights & Biases and TensorBoard, from inside a trial's worker.

Tracking never harms a trial: whatever goes wrong is one warning in the log; the trial goes on,
reported offline where W&B cannot be reached and unreported where nothing can be written.

A run's id in W&B is the trial's, and the sweep's token (``run_token`` in ``plan.json``): equal
trials of two sweeps are two runs. All runs of a sweep are one group; the job type is the candidate,
equal for runs that differ in nothing but the seed.

W&B holds every epoch once: its step is the epoch. An attempt that resumes a trial logs the epochs
before it (`Tracker.past`), too: online, those that the server lacks, as an interruption loses
what was not uploaded yet; offline, all of them, so that the last folder under ``OUT/wandb``
is the whole run. ``wandb sync`` uploads that; the folders before it count as synced. A run that
the server did not take to its end is written once more, offline. See docs/wandb.md.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import logging
import netrc
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from trainables.config import EpochRecord

Mode = Literal["online", "offline", "off"]

INIT_TIMEOUT_SECONDS = 30.0
FINISH_TIMEOUT_SECONDS = 120.0
"""Longest wait for uploads at a trial's end; what is left then can be synced later."""
RETRY_ONLINE_SECONDS = 900.0
"""After W&B could not be reached, a worker's next trials report offline for so long."""

logger = logging.getLogger(__name__)

_MODES: dict[str, Mode] = {
    "online": "online", "run": "online", "shared": "online",
    "offline": "offline", "dryrun": "offline", "disabled": "off", "off": "off",
}  # fmt: skip
_unreachable_until = 0.0


@dataclass(frozen=True)
class TrackingOptions:
    """Where a sweep's trials report."""

    mode: Mode
    group: str
    """The sweep's name, of its own in the project."""
    folder: str
    """The run folder OUT."""
    token: str = ""
    """Of the sweep: keeps its runs apart from those of equal trials in other sweeps."""
    project: str = "segsweep"
    entity: str | None = None
    artifacts: bool = False
    """Upload the best checkpoint of every trial."""
    tensorboard: bool = False


def wandb_settings() -> dict[str, str]:
    """Return what W&B's settings files say: the user's, then the current folder's."""
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([Path(user).expanduser() / "settings", Path("wandb/settings")])
    except (OSError, configparser.Error):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def server(settings: dict[str, str]) -> str:
    """Return the address of the W&B server that runs are reported to."""
    return os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"


def key_source(settings: dict[str, str]) -> str:
    """Return where W&B would find credentials, without asking anybody; empty: nowhere."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return f"{name} in the environment"
    if settings.get("api_key"):
        return "api_key in W&B's settings file"
    host = urlsplit(server(settings)).netloc or "api.wandb.ai"
    try:
        file = os.environ.get("NETRC")
        known = netrc.netrc(Path(file).expanduser() if file else None)
    except (OSError, netrc.NetrcParseError):
        return ""
    return (file or "~/.netrc") if known.authenticators(host) is not None else ""


def _key_is_configured(settings: dict[str, str]) -> bool:
    return bool(key_source(settings))


def wandb_mode(requested: str | None) -> Mode:
    """Decide how to use W&B, without network, prompts or importing it.

    Parameters
    ----------
    requested : {"online", "offline", "off"} or None
        None: what ``WANDB_MODE`` says, else ``mode`` of W&B's settings files (``wandb offline``),
        else online when an API key is configured (``WANDB_API_KEY``, netrc, settings), else
        offline.

    Raises
    ------
    sweep.plan.RequestError
        When the mode is not known.
    """
    settings = wandb_settings()
    asked = requested or os.environ.get("WANDB_MODE") or settings.get("mode")
    if not asked:
        return "online" if _key_is_configured(settings) else "offline"
    if asked not in _MODES:
        from sweep.plan import RequestError

        source = "--wandb" if requested else "WANDB_MODE"
        raise RequestError(f"{source}={asked}: choose online, offline or off")
    return _MODES[asked]


def run_id(trial_id: str, token: str = "") -> str:
    """Return the W&B run id of a trial in the sweep that has a token.

    Parameters
    ----------
    trial_id : str
    token : str
        ``run_token`` of plan.json; empty in runs of earlier versions, whose ids were the trials'.

    Examples
    --------
    >>> run_id("semantic2-FPN-resnet18-s0-0123456789", "5e1f00d2")
    'semantic2-FPN-resnet18-s0-0123456789-5e1f00d2'
    """
    whole = f"{trial_id}-{token}" if token else trial_id
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", whole):
        return whole
    # what W&B would not take
    digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", whole)[:117] + "-" + digest


def _short(text: str, most: int = 64) -> str:
    """Shorten a name to what W&B takes; its end, which tells it from others, stays."""
    return text if len(text) <= most else text[: most - 11] + text[-11:]


def _seconds(variable: str, default: float) -> float:
    """Return what a variable of W&B says; the default where it says nothing."""
    with contextlib.suppress(ValueError):
        return float(os.environ.get(variable, ""))
    return default


class Tracker:
    """One attempt at a trial, in W&B and TensorBoard; a context manager.

    Parameters
    ----------
    options : TrackingOptions
    trial_id : str
    config : dict
        Shown and filtered by in W&B: all fields of the TrialConfig, and more as one likes.
    parameters_m : float, optional
        Size of the network in millions of parameters.
    resumed : bool
        Tags the run as one that went on after an interruption.
    known_id : str
        Id under which an earlier attempt reported, which is kept; empty: `run_id` gives it.

    Attributes
    ----------
    wandb_id : str
        Id of the W&B run, the same for all attempts; empty where there is none.
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
    ) -> None:
        self.options, self.trial_id = options, trial_id
        self._id = known_id or run_id(trial_id, options.token)
        self.wandb_id = ""
        self._run: Any = None
        self._writer: Any = None
        self._tensorboard = options.tensorboard
        self._epoch = 0
        self._held = 0  # the last step that W&B's server has
        self._online = self._broken = False
        self._resumed = resumed
        self._rows: list[dict[str, Any]] = []
        self._pictures: list[tuple[str, NDArray[np.uint8]]] = []
        if parameters_m is not None:
            config = {**config, "parameters_m": parameters_m}
        self._config = config
        if options.mode != "off":
            self._start(config, resumed)

    def _start(self, config: dict[str, Any], resumed: bool) -> None:
        global _unreachable_until
        online = self.options.mode == "online" and time.monotonic() >= _unreachable_until
        if online:
            try:
                # W&B itself would ask on a terminal, or raise
                if not _key_is_configured(wandb_settings()):
                    raise RuntimeError("no API key is configured on this node; run wandb login")
                self._init("online", config, resumed)
                return
            except Exception as error:
                _unreachable_until = time.monotonic() + RETRY_ONLINE_SECONDS
                self._warn("W&B is written offline", error)
                self._drop_service()
        try:
            self._init("offline", config, resumed)
        except Exception as error:  # tracking must not harm training, whatever it raises
            self._warn("W&B is off", error)

    def _drop_service(self) -> None:
        """Stop W&B's process: it may be broken, and holds the id of the run that failed."""
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
            "silent": True,
            "symlink": False,  # "latest-run" means nothing where trials run side by side
            "console": "off",
            "disable_git": True,
            "disable_code": True,
            "save_code": False,
            "init_timeout": _seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT_SECONDS),
            "finish_timeout": _seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_SECONDS),
            "finish_timeout_raises": True,
            # a list of packages and machine data per trial cost ten times the rest; plan.json
            # has the versions once
            "x_disable_stats": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
        }
        known = wandb.Settings.model_fields
        Path(self.options.folder).mkdir(parents=True, exist_ok=True)
        names = ("task", "architecture", "encoder")
        tags = [_short(str(config[name])) for name in names if config.get(name)]
        run = wandb.init(
            id=self._id,
            name=self.trial_id.rsplit("-", 1)[0],
            # a local file is the whole run: uploading it twice changes nothing
            resume="allow" if mode == "online" else None,
            project=self.options.project,
            entity=self.options.entity,
            group=self.options.group[:128],
            job_type=_short(str(config.get("candidate") or config.get("task", ""))),
            tags=[*tags, *(["resumed"] if resumed else [])],
            config=config,
            dir=self.options.folder,
            mode=mode,
            # a run that a lost trial left in this process must not be waited for
            reinit="create_new",
            settings=wandb.Settings(**{k: v for k, v in wanted.items() if k in known}),
        )
        self._run, self.wandb_id, self._online = run, run.id, mode == "online"
        self._held = run.starting_step - 1 if run.resumed else 0
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    def _warn(self, what: str, error: BaseException) -> None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        logger.warning("%s for trial %s: %s", what, self.trial_id, reason)

    def _wandb(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run, self._broken = None, self._online
            self._warn("W&B is written offline" if self._online else "W&B is off", error)
            self._drop_service()

    def _board(self, action: Callable[[Any], None]) -> None:
        if not self._tensorboard:
            return
        try:
            if self._writer is None:
                # not torch.utils.tensorboard: it imports TensorFlow where that is installed,
                # and the two cannot share a process
                from tensorboardX import SummaryWriter

                folder = Path(self.options.folder, "tensorboard", self.trial_id)
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
        """Log one epoch's figures against ``epoch``; those that are None are left out."""
        self._epoch = record.epoch
        row = {k: v for k, v in {**record.to_dict(), **extra}.items() if v is not None}
        self._rows.append(row)
        if record.epoch > self._held:
            self._wandb(lambda run: run.log(row, step=record.epoch, commit=True))

        def write(writer: Any) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, record.epoch)

        self._board(write)

    def past(self, records: Iterable[EpochRecord]) -> None:
        """Log the epochs before those of this attempt, as far as they are missing.

        Parameters
        ----------
        records : iterable of EpochRecord
            From the first epoch on, in order.
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
        self._pictures = list(images)

        def write(writer: Any) -> None:
            for number, (text, picture) in enumerate(images):
                name = f"overlays/{number} {text}"
                writer.add_image(name, picture, self._epoch, dataformats="HWC")

        self._wandb(self._log_pictures)
        self._board(write)

    def _log_pictures(self, run: Any) -> None:
        if not self._pictures or self._held > self._epoch:
            return
        import wandb

        pictures = [
            wandb.Image(picture, caption=text, file_type="png") for text, picture in self._pictures
        ]
        # a row of their own: the last epoch's is sent
        row = {"overlays": pictures, "epoch": self._epoch}
        run.log(row, step=self._epoch + 1, commit=True)

    def finish(
        self, summary: dict[str, Any], *, failed: bool = False, checkpoint: str | None = None
    ) -> None:
        """Close the run with its final figures; a second call does nothing.

        Parameters
        ----------
        summary : dict
            Final figures; those that are None are left out.
        failed : bool
            Mark the run as failed.
        checkpoint : str, optional
            Folder to upload as an artifact, where `TrackingOptions.artifacts` asks for it.
        """

        def close(run: Any) -> None:
            run.summary.update({k: v for k, v in summary.items() if v is not None})
            if checkpoint and self.options.artifacts:
                import wandb

                artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
                artifact.add_dir(checkpoint)
                run.log_artifact(artifact, aliases=["best"])
            self._finish(run, 1 if failed else 0)
            self._supersede(Path(run.settings.sync_dir))

        self._wandb(close)
        if self._broken:
            self._write_again()
            self._wandb(close)
        self._run, self._broken = None, False
        if self._writer is not None:
            self._board(lambda writer: writer.close())
        self._tensorboard, self._writer = False, None

    def _write_again(self) -> None:
        """Write the whole run offline: what the server holds of it is not known."""
        self._broken = self._online = False
        try:
            self._init("offline", self._config, self._resumed)
        except Exception as error:
            self._warn("W&B is off", error)

        def log(run: Any) -> None:
            for row in self._rows:
                run.log(row, step=row["epoch"], commit=True)
            self._log_pictures(run)

        self._wandb(log)

    def _supersede(self, mine: Path) -> None:
        """Mark local files of earlier attempts as synced: this attempt holds all of them."""
        if not self._rows or self._rows[0]["epoch"] != 1:
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
