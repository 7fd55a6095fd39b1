"""Read a run folder, and choose which of its trials to analyse. The folder is the only contract
with `sweep`, which is not imported.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.instances.methods import OFFICIAL, WAYS, way_of
from trainables.config import RECIPE, STARDIST, TrialConfig, recorded_config
from trainables.data.dataset import DataError, DataSet, index_dataset
from trainables.data.splits import recorded_options
from trainables.errors import CheckpointError
from trainables.extensions import check_registered
from trainables.names import network_name
from trainables.records.manifest import MANIFEST
from trainables.tasks import TASKS, settings_of_others

_NUMBERS = (
    "parameters_m",
    "val_dataset_iou",
    "val_image_iou",
    "test_dataset_iou",
    "test_image_iou",
    "best_epoch",
    "epochs",
    "train_seconds",
    "peak_memory_mb",
)


class AnalysisError(ValueError):
    """A request that cannot be served; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Run:
    """A run folder's tables."""

    out: Path
    plan: dict[str, Any]
    leaderboard: pd.DataFrame
    candidates: pd.DataFrame
    history: pd.DataFrame
    configs: dict[str, TrialConfig]
    """Of every trial in the plan."""

    def done(self) -> list[str]:
        """Return the trials with a checkpoint, best first."""
        ids = self.leaderboard.loc[self.leaderboard["status"] == "done", "trial_id"]
        return [i for i in ids if (self.checkpoint(i) / MANIFEST).is_file() and i in self.configs]

    def checkpoint(self, trial_id: str) -> Path:
        """Return the folder of a trial's checkpoint."""
        return self.out / "checkpoints" / trial_id


@dataclass(frozen=True)
class Candidate:
    """All finished seeds of one configuration."""

    name: str
    """For people; unique within a run."""
    config: TrialConfig
    """Of its best seed."""
    trials: tuple[str, ...]
    """Best first, by validation data-set IoU."""
    score: float
    """Mean of that IoU over seeds."""


def read_run(out: Path) -> Run:
    """Read a run folder.

    Raises
    ------
    AnalysisError
        When it is none, or nothing of it is finished.
    CheckpointError
        When nothing of it can be loaded here.
    """
    if not out.is_dir():
        raise AnalysisError(f"{out}: no such folder; give the folder of a sweep (runs/SPACE)")
    if not (out / "plan.json").is_file():
        raise AnalysisError(f"{out} is not the folder of a sweep: it has no plan.json")
    try:
        plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        configs = {t["trial_id"]: recorded_config(t["config"]) for t in plan["trials"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{out / 'plan.json'} cannot be read: {error}") from error
    board = _table(out / "leaderboard.csv")
    if board.empty:
        raise AnalysisError(f"{out}: leaderboard.csv is missing or empty; start the sweep first")
    if not {"trial_id", "status"} <= set(board):
        raise AnalysisError(f"{out / 'leaderboard.csv'} has no column trial_id or status")
    missing = set(configs) - set(board["trial_id"])
    if missing:
        raise AnalysisError(
            f"{out / 'leaderboard.csv'} lacks {len(missing)} of the {len(configs)} trials of "
            f"plan.json: it was cut short; {_ANEW}"
        )
    drawn = [i for i in board["trial_id"] if i not in configs]
    for trial_id in drawn:  # by a search algorithm, while the sweep ran
        config = _config_of(out / "checkpoints" / trial_id)
        if config is not None:
            configs[trial_id] = config
    for name in _NUMBERS:
        board[name] = pd.to_numeric(board[name], errors="coerce") if name in board else np.nan
    run = Run(
        out, plan, board, _table(out / "candidates.csv"), _table(out / "history.csv"), configs
    )
    if not run.done():
        if (board["status"] == "done").any():
            raise AnalysisError(
                f"{out}: trials are done, but none of their checkpoints is in {out / 'checkpoints'}"
            )
        waiting = board["status"].value_counts().to_dict()
        states = ", ".join(f"{count} {status}" for status, count in waiting.items())
        raise AnalysisError(
            f"{out}: no trial is done yet ({states}); python -m sweep.run ... --resume goes on"
        )
    _check_networks(run)
    return run


def _check_networks(run: Run) -> None:
    """Refuse a run that has no network but own ones that no package registers."""
    problem: CheckpointError | None = None
    for trial_id in run.done():
        try:
            check_registered(run.configs[trial_id].architecture, run.checkpoint(trial_id))
        except CheckpointError as error:
            problem = error
        else:
            return
    if problem is not None:
        raise problem


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that a sweep has written; an empty one where it is not there.

    Raises
    ------
    ValueError
        When it cannot be read, or is not whole: a copy that was cut short would otherwise pass for
        a sweep with fewer trials or epochs. The message says where.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark before it
    except FileNotFoundError:
        return pd.DataFrame()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if not text.strip():
        return pd.DataFrame()
    _check_whole(text)
    return pd.read_csv(io.StringIO(text))


def _check_whole(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1} holds NUL bytes")
    if not text.endswith(("\n", "\r")):
        raise ValueError("its last line has no end: it was cut short")
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        names = next(rows)
        if len(set(names)) < len(names):
            raise ValueError("a column is there twice")
        for row in rows:
            if row and len(row) != len(names):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} fields instead of {len(names)}: it was "
                    "cut short"
                )
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}: it was cut short") from error


def _table(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except ValueError as error:
        raise AnalysisError(f"{path} cannot be read: {error}; {_ANEW}") from error


_ANEW = "the sweep's own command (it is in plan.json), run again, writes its tables anew"


def _config_of(folder: Path) -> TrialConfig | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return recorded_config(manifest["config"])
    except (OSError, ValueError, KeyError):
        return None


def open_data(run: Run, data: Path | None) -> tuple[DataSet, DataSet | None]:
    """Open the sweep's data, and the images to measure where they are others.

    Parameters
    ----------
    run : Run
    data : Path, optional
        Where the sweep's data lie now, or another data set whose images are to be measured
        instead of the sweep's test split.

    Returns
    -------
    dataset : DataSet
        The sweep's own.
    other : DataSet or None

    Raises
    ------
    AnalysisError, DataError
        When data are missing, were changed, or are wrong.
    """
    told = run.plan["data"]
    options = recorded_options(told.get("options", {}))
    if data is not None:
        listed = None
        with suppress(DataError):  # not divisible, so not the sweep's; all else is said below
            listed = index_dataset(data, options)
        if listed and told["fingerprint"] in (listed.fingerprint, listed.old_fingerprint):
            return listed, None
        found = index_dataset(data, divide=False, known=listed)
    try:
        dataset = index_dataset(told["path"], options)
    except DataError as error:
        raise AnalysisError(
            f"the sweep's data cannot be opened: {error}; say where they are now with --data PATH"
        ) from error
    if told["fingerprint"] not in (dataset.fingerprint, dataset.old_fingerprint):
        raise AnalysisError(
            f"{dataset.root} was changed since the sweep (fingerprint {dataset.fingerprint[:12]}, "
            f"then {told['fingerprint'][:12]}); restore it, or say where the old one is: --data"
        )
    if data is None:
        return dataset, None
    if {i.stem for i in found.items} & set(dataset.split["train"]) and found.root == dataset.root:
        raise AnalysisError(f"{data} holds images that the networks were trained on")
    return dataset, found


def candidates(run: Run) -> list[Candidate]:
    """Return all candidates with a finished trial, best first by mean validation IoU."""
    score = run.leaderboard.set_index("trial_id")["val_dataset_iou"]
    groups: dict[str, list[str]] = {}
    for trial_id in run.done():
        groups.setdefault(run.configs[trial_id].candidate_key(), []).append(trial_id)
    ranked = sorted(groups.values(), key=lambda ids: -float(score[ids].mean()))
    taken: dict[str, int] = {}
    found = []
    for ids in ranked:
        config = run.configs[ids[0]]
        name = method_name(config)
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name += f" ({taken[name]})"
        found.append(Candidate(name, config, tuple(ids), float(score[ids].mean())))
    return found


def method_name(config: TrialConfig) -> str:
    """Return a candidate's name with its way of making instances.

    Examples
    --------
    >>> method_name(TrialConfig(architecture="Unet", encoder="resnet18"))
    'U-Net, ResNet-18, 2-class'
    """
    return network_name(config.architecture, config.encoder, config.task)


def choose_candidates(found: Sequence[Candidate], top: int) -> tuple[list[Candidate], list[str]]:
    """Choose what to analyse: the best `top` candidates, and the best of every way besides.

    Returns
    -------
    chosen : list of Candidate
        Best first.
    missing : list of str
        Ways without a finished trial, one sentence each.
    """
    chosen = list(found[:top])
    missing = []
    for way in (*(way.name for way in WAYS.values()), OFFICIAL):
        of_way = [c for c in found if way_of(c.config) == way]
        if not of_way:
            missing.append(f"No trial of the way '{way}' is done: it cannot be compared.")
        elif not any(c in chosen for c in of_way):
            chosen.append(of_way[0])
    return sorted(chosen, key=lambda c: -c.score), missing


def unfinished(run: Run) -> list[str]:
    """Return one sentence for every trial that failed, and one for those not finished."""
    board = run.leaderboard
    names = {i: f"{method_name(c)}, seed {c.seed}" for i, c in run.configs.items()}
    lines = []
    for row in board[board["status"] == "failed"].to_dict("records"):
        reason = row.get("error")
        reason = reason if isinstance(reason, str) and reason else "reason not known"
        lines.append(f"{names.get(row['trial_id'], row['trial_id'])} failed: {reason}")
    rest = board[~board["status"].isin(["done", "failed"])]
    if len(rest):
        shown = ", ".join(names.get(i, i) for i in rest["trial_id"][:5])
        more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
        lines.append(
            f"The sweep is not finished: {len(rest)} of {len(board)} trials are missing "
            f"({shown}{more})."
        )
    recipe = int(run.plan.get("recipe", 1))
    if recipe != RECIPE:
        lines.append(
            f"The sweep was trained by recipe {recipe} of an earlier version, in which every epoch "
            "saw the same crops and augmentation; train it again before its figures are used."
        )
    lost = set(board.loc[board["status"] == "done", "trial_id"]) - set(run.done())
    lines += [f"{names.get(i, i)} is done, but its checkpoint is gone." for i in sorted(lost)]
    return lines


def command_of(run: Run, trial_id: str) -> str:
    """Return the command that trains one trial of the run again, in a folder of its own.

    It is the run's first command, with the trial's settings: those in which the trials differ, or
    all of them where the space may hold trials that the run does not know (it was started with
    ``--only``) and where a search drew the trial. Percentiles of the normalisation are not among
    them, because they can only be given in a search space file.
    """
    words, given, left_out = _request_words(shlex.split(run.plan["commands"][0]))
    config = run.configs[trial_id]
    mine, follows = config.model_dump(mode="json"), _following(config)
    others = [other.model_dump(mode="json") for other in run.configs.values()]
    drawn = run.plan.get("key", {}).get("search", "grid") != "grid"
    changes = {name: text for name, text in given.items() if name not in follows}
    if drawn:
        changes["search"] = "grid"
    for name, value in mine.items():
        if name in follows:
            continue
        if left_out or drawn or any(other[name] != value for other in others):
            told = value["mode"] if name == "normalization" else value
            changes[name] = "null" if told is None else str(told)
    for name, text in changes.items():
        words += ["--set", f"{name}={text}"]
    return shlex.join([*words, "--out", f"runs/again-{trial_id}"])


def _request_words(command: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    """Return a command without what belongs to its run alone (``--out``, ``--seeds``, ``--resume``
    and ``--only``); what it sets, by name; and whether it held ``--only``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out")
    parser.add_argument("--seeds")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", action="extend", nargs="+", default=[])
    parser.add_argument("--set", action="append", default=[])
    told, words = parser.parse_known_args(command)
    given = dict(one.split("=", 1) for one in told.set if "=" in one)
    return words, given, bool(told.only)


def _following(config: TrialConfig) -> set[str]:
    """Return the settings that follow from a trial's others, and are refused as a request."""
    follows = {"weights_id", *settings_of_others(config.task)}
    if TASKS[config.task].own_loss is not None:
        follows.add("loss")
    if config.architecture == STARDIST:
        follows |= {"encoder", "encoder_weights", "weight_decay", "precision"}
    return follows
