"""Tables of a run: one row per trial, per candidate, per epoch; best first."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sweep.folds import IOUS as IOUS
from sweep.folds import ReadImages, by_seed, folds_of, in_order
from sweep.ledger import Ledger
from sweep.neighbours import trials_beside
from trainables.config import Normalization, TrialConfig
from trainables.records.files import write_text
from trainables.tasks import TASKS, settings_of_others

COLUMNS = (
    "trial_id",
    "task",
    "architecture",
    "encoder",
    "seed",
    "learning_rate",
    "loss",
    "augmentation",
    "batch_size",
    "status",
    "parameters_m",
    "val_dataset_iou",
    "val_image_iou",
    "test_dataset_iou",
    "test_image_iou",
    "best_epoch",
    "epochs",
    "train_seconds",
    "peak_memory_mb",
    "error",
    "checkpoint",
    "wandb_id",
    "micro_batch",
    "inference",
    "ceiling_iou",
    "candidate",
    "trials_beside",
    "encoder_weights",
    "weights_id",
    "crop_size",
    "weight_decay",
    "lr_schedule",
    "gap",
    "boundary",
    "rays",
    "grid",
    "validate_every",
    "early_stopping",
    "precision",
    "normalization",
    "planned_epochs",
    "fold",
)
CONFIG_COLUMNS = COLUMNS[1:9]
SETTING_COLUMNS = (*CONFIG_COLUMNS, *COLUMNS[COLUMNS.index("encoder_weights") :])
"""All settings of a trial; ``epochs`` is the number that it trained."""
PER_IMAGE_COLUMNS = ("trial_id", "split", "image", "group", "intersection", "union")
HISTORY_COLUMNS = (
    "trial_id",
    "epoch",
    "train_loss",
    "val_loss",
    "val_dataset_iou",
    "val_image_iou",
    "seconds",
    "val_background_iou",
    "val_cell_iou",
    "val_boundary_iou",
)

PAPER_TABLE1 = {
    "Unet": 87.21,
    "UnetPlusPlus": 88.88,
    "MAnet": 87.37,
    "Linknet": 86.76,
    "FPN": 84.01,
    "DeepLabV3": 75.57,
    "DeepLabV3Plus": 83.50,
    "PAN": 80.35,
}
"""Test data-set IoU in percent with ResNet-152, Table 1 of Vasinkova et al. 2024."""


def trial_row(
    trial_id: str, config: Mapping[str, Any], record: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return one trial's row; values that are not known yet are None."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row.update(trial_id=trial_id, status="waiting", error="")
    row.update(_settings(config))
    row["candidate"] = TrialConfig.model_validate(config).candidate_key()
    if record:
        row.update({k: v for k, v in record.get("metrics", {}).items() if k in row})
        row.update(status=record["status"], error=record.get("error", ""))
        row["wandb_id"] = record.get("wandb_id") or None
        if record["status"] == "done":
            row["checkpoint"] = f"checkpoints/{trial_id}"
    return row


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configured settings by column; None where the trial's task does not use them."""
    unused = settings_of_others(config["task"])
    values = {n: None if n in unused else config.get(n) for n in SETTING_COLUMNS}
    values["planned_epochs"] = config["epochs"]
    given = config["normalization"]
    changed = {k: v for k, v in given.items() if k != "mode" and v != _NORMALIZATION[k]}
    values["normalization"] = " ".join(
        [given.get("mode", "image"), *(f"{k}={v}" for k, v in changed.items())]
    )
    return values


_NORMALIZATION = Normalization().model_dump()
_STATUS_ORDER = {"done": 0, "stopped": 1, "running": 2, "waiting": 3, "failed": 4}


def _rank_key(row: Mapping[str, Any]) -> tuple[int, float, str]:
    iou = row["val_dataset_iou"]
    return (_STATUS_ORDER[row["status"]], -(iou if iou is not None else -1.0), row["trial_id"])


def rank(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows by validation data-set IoU only, best first; unfinished and failed trials last."""
    return sorted(rows, key=_rank_key)


def candidates(
    rows: Iterable[Mapping[str, Any]], folds: int = 0, read_images: ReadImages = lambda _: ()
) -> list[dict[str, Any]]:
    """Return mean, sample SD and number of seeds of each IoU for each candidate, best first.

    Trials that differ in nothing but seed and fold are one candidate
    (`trainables.config.TrialConfig.candidate_key`).

    Parameters
    ----------
    rows : iterable of mapping
        The leaderboard's rows.
    folds : int
        Number of folds of the run; 0 without folds. With folds, a seed counts if all of its folds
        are done (`sweep.folds.by_seed`); ``missing_folds`` names the others. Candidates without
        such a seed come last.
    read_images : callable
        Returns the rows of per_image.csv of a finished trial; only used with folds.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    keys = tuple(name for name in SETTING_COLUMNS if name not in ("seed", "fold"))
    for row in rows:
        groups.setdefault(row["candidate"], []).append(row)
    table = []
    for candidate, members in groups.items():
        seeds, lacking = by_seed(members, folds, read_images)
        line: dict[str, Any] = {k: members[0][k] for k in keys[: len(CONFIG_COLUMNS) - 1]}
        line["seeds"] = len(seeds)
        for name in IOUS:
            values = [one[name] for one in seeds]
            line[f"{name}_mean"] = statistics.fmean(values) if values else None
            line[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        line["candidate"] = candidate
        line.update({k: members[0][k] for k in keys if k not in line})
        table.append({**line, "folds": folds or None, "missing_folds": lacking})
    first = "val_dataset_iou_mean"
    return sorted(table, key=lambda r: -(r[first] if r[first] is not None else -1.0))


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def planned(plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return configurations by trial_id: those in the plan, or those that a search drew."""
    configs = {trial["trial_id"]: trial["config"] for trial in plan["trials"]}
    if not plan["trials"]:
        configs.update({trial_id: record["config"] for trial_id, record in records.items()})
    return configs


def write_tables(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Write leaderboard.csv and candidates.csv from the plan and the trials' records.

    Returns
    -------
    list of dict
        The leaderboard's rows, ranked.
    """
    rows, table = _rows_and_candidates(out, plan, records)
    write_text(out / "leaderboard.csv", _csv(COLUMNS, rows))
    names = list(table[0]) if table else []
    write_text(out / "candidates.csv", _csv(names, table))
    return rows


def rows_of(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the leaderboard's rows, ranked, without writing anything."""
    return _rows_and_candidates(out, plan, records)[0]


def _rows_and_candidates(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    configs, folds = planned(plan, records), folds_of(plan)
    rows = rank(trial_row(i, config, records.get(i)) for i, config in configs.items())
    beside = trials_beside(records)
    for row in rows:
        if row["trial_id"] in beside:
            row["trials_beside"] = round(beside[row["trial_id"]], 1)
    ledger = Ledger(out)
    if folds:
        ledger.fetch("per_image")
    table = candidates(rows, folds, partial(ledger.read_per_image, fresh=False))
    return (in_order(rows, table) if folds else rows), table


def write_history(out: Path, ledger: Ledger, trial_ids: Iterable[str]) -> None:
    """Write history.csv: one row per trial and epoch, in the given order of trials."""
    ledger.fetch("history")
    rows = (
        {"trial_id": i, **row} for i in trial_ids for row in ledger.read_history(i, fresh=False)
    )
    write_text(out / "history.csv", _csv(HISTORY_COLUMNS, rows))


def write_per_image(out: Path, ledger: Ledger, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write per_image.csv: pixels of intersection and union in every validation and test image, as
    predicted by each finished trial's best checkpoint.
    """
    ledger.fetch("per_image")
    lines = (
        {"trial_id": row["trial_id"], **one}
        for row in rows
        if row["status"] == "done"
        for one in ledger.read_per_image(row["trial_id"], fresh=False)
    )
    write_text(out / "per_image.csv", _csv(PER_IMAGE_COLUMNS, lines))


def write_all_tables(
    out: Path, plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Write all four tables from the plan and the ledger; return the leaderboard's rows, ranked."""
    ledger = Ledger(out)
    rows = write_tables(out, plan, records)
    write_history(out, ledger, [row["trial_id"] for row in rows])
    write_per_image(out, ledger, rows)
    return rows


def ceilings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each IoU below 1 that a perfect network would reach."""
    lowest: dict[str, float] = {}
    for row in rows:
        if row["ceiling_iou"] is not None and row["ceiling_iou"] < 1:
            what = TASKS[row["task"]].limited_by(row)
            lowest[what] = min(lowest.get(what, 1.0), row["ceiling_iou"])
    return [
        f"A perfect network would reach validation IoU {iou:.4f} with {what}."
        for what, iou in lowest.items()
    ]


def paper_correlation(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return Spearman's rank correlation of the architectures' test IoU with the paper's Table 1.

    None unless all eight architectures finished as 2-class segmentation; several encoders or
    seeds of an architecture are averaged.
    """
    values: dict[str, list[float]] = {name: [] for name in PAPER_TABLE1}
    for row in rows:
        ours = values.get(row["architecture"])  # None of networks that the paper lacks
        if ours is not None and row["status"] == "done" and TASKS[row["task"]].in_table1:
            ours.append(row["test_dataset_iou"])
    if not all(values.values()):
        return None
    from scipy.stats import spearmanr

    means = [statistics.fmean(values[name]) for name in PAPER_TABLE1]
    return float(spearmanr(means, list(PAPER_TABLE1.values())).statistic)
