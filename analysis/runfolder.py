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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation.unseen import refuse_seen
from analysis.folds import folds_of, pooled_iou, seed_score, whole_seeds
from analysis.instances.methods import OFFICIAL, WAYS, way_of
from analysis.names import candidate_names
from analysis.places import fetch_run
from trainables.config import RECIPE, STARDIST, TrialConfig, recorded_config
from trainables.data.dataset import DataError, DataSet, index_dataset
from trainables.data.splits import recorded_options
from trainables.errors import CheckpointError
from trainables.extensions import check_registered
from trainables.records.manifest import MANIFEST
from trainables.records.objects import address_of, fetched_folder
from trainables.records.store import StoreError
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
    """A request that cannot be carried out; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Run:
    """A run folder's tables."""

    out: Path
    plan: dict[str, Any]
    leaderboard: pd.DataFrame
    candidates: pd.DataFrame
    history: pd.DataFrame
    configs: dict[str, TrialConfig]
    """Configuration of every trial in the plan."""
    per_image: pd.DataFrame = field(default_factory=pd.DataFrame)

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
    """Name for people; unique within a run."""
    config: TrialConfig
    """Configuration of its best seed."""
    trials: tuple[str, ...]
    """Its trial_ids, best validation data-set IoU first; with folds, those of the best seed first,
    in the order of folds."""
    score: float
    """Mean of that IoU over seeds; with folds, a seed's is over all its folds together."""


def read_run(out: Path) -> Run:
    """Read a run folder.

    Raises
    ------
    AnalysisError
        When `out` is not a run folder, or no trial in it is finished.
    CheckpointError
        When none of its networks can be loaded here.
    """
    try:
        fetch_run(out)
    except StoreError as error:
        raise AnalysisError(f"{address_of(out)}: {error.strerror}") from error
    if not out.is_dir():
        raise AnalysisError(f"{out}: no such folder; give the folder of a sweep (runs/SPACE)")
    if not (out / "plan.json").is_file():
        raise AnalysisError(
            f"{out} is not the folder of a sweep: it has no plan.json; give a folder such as "
            "runs/demo"
        )
    try:
        plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
        configs = {t["trial_id"]: recorded_config(t["config"]) for t in plan["trials"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(
            f"{out / 'plan.json'} cannot be read: {error}; restore it from a copy"
        ) from error
    board = _table(out / "leaderboard.csv")
    if board.empty:
        raise AnalysisError(f"{out}: leaderboard.csv is missing or empty; run the sweep first")
    if not {"trial_id", "status"} <= set(board):
        raise AnalysisError(f"{out / 'leaderboard.csv'} has no column trial_id or status; {_ANEW}")
    missing = set(configs) - set(board["trial_id"])
    if missing:
        raise AnalysisError(
            f"{out / 'leaderboard.csv'} lacks {len(missing)} of the {len(configs)} trials in "
            f"plan.json: the file was cut short; {_ANEW}"
        )
    drawn = [i for i in board["trial_id"] if i not in configs]
    for trial_id in drawn:  # by a search algorithm, while the sweep ran
        config = _config_of(out / "checkpoints" / trial_id)
        if config is not None:
            configs[trial_id] = config
    for name in _NUMBERS:
        board[name] = pd.to_numeric(board[name], errors="coerce") if name in board else np.nan
    tables = {name: _table(out / f"{name}.csv") for name in ("candidates", "history", "per_image")}
    run = Run(out, plan, board, configs=configs, **tables)
    if not run.done():
        if (board["status"] == "done").any():
            raise AnalysisError(
                f"{out}: trials are done, but {out / 'checkpoints'} has none of their checkpoints; "
                "copy them back"
            )
        waiting = board["status"].value_counts().to_dict()
        states = ", ".join(f"{count} {status}" for status, count in waiting.items())
        raise AnalysisError(
            f"{out}: no trial is done yet ({states}); continue with python -m sweep.run ... "
            "--resume"
        )
    if not candidates(run):
        raise AnalysisError(
            f"{out}: no candidate has all of its {folds_of(plan)} folds yet (for example, "
            f"{missing_folds(run)[0]}); run the missing ones with python -m sweep.run ... "
            "--resume, without --only"
        )
    _check_networks(run)
    return run


def _check_networks(run: Run) -> None:
    """Refuse a run all of whose networks are the user's own and not registered by a package."""
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
    """Read a table that a sweep has written; return an empty one where the file does not exist.

    Raises
    ------
    ValueError
        When the file cannot be read or is incomplete: a copy that was cut short would otherwise
        look like a sweep with fewer trials or epochs. The message says where.
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
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} contains zero bytes: the file is damaged")
    if not text.endswith(("\n", "\r")):
        raise ValueError("its last line is incomplete: the file was cut short")
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        names = next(rows)
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        for row in rows:
            if row and len(row) != len(names):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} values instead of {len(names)}: the "
                    "file was cut short"
                )
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}: the file was cut short") from error


def _table(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except ValueError as error:
        raise AnalysisError(f"{path} cannot be read: {error}; {_ANEW}") from error


_ANEW = "run the sweep's command again (it is in plan.json) to rewrite its tables"


def _config_of(folder: Path) -> TrialConfig | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return recorded_config(manifest["config"])
    except (OSError, ValueError, KeyError):
        return None


def open_data(run: Run, data: Path | None) -> tuple[DataSet, DataSet | None]:
    """Open the sweep's data and, if they were given, the other images to measure.

    Parameters
    ----------
    run : Run
    data : Path, optional
        New place of the sweep's data, or another data set whose images are measured instead of
        the sweep's test images.

    Returns
    -------
    dataset : DataSet
        The data set of the sweep.
    other : DataSet or None
        The images to measure, where they are not the sweep's.

    Raises
    ------
    AnalysisError, DataError
        When data are missing, have changed, or are wrong, or the other images show what training
        or validation images show.
    """
    recorded = run.plan["data"]
    options = recorded_options(recorded.get("options", {}))
    if data is not None:
        listed = None
        with suppress(DataError):  # cannot be split, so not the sweep's; other errors come below
            listed = index_dataset(data, options)
        if listed and recorded["fingerprint"] in (listed.fingerprint, listed.old_fingerprint):
            return listed, None
        found = index_dataset(data, divide=False, known=listed)
    try:
        dataset = index_dataset(fetched_folder(recorded["path"]), options)
    except StoreError as error:
        raise AnalysisError(f"the sweep's data: {recorded['path']}: {error.strerror}") from error
    except DataError as error:
        raise AnalysisError(
            f"the sweep's data cannot be opened: {error}; if they were moved, give the new folder "
            "with --data PATH"
        ) from error
    if recorded["fingerprint"] not in (dataset.fingerprint, dataset.old_fingerprint):
        raise AnalysisError(
            f"{dataset.root} has changed since the sweep (fingerprint was "
            f"{recorded['fingerprint'][:12]}, is now {dataset.fingerprint[:12]}); restore it, or "
            "give an unchanged copy with --data PATH"
        )
    if data is None:
        return dataset, None
    refuse_seen(dataset, found)
    return dataset, found


def candidates(run: Run) -> list[Candidate]:
    """Return all candidates with a finished trial, best first by mean validation IoU."""
    alone = run.leaderboard.set_index("trial_id")["val_dataset_iou"]
    sums, folds = pooled_iou(run.per_image), folds_of(run.plan)
    scored: list[tuple[float, list[str]]] = []
    for configs in _done_by_candidate(run).values():
        seeds, _ = whole_seeds(configs, folds)
        scores = [seed_score(ids, sums, alone) for ids in seeds]
        if folds:  # else they are in the order of the leaderboard
            seeds = [seeds[k] for k in sorted(range(len(seeds)), key=lambda k: -scores[k])]
        if seeds:
            scored.append((float(pd.Series(scores).mean()), [i for ids in seeds for i in ids]))
    names = candidate_names(run.configs.values())
    return [
        Candidate(
            names[run.configs[ids[0]].candidate_key()], run.configs[ids[0]], tuple(ids), score
        )
        for score, ids in sorted(scored, key=lambda one: -one[0])
    ]


def _done_by_candidate(run: Run) -> dict[str, dict[str, TrialConfig]]:
    """Return the configurations of each candidate's finished trials, best first."""
    groups: dict[str, dict[str, TrialConfig]] = {}
    for trial_id in run.done():
        config = run.configs[trial_id]
        groups.setdefault(config.candidate_key(), {})[trial_id] = config
    return groups


def missing_folds(run: Run) -> list[str]:
    """Name the seeds that are left out because folds are missing, and these folds."""
    lines = []
    names = candidate_names(run.configs.values())
    for candidate, configs in _done_by_candidate(run).items():
        _, missing = whole_seeds(configs, folds_of(run.plan))
        name = names[candidate]
        for seed, folds in missing.items():
            lines.append(f"{name}, seed {seed}, lacks fold {', '.join(map(str, folds))}")
    return lines


def trial_names(run: Run) -> dict[str, str]:
    """Return the names of all trials by trial_id: their candidate's, seed and fold."""
    names, found = candidate_names(run.configs.values()), {}
    for trial_id, config in run.configs.items():
        fold = "" if config.fold is None else f", fold {config.fold}"
        found[trial_id] = f"{names[config.candidate_key()]}, seed {config.seed}{fold}"
    return found


def choose_candidates(found: Sequence[Candidate], top: int) -> tuple[list[Candidate], list[str]]:
    """Choose what to analyse: the best `top` candidates, plus the best of every other way.

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
            missing.append(f"No trial with '{way}' is finished, so this method is not compared.")
        elif not any(c in chosen for c in of_way):
            chosen.append(of_way[0])
    return sorted(chosen, key=lambda c: -c.score), missing


def unfinished(run: Run) -> list[str]:
    """Return one sentence for each failed trial, and one for all unfinished trials."""
    board = run.leaderboard
    names = trial_names(run)
    lines = []
    for row in board[board["status"] == "failed"].to_dict("records"):
        reason = row.get("error")
        reason = reason if isinstance(reason, str) and reason else "unknown reason"
        lines.append(f"{names.get(row['trial_id'], row['trial_id'])} failed: {reason}")
    rest = board[~board["status"].isin(["done", "failed"])]
    if len(rest):
        shown = ", ".join(names.get(i, i) for i in rest["trial_id"][:5])
        more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
        lines.append(
            f"The sweep is not finished: {len(rest)} of {len(board)} trials are missing "
            f"({shown}{more})."
        )
    lines += [f"{line}; only seeds with all folds are analysed." for line in missing_folds(run)]
    recipe = int(run.plan.get("recipe", 1))
    if recipe != RECIPE:
        lines.append(
            f"The sweep was trained with an earlier version (recipe {recipe}), which used the same "
            "crops and augmentation in every epoch; train it again before you use its numbers."
        )
    lost = set(board.loc[board["status"] == "done", "trial_id"]) - set(run.done())
    lines += [
        f"{names.get(i, i)} is finished, but its checkpoint is missing." for i in sorted(lost)
    ]
    return lines


def command_of(run: Run, trial_id: str) -> str:
    """Return the command that trains one trial of the run again, in its own folder.

    It is the run's first command with the trial's settings: those in which the trials differ, or
    all of them if a search drew the trial or if the space may have trials that the run does not
    know (when it was started with ``--only``). Percentiles of the normalisation are left out,
    because they can only be given in a search space file.
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
            shown = value["mode"] if name == "normalization" else value
            changes[name] = "null" if shown is None else str(shown)
    for name, text in changes.items():
        words += ["--set", f"{name}={text}"]
    if config.fold is not None:
        words += ["--only", f"fold={config.fold}"]
    return shlex.join([*words, "--out", f"runs/again-{trial_id}"])


def _request_words(command: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    """Return a command without the options of its own run (``--out``, ``--seeds``, ``--resume`` and
    ``--only``); the values of ``--set`` by name; and whether it contained ``--only``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out")
    parser.add_argument("--seeds")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", action="extend", nargs="+", default=[])
    parser.add_argument("--set", action="append", default=[])
    parsed, words = parser.parse_known_args(command)
    given = dict(one.split("=", 1) for one in parsed.set if "=" in one)
    return words, given, bool(parsed.only)


def _following(config: TrialConfig) -> set[str]:
    """Return the settings that follow from a trial's other settings and cannot be requested."""
    follows = {"weights_id", "fold", *settings_of_others(config.task)}
    if TASKS[config.task].own_loss is not None:
        follows.add("loss")
    if config.architecture == STARDIST:
        follows |= {"encoder", "encoder_weights", "weight_decay", "precision"}
    return follows
