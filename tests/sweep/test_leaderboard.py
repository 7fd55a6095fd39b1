"""The tables of a run, from plans and records by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from sweep.leaderboard import (
    COLUMNS,
    HISTORY_COLUMNS,
    PAPER_TABLE1,
    PER_IMAGE_COLUMNS,
    candidates,
    ceilings,
    paper_correlation,
    planned,
    rank,
    trial_row,
    write_all_tables,
    write_tables,
)
from sweep.ledger import Ledger
from trainables.config import EpochRecord, ImageCounts, Normalization, TrialConfig, TrialResult

IOUS = ("val_dataset_iou", "val_image_iou", "test_dataset_iou", "test_image_iou")


def dumped(**fields: Any) -> dict[str, Any]:
    return TrialConfig(**fields).model_dump(mode="json")


def row(trial_id: str, *ious: float, status: str = "done", **fields: Any) -> dict[str, Any]:
    """Make a row; one without figures waits."""
    if not ious:
        return trial_row(trial_id, dumped(**fields), None)
    record = {"status": status, "metrics": dict(zip(IOUS, ious, strict=True))}
    return trial_row(trial_id, dumped(**fields), record)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_trial_that_waits_has_its_settings_and_nothing_else() -> None:
    config = TrialConfig(encoder="vgg19", seed=3, epochs=7, early_stopping=2, rays=64, gap=1)
    found = trial_row("t", config.model_dump(mode="json"), None)
    assert tuple(found) == COLUMNS
    settings = {
        "trial_id": "t",
        "status": "waiting",
        "error": "",
        "task": "semantic2",
        "architecture": "Unet",
        "encoder": "vgg19",
        "seed": 3,
        "learning_rate": 1e-3,
        "loss": "dice",
        "augmentation": "light",
        "batch_size": 8,
        "candidate": config.candidate_key(),
        "encoder_weights": "none",
        "weights_id": "",
        "crop_size": 224,
        "weight_decay": 1e-4,
        "lr_schedule": "cosine",
        "gap": 1,
        "validate_every": 1,
        "early_stopping": 2,
        "precision": "auto",
        "normalization": "image",
        "planned_epochs": 7,
    }
    assert {k: v for k, v in found.items() if v is not None} == settings


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("semantic2", {"gap": 0, "boundary": None, "rays": None, "grid": None}),
        ("semantic3", {"gap": None, "boundary": "outline", "rays": None, "grid": None}),
        ("stardist", {"gap": None, "boundary": None, "rays": 32, "grid": 2}),
    ],
)
def test_settings_of_other_tasks_are_left_empty(task: str, shown: dict[str, Any]) -> None:
    found = trial_row("t", dumped(task=task), None)
    assert {name: found[name] for name in shown} == shown


def test_a_record_fills_in_what_it_knows() -> None:
    metrics = {"val_dataset_iou": 0.5, "epochs": 3, "class_iou": {"val": {}}, "inference": "whole"}
    record = {"status": "done", "metrics": metrics, "wandb_id": "w", "config": {}}
    found = trial_row("t", dumped(epochs=5), record)
    assert found["status"] == "done"
    assert found["checkpoint"] == "checkpoints/t"
    assert found["wandb_id"] == "w"
    assert (found["epochs"], found["planned_epochs"]) == (3, 5)
    assert (found["val_dataset_iou"], found["inference"]) == (0.5, "whole")
    assert found["error"] == ""
    assert "class_iou" not in found
    assert "config" not in found
    failed = trial_row("t", dumped(), {"status": "failed", "error": "why", "wandb_id": ""})
    assert (failed["status"], failed["error"]) == ("failed", "why")
    assert failed["wandb_id"] is None
    assert failed["checkpoint"] is None
    assert failed["val_dataset_iou"] is None


def test_normalization_names_what_is_not_the_default() -> None:
    def shown(**fields: Any) -> Any:
        return trial_row("t", dumped(normalization=Normalization(**fields)), None)["normalization"]

    assert shown() == "image"
    assert shown(mode="dataset") == "dataset"
    assert shown(mode="dataset", low=2.0, std=0.5) == "dataset low=2.0 std=0.5"
    assert shown(high=99.0, mean=0.1) == "image high=99.0 mean=0.1"


def test_a_normalization_recorded_before_there_were_two() -> None:
    config = dumped()
    del config["normalization"]["mode"]
    assert trial_row("t", config, None)["normalization"] == "image"


def test_rows_are_ranked_by_state_then_validation_then_name() -> None:
    ranked = rank(
        [
            row("f", 0.9, 0.9, 0.9, 0.9, status="failed"),
            row("w"),
            row("r", 0.8, 0.8, 0.8, 0.8, status="running"),
            row("s", 0.1, 0.1, 0.1, 0.1, status="stopped"),
            row("d0", 0.0, 0.9, 0.9, 0.9),
            row("d2", 0.5, 0.1, 0.9, 0.1),
            row("d1", 0.5, 0.9, 0.1, 0.9),
            {**row("dn", 0.5, 0.5, 0.5, 0.5), "val_dataset_iou": None},
        ]
    )
    names = [one["trial_id"] for one in ranked]
    assert names == ["d1", "d2", "d0", "dn", "s", "r", "w", "f"]


def test_a_candidates_mean_and_spread_are_over_its_finished_seeds() -> None:
    table = candidates(
        [
            row("a0", 0.5, 0.6, 0.7, 0.8, encoder="vgg19"),
            row("b0", 0.8, 0.1, 0.2, 0.3),
            row("b1", 0.6, 0.3, 0.2, 0.7, seed=1),
            row("b2", 0.9, 0.9, 0.9, 0.9, seed=2, status="failed"),
            row("c0", loss="focal"),
            row("z0", 0.0, 0.0, 0.0, 0.0, loss="jaccard"),
        ]
    )
    assert [one["encoder"] for one in table] == ["resnet18", "vgg19", "resnet18", "resnet18"]
    b, a, z, c = table
    assert [one["seeds"] for one in table] == [2, 1, 1, 0]
    assert [b[f"{n}_mean"] for n in IOUS] == pytest.approx([0.7, 0.2, 0.2, 0.5])
    # the sample SD of two values is their difference over the root of 2
    assert [b[f"{n}_sd"] for n in IOUS] == pytest.approx([x / 2**0.5 for x in (0.2, 0.2, 0, 0.4)])
    assert [a[f"{n}_sd"] for n in IOUS] == [None] * 4
    assert [a[f"{n}_mean"] for n in IOUS] == [0.5, 0.6, 0.7, 0.8]
    assert [c[f"{n}_mean"] for n in IOUS] == [None] * 4
    assert z["val_dataset_iou_mean"] == 0, "ranked before what has not finished"
    assert c["loss"] == "focal"
    assert b["candidate"] == TrialConfig().candidate_key()


def test_a_candidates_row_begins_with_what_it_is_and_how_good() -> None:
    (one,) = candidates([row("b1", 0.6, 0.3, 0.2, 0.7, seed=1)])
    names = list(one)
    assert names[:8] == [
        "task",
        "architecture",
        "encoder",
        "learning_rate",
        "loss",
        "augmentation",
        "batch_size",
        "seeds",
    ]
    figures = [f"{name}_{what}" for name in IOUS for what in ("mean", "sd")]
    assert names[8:17] == [*figures, "candidate"]
    assert names[17:19] == ["encoder_weights", "weights_id"]
    assert names[-3:] == ["planned_epochs", "folds", "missing_folds"]
    assert not {"seed", "fold"} & set(names)
    assert (one["folds"], one["missing_folds"]) == (None, "")
    assert len(set(names)) == len(names)


def test_what_a_search_drew_is_known_from_its_records() -> None:
    listed = {"trials": [{"trial_id": "a", "config": {"x": 1}}]}
    records = {"a": {"config": {"x": 2}}, "b": {"config": {"x": 3}}}
    assert planned(listed, records) == {"a": {"x": 1}}
    assert planned({"trials": []}, records) == {"a": {"x": 2}, "b": {"x": 3}}


def test_the_files_of_a_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    history = (
        EpochRecord(1, 0.5, 0.4, 0.7, 0.7, 1.0),
        EpochRecord(2, 0.4, 0.4, 0.8, 0.6, 1.5, 0.9, 0.8, 0.7),
    )
    figures: dict[str, Any] = dict(zip(IOUS, (0.8, 0.6, 0.5, 0.4)))
    result = TrialResult(
        best_epoch=2,
        epochs=2,
        parameters_m=1.0,
        train_seconds=2.5,
        peak_memory_mb=9.0,
        checkpoint="",
        history=history,
        per_image=(ImageCounts("val", "i 1", "g", 8, 10), ImageCounts("test", "i2", "h", 1, 2)),
        **figures,
    )
    first, second = TrialConfig(), TrialConfig(seed=1)
    ledger.write_history("a", [{"epoch": 1, "train_loss": 0.9, "other": 1}])
    ledger.write("a", first, "running")
    ledger.write_done(second, "b", result)
    trials = [
        {"trial_id": name, "config": one.model_dump(mode="json")}
        for name, one in (("a", first), ("b", second))
    ]
    rows = write_all_tables(tmp_path, {"trials": trials}, ledger.read())
    assert [one["trial_id"] for one in rows] == ["b", "a"]

    board = read(tmp_path / "leaderboard.csv")
    assert tuple(board[0]) == COLUMNS
    assert [(one["trial_id"], one["status"]) for one in board] == [("b", "done"), ("a", "running")]
    assert board[0]["val_dataset_iou"] == "0.8"
    assert board[1]["val_dataset_iou"] == ""
    (candidate,) = read(tmp_path / "candidates.csv")
    assert (candidate["seeds"], candidate["test_image_iou_mean"]) == ("1", "0.4")
    lines = read(tmp_path / "history.csv")
    assert tuple(lines[0]) == HISTORY_COLUMNS
    assert [(one["trial_id"], one["epoch"], one["train_loss"]) for one in lines] == [
        ("b", "1", "0.5"),
        ("b", "2", "0.4"),
        ("a", "1", "0.9"),
    ]
    assert (lines[1]["val_cell_iou"], lines[2]["val_cell_iou"]) == ("0.8", "")
    images = read(tmp_path / "per_image.csv")
    assert tuple(images[0]) == PER_IMAGE_COLUMNS
    assert [tuple(one.values()) for one in images] == [
        ("b", "val", "i 1", "g", "8", "10"),
        ("b", "test", "i2", "h", "1", "2"),
    ]
    for name in ("leaderboard", "candidates", "history", "per_image"):
        assert b"\r" not in (tmp_path / f"{name}.csv").read_bytes()


def test_counts_of_images_are_those_of_finished_trials(tmp_path: Path) -> None:
    """What an earlier attempt left does not count as long as the trial has not ended."""
    ledger = Ledger(tmp_path)
    ledger.write("a", TrialConfig(), "running")
    (ledger.folder / "per_image").mkdir()
    (ledger.folder / "per_image" / "a.json").write_text('[{"split": "val"}]')
    plan = {"trials": [{"trial_id": "a", "config": dumped()}]}
    write_all_tables(tmp_path, plan, ledger.read())
    assert read(tmp_path / "per_image.csv") == []


def test_a_run_without_trials_has_empty_tables(tmp_path: Path) -> None:
    assert write_tables(tmp_path, {"trials": []}, {}) == []
    assert (tmp_path / "leaderboard.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (tmp_path / "candidates.csv").read_text() == "\n"


def test_ceilings_name_the_lowest_of_each_kind() -> None:
    def made(iou: float | None, **fields: Any) -> dict[str, Any]:
        return {**trial_row("t", dumped(**fields), None), "ceiling_iou": iou}

    star: dict[str, Any] = {"task": "stardist", "rays": 16}
    assert ceilings([made(None), made(1.0), made(1.0, gap=1)]) == []
    assert ceilings(
        [made(0.98, gap=1), made(0.95, gap=1), made(0.97, gap=1), made(0.91234, **star)]
    ) == [
        "A perfect network would reach validation IoU 0.9500 with 2 classes with a gap.",
        "A perfect network would reach validation IoU 0.9123 with 16 rays.",
    ]


def test_seeds_and_encoders_are_averaged_before_they_are_compared_with_the_paper() -> None:
    paper = sorted(PAPER_TABLE1, key=lambda name: PAPER_TABLE1[name])
    rows = [row(name, 0, 0, 0.1 * k, 0, architecture=name) for k, name in enumerate(paper)]
    assert paper_correlation(rows) == pytest.approx(1)
    turned = [row(name, 0, 0, -0.1 * k, 0, architecture=name) for k, name in enumerate(paper)]
    assert paper_correlation(turned) == pytest.approx(-1)
    # the worst gets a second seed that lifts its mean above all others: ranks 8 1 2 ... 7
    lifted = [*rows, row("x", 0, 0, 2.0, 0, architecture=paper[0], seed=1)]
    assert paper_correlation(lifted) == pytest.approx(1 - 6 * (7**2 + 7) / (8 * 63))
    assert paper_correlation(
        [*rows, row("own", 0, 0, 5.0, 0, architecture="StarDist", task="stardist")]
    ) == (pytest.approx(1))
    for status, task in (("failed", "semantic2"), ("done", "semantic3")):
        wrong = [{**one} for one in rows]
        wrong[3] = {**wrong[3], "status": status, "task": task}
        assert paper_correlation(wrong) is None
