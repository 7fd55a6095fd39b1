"""Runs with folds: every group counts once, as the network saw it that was not trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.evaluation.calibration import Calibration
from analysis.evaluation.scores import image_scores
from analysis.folds import folds_of, pooled_iou, seed_score, whole_seeds
from analysis.report.answer import answer
from analysis.report.table1 import chosen_trials
from analysis.report.tables import ranking
from analysis.runfolder import Candidate, Run, candidates, missing_folds, trial_names, unfinished
from analysis.study.tables import (
    folds_together,
    method_table,
    score_tables,
    tied_candidates,
    validation_scores,
)
from analysis.study.trials import AnalysedTrial, Variant
from tests.analysis.evidence_data import make_evidence
from trainables.config import TrialConfig
from trainables.records.manifest import MANIFEST

NONE = pd.DataFrame()


def config(seed: int, fold: int | None, **fields: Any) -> TrialConfig:
    return TrialConfig(encoder="resnet18", seed=seed, fold=fold, **fields)


def test_a_seed_needs_all_its_folds() -> None:
    configs = {
        "b3": config(1, 3),
        "a2": config(0, 2),
        "b1": config(1, 1),
        "b2": config(1, 2),
        "c3": config(2, 3),
    }
    seeds, missing = whole_seeds(configs, 3)
    assert seeds == [["b1", "b2", "b3"]], "in the order of folds"
    assert missing == {0: [1, 3], 2: [1, 2]}
    alone = {"a": config(0, None), "b": config(1, None)}
    assert whole_seeds(alone, 0) == ([["a"], ["b"]], {})


def test_the_number_of_folds_is_in_the_plan() -> None:
    assert folds_of({"data": {"options": {"folds": 4}}}) == 4
    plain: list[dict[str, Any]] = [{}, {"options": {}}, {"options": None}]
    for data in (*plain, None, {"options": {"folds": None}}):
        assert folds_of({"data": data}) == 0
    assert folds_of({}) == 0


def per_image(counts: Mapping[str, list[tuple[int, int]]]) -> pd.DataFrame:
    """Give per_image.csv; each image is a group of its own, the test image is always the same."""
    rows = [
        {"trial_id": i, "split": "val", "image": f"{i[1:]}-{n}", "group": f"{i[1:]}-{n}"}
        | {"intersection": one[0], "union": one[1]}
        for i, pairs in counts.items()
        for n, one in enumerate(pairs)
    ]
    test = {"split": "test", "image": "t", "group": "t", "intersection": 0, "union": 9}
    return pd.DataFrame([*rows, *({"trial_id": i} | test for i in counts)])


def test_the_score_of_a_seed_is_pooled_over_its_folds() -> None:
    sums = pooled_iou(per_image({"a1": [(1, 2), (30, 40)], "a2": [(9, 58)], "e1": [(0, 0)]}))
    alone = pd.Series({"a1": 0.8, "a2": 0.2, "x": 0.6, "e1": 0.0, "e2": 0.5})
    assert seed_score(["a1", "a2"], sums, alone) == 40 / 100
    assert seed_score(["a1"], sums, alone) == 0.8, "without folds, as the leaderboard has it"
    assert seed_score(["a1", "x"], sums, alone) == pytest.approx(0.7), "its images are lost"
    assert seed_score(["e1", "e1"], sums, alone) == 1, "no cell anywhere"
    assert pooled_iou(NONE).empty


COUNTS = {
    # better in both folds together; the other one has the best single fold
    "a1": [(80, 100)],
    "a2": [(7, 10)],
    "b1": [(50, 100)],
    "b2": [(10, 10)],
    # a second, better seed of the first
    "c1": [(90, 100)],
    "c2": [(8, 10)],
    # and one that lacks a fold
    "d1": [(100, 100)],
}
TRIALS = {
    "a1": config(0, 1),
    "a2": config(0, 2),
    "b1": config(0, 1, loss="focal"),
    "b2": config(0, 2, loss="focal"),
    "c1": config(1, 1),
    "c2": config(1, 2),
    "d1": config(2, 1),
}
PLAN = {"data": {"options": {"folds": 2}}, "commands": ["python -m sweep.run demo --set folds=2"]}


def run_of(tmp_path: Path, names: str) -> Run:
    """Give a run with some of `TRIALS`; those without a checkpoint failed."""
    configs = {i: one for i, one in TRIALS.items() if i[0] in names}
    board = pd.DataFrame(
        [
            {
                "trial_id": i,
                "candidate": one.candidate_key(),
                "seed": one.seed,
                "fold": one.fold,
                "status": "done",
                "val_dataset_iou": COUNTS[i][0][0] / COUNTS[i][0][1],
            }
            for i, one in configs.items()
        ]
    )
    for i in configs:
        (tmp_path / "checkpoints" / i).mkdir(parents=True)
        (tmp_path / "checkpoints" / i / MANIFEST).touch()
    table = pd.DataFrame({"candidate": board["candidate"].unique()})
    images = per_image({i: COUNTS[i] for i in configs})
    return Run(tmp_path, PLAN, board, table, NONE, configs, images)


def test_candidates_are_ranked_by_all_folds_together(tmp_path: Path) -> None:
    run = run_of(tmp_path, "abcd")
    first, second = candidates(run)
    assert second.name == "U-Net, ResNet-18, 2-class (focal loss)"
    assert first.trials == ("c1", "c2", "a1", "a2"), "the best seed first, folds in order"
    assert first.score == pytest.approx((87 / 110 + 98 / 110) / 2)
    assert second.trials == ("b1", "b2")
    assert second.score == pytest.approx(60 / 110)
    lacks = "U-Net, ResNet-18, 2-class (dice loss), seed 2, lacks fold 2"
    assert missing_folds(run) == [lacks]
    said = f"{lacks}; only seeds with all folds are analysed."
    assert said in unfinished(run)
    assert trial_names(run)["c2"] == f"{first.name}, seed 1, fold 2"


def test_a_candidate_without_a_whole_seed_is_left_out(tmp_path: Path) -> None:
    assert candidates(run_of(tmp_path, "d")) == []


def test_candidates_are_tied_over_the_groups_of_all_folds(tmp_path: Path) -> None:
    """Also where a seed lacks a fold, or all lack the same one."""
    found = tied_candidates(run_of(tmp_path / "all", "abcd"))
    means = found["iou_mean"].tolist()
    assert means == pytest.approx([(0.8 + 0.7 + 0.9 + 0.8) / 4, (0.5 + 1.0) / 2])
    only_first = run_of(tmp_path / "part", "ab")
    kept = only_first.leaderboard[only_first.leaderboard["fold"] == 1]
    found = tied_candidates(replace(only_first, leaderboard=kept))
    assert found["iou_mean"].isna().all()


VARIANT = Variant("m", "calibrated")
CALIBRATION = Calibration({}, {}, 0.0, 0.0, 1, [], {}, [], {}, {})


def cells(count: int, found: int) -> Any:
    true, pred = np.zeros((2, 12, 12 * count), np.int32)
    for number in range(count):
        true[2:9, 12 * number + 2 : 12 * number + 9] = number + 1
        if number < found:
            pred[2:9, 12 * number + 2 : 12 * number + 9] = number + 1
    return image_scores(true, pred)


def analysed(trial_id: str, seed: int, fold: int, val: dict[str, int], test: int) -> AnalysedTrial:
    """Give a trial that finds so many of four cells in its validation images, and in the test."""
    candidate = Candidate("m", TrialConfig(encoder="resnet18"), ("x1", "x2"), 0.5)
    trial = AnalysedTrial(candidate, trial_id, CALIBRATION, [VARIANT], seed=seed, fold=fold)
    for scored, images in ((trial.validation, val), (trial.measured, {"t": test})):
        scored.images, scored.groups = list(images), [f"g{name}" for name in images]
        scored.scores[VARIANT] = [cells(4, found) for found in images.values()]
    return trial


SEEN = [
    analysed("y1", 1, 1, {"i0": 1, "i4": 1}, 4),
    analysed("y2", 1, 2, {"i1": 1}, 4),
    analysed("x2", 0, 2, {"i1": 2}, 1),
    analysed("x1", 0, 1, {"i0": 4, "i4": 3}, 3),
]


def test_every_group_is_scored_once_by_the_network_that_did_not_see_it() -> None:
    found = {trial.trial_id: scored for trial, scored in folds_together(SEEN)}
    assert set(found) == {"x1", "y1"}
    assert found["x1"].images == found["y1"].images == ["i0", "i4", "i1"]
    standing = validation_scores(SEEN, "group").pivot(index="seed", columns="unit", values="score")
    assert list(standing) == ["gi0", "gi1", "gi4"]
    # AP of n of 4 cells found without error is n / 4; seeds as they come
    assert standing.to_numpy().tolist() == [[0.25] * 3, [1.0, 0.5, 0.75]]


def test_scores_of_folds() -> None:
    scores, units = score_tables(SEEN, "group", "test")
    ap = scores[scores["metric"] == "ap_mean"].set_index("trial_id")
    val, test = ap[ap["split"] == "val"], ap[ap["split"] == "test"]
    assert dict(zip(val.index, val["value"])) == pytest.approx({"x1": 9 / 12, "y1": 3 / 12})
    for name, count in (("units", 3), ("images", 3), ("true_objects", 12)):
        assert set(val[name]) == {count}
    assert dict(zip(test.index, test["value"])) == {"x1": 0.75, "x2": 0.25, "y1": 1.0, "y2": 1.0}
    assert set(test["true_objects"]) == {4}
    assert set(units.loc[units["split"] == "val", "unit"]) == {"gi0", "gi1", "gi4"}


def test_methods_of_folds(tmp_path: Path) -> None:
    named = {t.trial_id: config(t.seed, t.fold) for t in SEEN}
    run = Run(tmp_path, PLAN, NONE, NONE, NONE, named)
    standing = validation_scores(SEEN, "group")
    table = method_table(run, SEEN, standing, "group").set_index("trial_id")
    assert table["fold"].to_dict() == {"x1": 1, "x2": 2, "y1": 1, "y2": 2}
    assert table.index[table["representative"]].tolist() == ["x1"]
    assert set(table["val_units"]) == {3}
    assert set(table["val_score"]) == {(0.75 + 0.25) / 2}
    command = str(table.loc["x2", "command"])
    assert "--set folds=2" in command
    assert "--only fold=2" in command
    assert "--set fold=" not in command
    # on the page: test scores are means over all networks, seeds count once
    scores, units = score_tables(SEEN, "group", "test")
    evidence = replace(
        make_evidence(units=6, architectures=("Unet", "PAN"), encoders=("resnet152",)),
        methods=table.reset_index(),
        scores=scores,
        units=units,
    )
    (row,) = ranking(evidence).to_dict("records")
    assert row["test_ap"] == pytest.approx((0.75 + 0.25 + 1 + 1) / 4)
    assert row["seeds"] == 2


def test_a_single_group_is_not_scored_with_parameters_that_were_chosen_on_it() -> None:
    known = Calibration(
        {"t": 0.4}, {"t": 0.9}, 0.0, 0.0, 1, [], {"a": {"t": 0.7}}, [], {}, {"t": 0.5}
    )
    assert known.for_validation("a") == {"t": 0.7}
    assert known.for_validation("b") == {"t": 0.9}
    assert known.for_validation("a", alone=True) == {"t": 0.5}


def test_of_folds_the_first_is_shown() -> None:
    board = pd.DataFrame(
        {
            "trial_id": ["a2", "a1", "b1", "c"],
            "task": "semantic2",
            "architecture": ["Unet", "Unet", "Unet", "FPN"],
            "encoder": "resnet18",
            "status": "done",
            "val_dataset_iou": [0.9, 0.5, 0.6, 0.4],
            "fold": [2, 1, 1, np.nan],
        }
    )
    assert chosen_trials(board)["trial_id"].tolist() == ["b1", "c"]
    assert chosen_trials(board.drop(columns="fold"))["trial_id"].tolist() == ["a2", "c"]


def test_the_page_says_what_frames_of_one_film_cannot_show() -> None:
    plain = make_evidence(units=8, architectures=("Unet", "PAN"), encoders=("resnet152",))
    assert not any("time-lapse" in sentence for sentence in answer(plain).sentences)
    data = {**plain.plan["data"], "options": {"split": "time_blocks"}}
    film = replace(plain, plan={**plain.plan, "data": data})
    (said,) = [one for one in answer(film).sentences if "time-lapse" in one]
    assert "How well the methods do on other fields, samples or days is not known." in said


def test_the_page_says_what_folds_mean() -> None:
    plain = make_evidence(units=8, architectures=("Unet", "PAN"), encoders=("resnet152",))
    assert not any("fold" in sentence for sentence in answer(plain).sentences)
    split = {"fold 1": ["a", "b"], "fold 2": ["c"], "fold 3": ["d"], "test": ["t"]}
    groups = {"a": "g1", "b": "g2", "c": "g3", "d": "g4", "t": "g5"}
    data = {**plain.plan["data"], "options": {"folds": 3}, "split": split, "groups": groups}
    evidence = replace(plain, plan={**plain.plan, "data": data})
    said = answer(evidence).sentences
    (shared,) = (s for s in said if "Nadeau" in s)
    assert shared.startswith("Validation used 3 folds: each group was validated once")
    assert "share training images, so the confidence intervals are a little too narrow" in shared
    assert "doi:10.1023/A:1024068626366" in shared
    assert any("the checkpoint to use are those of fold 1" in s for s in said)
    assert any(s.startswith("Folds 2, 3 validate a single group:") for s in said)
    once = evidence.standing[evidence.standing["seed"] == 0]
    said = answer(replace(evidence, standing=once)).sentences
    assert any("was trained once in each fold, so this is about" in s for s in said)
    split["fold 3"] = ["d", "a"]
    assert any(s.startswith("Fold 2 validates a single group:") for s in answer(evidence).sentences)
    split["fold 2"] = ["c", "b"]
    assert not any("a single group" in s for s in answer(evidence).sentences)
