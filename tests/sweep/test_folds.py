"""Folds in a sweep: which trials there are, how the folds of a candidate are put together."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search_spaces import SearchSpace, grid
from sweep.dataset import open_data
from sweep.folds import by_seed, folds_of
from sweep.leaderboard import candidates, trial_row, write_all_tables
from sweep.ledger import Ledger
from sweep.packing import PackedTrial
from sweep.plan import Plan, conflict, make_plan, write_plan
from sweep.preview import _print_folds
from sweep.recorder import short_name
from sweep.request import Request, RequestError, make_request
from sweep.run import main
from sweep.selection import only
from sweep.view import print_candidates, print_leaderboard
from tests.sweep.command_line import make_data
from trainables.config import ImageCounts, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, index_dataset
from trainables.data.splits import DataOptions

SPACE = SearchSpace(trials=grid({"architecture": ["Unet", "FPN"]}, encoder="resnet18"))
IOUS = ("val_dataset_iou", "val_image_iou", "test_dataset_iou", "test_image_iou")


def asked(*changes: str, seeds: int | None = None, space: SearchSpace = SPACE) -> Request:
    return make_request("mine", space, changes, seeds)


def test_every_candidate_and_seed_is_a_trial_in_each_fold() -> None:
    configs = asked("folds=3", seeds=2).configs
    found = [(one.architecture, one.seed, one.fold) for one in configs]
    assert found == [
        (name, seed, fold) for name in ("Unet", "FPN") for seed in (0, 1) for fold in (1, 2, 3)
    ]
    assert len({one.candidate_key() for one in configs}) == 2
    assert {one.fold for one in asked().configs} == {None}
    assert asked("folds=3").data_options == DataOptions(folds=3)
    assert short_name(configs[1]) == "U-Net, ResNet-18, 2-class, seed 0, fold 2"


def test_one_fold_can_be_run_alone() -> None:
    part = only(asked("folds=3"), ["fold=2"])
    assert [(one.architecture, one.fold) for one in part.configs] == [("Unet", 2), ("FPN", 2)]
    with pytest.raises(RequestError, match=r"fold=4: no trial .* choose from 1, 2, 3"):
        only(asked("folds=3"), ["fold=4"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("folds=1",), r"--set folds: 1 is not possible: give 2 or more, or leave it out"),
        (("folds=-2",), r"--set folds: -2 is not possible"),
        (("folds=two",), r"--set folds: Input should be a valid integer.*not 'two'"),
        (("folds=2.5",), r"--set folds: Input should be a valid integer"),
        (("folds=3", "split=time_blocks"), r"--set folds=3 needs whole groups"),
        (("folds=3", "scheduler=asha"), r"folds=3: does not work with scheduler=asha"),
        (("folds=3", "search=optuna", "gap=0,1"), r"folds=3: does not work with search=optuna"),
        (("fold=2",), r"--set fold: cannot be set; --set folds=5 makes the folds, and --only"),
    ],
)
def test_wrong_folds_are_refused(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        asked(*changes)
    assert "\n" not in str(caught.value)


def test_a_space_names_no_fold() -> None:
    with pytest.raises(RequestError, match=r"search space mine: .* remove fold"):
        asked(space=SearchSpace(trials=grid(fold=2)))
    with pytest.raises(ValueError, match="fold cannot be searched"):
        SearchSpace(trials=grid(), dimensions={"fold": [1, 2]})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return make_data(tmp_path / "d", images=9)


def test_more_folds_than_groups_are_refused_before_anything_starts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--data", str(root), "--wandb", "off", "--set", "folds=8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "folds=8, but only 7 groups can be dealt into folds (of 9; 2 for testing)" in line
    assert line.endswith("give at most folds=7")
    assert not (root.parent / "runs").exists()


def test_what_the_notes_of_a_plan_recommend(root: Path) -> None:
    for changes, said in (((), "Use --set folds=3: then each of the 7 groups"), (("folds=3",), "")):
        screen, request = io.StringIO(), asked(*changes)
        listed = index_dataset(root, request.data_options)
        open_data(listed, request, Console(file=screen, width=100))
        assert said in screen.getvalue()
        assert ("--set folds" in screen.getvalue()) == bool(said)


def test_a_plan_says_how_many_trials_the_folds_are(root: Path) -> None:
    plan, _ = plan_of(root, "folds=3")
    screen = io.StringIO()
    items = [PackedTrial(trial.trial_id, 600.0, 1.0, 1.0) for trial in plan.trials]
    for known in (items, []):
        _print_folds(Console(file=screen, width=100), plan, known)
    assert screen.getvalue().splitlines() == [
        "folds=3: 6 trials, 2 in each fold; about 20 min of computing for each fold",
        "folds=3: 6 trials, 2 in each fold",
    ]


def plan_of(root: Path, *changes: str) -> tuple[Plan, DataSet]:
    request = asked(*changes)
    dataset = index_dataset(root, request.data_options)
    return make_plan(request, dataset), dataset


def test_a_run_is_continued_with_its_own_folds(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    plan, dataset = plan_of(root, "folds=3")
    recorded = write_plan(tmp_path / "run", plan, dataset, "python -m sweep.run", None)
    assert recorded["data"]["options"]["folds"] == folds_of(recorded) == 3
    assert list(recorded["data"]["split"]) == ["fold 1", "fold 2", "fold 3", "test"]
    assert sum(len(stems) for stems in recorded["data"]["split"].values()) == 9
    assert conflict(plan, recorded) is None
    more = make_plan(asked("folds=3", seeds=2), dataset)
    assert conflict(more, recorded) is None, "more seeds"
    said = "its images are divided into 3 folds, but this command asks for"
    assert conflict(plan_of(root, "folds=4")[0], recorded) == f"{said} 4 folds"
    assert conflict(plan_of(root)[0], recorded) == f"{said} no folds"
    plain, dataset = plan_of(root)
    recorded = write_plan(tmp_path / "run", plain, dataset, "python -m sweep.run", None)
    assert folds_of(recorded) == 0
    assert str(conflict(plan, recorded)).startswith("its images are divided into no folds")


COUNTS = {
    # seed 0: fold 1 validates two images, folds 2 and 3 one each
    "a1": [(1, 2), (30, 40)],
    "a2": [(0, 0)],
    "a3": [(9, 58)],
    # seed 1
    "b1": [(2, 2), (40, 40)],
    "b2": [(0, 0)],
    "b3": [(58, 58)],
}
"""Intersection and union of the validation images of each trial."""


def images(trial_id: str) -> list[dict[str, Any]]:
    val = [{"split": "val", "intersection": i, "union": u} for i, u in COUNTS[trial_id]]
    return [*val, {"split": "test", "intersection": 1000, "union": 1}]


def row(trial_id: str, seed: int, fold: int, test: float, **fields: Any) -> dict[str, Any]:
    status = fields.pop("status", "done")
    metrics = dict(zip(IOUS, (0.9, 0.9, test, test / 2)))
    config = TrialConfig(seed=seed, fold=fold, **fields).model_dump(mode="json")
    return trial_row(trial_id, config, {"status": status, "metrics": metrics})


FIRST = [row("a1", 0, 1, 0.2), row("a2", 0, 2, 0.4), row("a3", 0, 3, 0.6)]
SECOND = [row("b1", 1, 1, 0.8), row("b2", 1, 2, 0.8), row("b3", 1, 3, 0.8)]


def test_the_folds_of_a_seed_are_put_together() -> None:
    seeds, missing = by_seed([*SECOND, *FIRST], 3, images)
    assert missing == ""
    first, second = seeds
    assert first["val_dataset_iou"] == (1 + 30 + 0 + 9) / (2 + 40 + 0 + 58)
    # every image counts once, the empty one as 1
    assert first["val_image_iou"] == pytest.approx((1 / 2 + 30 / 40 + 1 + 9 / 58) / 4)
    assert first["test_dataset_iou"] == pytest.approx(0.4)
    assert first["test_image_iou"] == pytest.approx(0.2)
    assert second == pytest.approx(dict(zip(IOUS, (1, 1, 0.8, 0.4))))


def test_a_candidate_is_the_mean_over_its_complete_seeds() -> None:
    (line,) = candidates([*FIRST, *SECOND], 3, images)
    assert (line["seeds"], line["folds"], line["missing_folds"]) == (2, 3, "")
    assert line["val_dataset_iou_mean"] == pytest.approx((0.4 + 1) / 2)
    assert line["val_dataset_iou_sd"] == pytest.approx(0.6 / 2**0.5)
    assert line["test_dataset_iou_mean"] == pytest.approx(0.6)


def lacking(*trials: Mapping[str, Any]) -> tuple[int, str]:
    (line,) = candidates(trials, 3, images)
    return line["seeds"], line["missing_folds"]


def test_missing_folds_are_named_and_their_seed_does_not_count() -> None:
    assert lacking(*FIRST[:2], *SECOND) == (1, "seed 0: 3")
    assert lacking(FIRST[1], SECOND[0]) == (0, "seed 0: 1, 3; seed 1: 2, 3")
    assert lacking(*FIRST[:2], {**FIRST[2], "status": "failed"}) == (0, "seed 0: 3")
    # done, but what it saw of single images is lost
    (line,) = candidates(FIRST, 3, lambda i: [] if i == "a1" else images(i))
    assert (line["seeds"], line["missing_folds"]) == (0, "seed 0: 1")


def test_an_incomplete_candidate_is_not_ranked_among_the_others() -> None:
    part = [row("b1", 0, 1, 0.9, loss="focal"), row("b2", 0, 2, 0.9, loss="focal")]
    first, second = candidates([*part, *FIRST], 3, images)
    assert [first["loss"], second["loss"]] == ["dice", "focal"]
    assert second["val_dataset_iou_mean"] is None
    assert second["missing_folds"] == "seed 0: 3"


def done(ledger: Ledger, config: TrialConfig, counts: tuple[int, int], iou: float) -> str:
    trial_id = config.trial_id("f")
    figures: dict[str, Any] = dict(zip(IOUS, (iou,) * 4))
    result = TrialResult(
        best_epoch=1,
        epochs=1,
        parameters_m=1.0,
        train_seconds=1.0,
        peak_memory_mb=1.0,
        checkpoint="",
        history=(),
        per_image=(ImageCounts("val", f"i{config.fold}", "g", *counts),),
        **figures,
    )
    ledger.write_done(config, trial_id, result)
    return trial_id


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_tables_of_a_run_with_folds(tmp_path: Path) -> None:
    """Trials follow their candidates: the best trial is that of the easiest fold."""
    ledger = Ledger(tmp_path)
    good, easy = TrialConfig(), TrialConfig(loss="focal")
    # one candidate is better in both folds together, the other in the second fold alone
    ids = []
    for config, counts in ((easy, [(1, 100), (10, 10)]), (good, [(90, 100), (8, 10)])):
        for fold, one in enumerate(counts, 1):
            folded = config.model_copy(update={"fold": fold})
            ids.append(done(ledger, folded, one, one[0] / one[1]))
    waiting = good.model_copy(update={"fold": 1, "seed": 1})
    configs = [TrialConfig.model_validate(one["config"]) for one in ledger.read().values()]
    trials = [
        {"trial_id": one.trial_id("f"), "config": one.model_dump(mode="json")}
        for one in (waiting, *configs)
    ]
    plan = {"trials": trials, "data": {"options": {"folds": 2}}}
    rows = write_all_tables(tmp_path, plan, ledger.read())
    board = read(tmp_path / "leaderboard.csv")
    assert [one["trial_id"] for one in board] == [one["trial_id"] for one in rows]
    assert [one["trial_id"] for one in board] == [*ids[2:], *ids[:2], waiting.trial_id("f")]
    assert [one["fold"] for one in board] == ["1", "2", "1", "2", "1"]
    first, second = read(tmp_path / "candidates.csv")
    assert (first["loss"], first["val_dataset_iou_mean"]) == ("dice", str(98 / 110))
    assert (second["loss"], second["val_dataset_iou_mean"]) == ("focal", "0.1")
    assert (first["seeds"], first["folds"], first["missing_folds"]) == ("1", "2", "seed 1: 1, 2")
    assert "fold" not in first


def printed(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    screen = io.StringIO()
    print_candidates(Console(file=screen, width=100), lines, 3)
    return screen.getvalue().splitlines()


def test_candidates_are_printed_with_what_is_missing() -> None:
    part = [row("b1", 0, 1, 0.9, loss="focal"), row("b2", 0, 2, 0.9, loss="focal")]
    text = printed(candidates([*part, *FIRST], 3, images))
    assert " ".join(text).startswith("Candidates, the 3 folds of each seed put together")
    first, second = (line.split() for line in text[-2:])
    assert first == ["1", "U-Net,", "ResNet-18,", "2-class", "dice", "1", "0.4000", "0.4000"]
    assert second == ["U-Net,", "ResNet-18,", "2-class", "focal", "0", "seed", "0:", "3"]
    assert printed([]) == []


def test_trials_of_folds_have_no_rank() -> None:
    screen = io.StringIO()
    print_leaderboard(Console(file=screen, width=100), FIRST)
    _, header, *lines = screen.getvalue().splitlines()
    assert header.split()[:2] == ["network", "fold"]
    assert [line.split()[0] for line in lines] == ["U-Net,"] * 3
    assert [line.split()[3] for line in lines] == ["1", "2", "3"]
