"""Nothing but validation ranks or chooses: whatever test says, here the opposite of validation."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from rich.console import Console

from analysis.report.table1 import chosen_trials
from analysis.runfolder import candidates, choose_candidates, read_run
from analysis.segment.model import choose_model
from sweep import leaderboard
from sweep.ledger import Ledger
from sweep.limits import Limits
from sweep.request import load_space, make_request
from sweep.search.searcher import Draws, open_study
from sweep.view import print_leaderboard
from trainables import checkpoint
from trainables.config import EpochRecord, Normalization, TrialConfig, with_changes
from trainables.data.dataset import DataSet, Item, open_dataset
from trainables.data.examples import forget_images
from trainables.names import network_name
from trainables.predict import Predictor
from trainables.records.progress import History
from trainables.train import train

VAL = {
    ("Unet", 0): 0.90,
    ("Unet", 1): 0.70,
    ("FPN", 0): 0.81,
    ("FPN", 1): 0.82,
    ("Linknet", 0): 0.60,
    ("Linknet", 1): 0.61,
}
"""Of architecture and seed. Means: FPN .815, Unet .80, Linknet .605; best single trial: Unet 0."""


def config(architecture: str, seed: int) -> TrialConfig:
    return TrialConfig(architecture=architecture, encoder="resnet18", seed=seed)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    made = []
    for (architecture, seed), val in VAL.items():
        metrics = {
            "val_dataset_iou": val,
            "val_image_iou": 1 - val,
            "test_dataset_iou": 1 - val,
            "test_image_iou": 1 - val,
            "train_seconds": 100 * val,
        }
        one = config(architecture, seed)
        record = {"status": "done", "metrics": metrics}
        fields = one.model_dump(mode="json")
        made.append(leaderboard.trial_row(one.trial_id("f"), fields, record))
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


BY_VAL = sorted(VAL, key=lambda key: -VAL[key])


def names(ranked: Any) -> list[tuple[str, int]]:
    return [(row["architecture"], row["seed"]) for row in ranked]


def test_the_leaderboard_and_what_is_printed_of_it(rows: list[dict[str, Any]]) -> None:
    ranked = leaderboard.rank(rows)
    assert names(ranked) == BY_VAL
    screen = io.StringIO()
    print_leaderboard(Console(file=screen, width=120), ranked, top=3)
    shown = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    for place, (architecture, seed) in enumerate(BY_VAL[:3], 1):
        network = network_name(architecture, "resnet18", "semantic2")
        iou = f"{VAL[architecture, seed]:.4f}"
        assert shown[place + 1].startswith(f"{place} {network} {seed} {iou} "), shown


def test_candidates_by_their_mean(rows: list[dict[str, Any]]) -> None:
    table = leaderboard.candidates(rows)
    assert [line["architecture"] for line in table] == ["FPN", "Unet", "Linknet"]
    assert [line["val_dataset_iou_mean"] for line in table] == pytest.approx([0.815, 0.8, 0.605])
    assert table[1]["val_dataset_iou_sd"] == pytest.approx(0.2 / 2**0.5)
    assert table[1]["test_dataset_iou_mean"] == pytest.approx(0.2)


@pytest.fixture
def out(rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    """Run folder with the tables as the sweep writes them, and checkpoints that hold no network."""
    trials, records = [], {}
    for row in rows:
        one = config(row["architecture"], row["seed"])
        trial_id, fields = row["trial_id"], one.model_dump(mode="json")
        trials.append({"trial_id": trial_id, "config": fields})
        metrics = {k: row[k] for k in (*leaderboard.IOUS, "train_seconds")}
        records[trial_id] = {"status": "done", "config": fields, "metrics": metrics}
        folder = tmp_path / "checkpoints" / trial_id
        folder.mkdir(parents=True)
        (folder / "weights.pt").write_bytes(trial_id.encode())
        digest = hashlib.sha256(trial_id.encode()).hexdigest()
        manifest = {
            "format": 1,
            "config": fields,
            "input": {"mean": 0.5, "std": 0.25},
            "weights": {"file": "weights.pt", "sha256": digest},
        }
        (folder / "checkpoint.json").write_text(json.dumps(manifest))
    plan = {"trials": trials, "data": {"path": "data", "fingerprint": "f"}, "commands": ["x"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    leaderboard.write_tables(tmp_path, plan, records)
    return tmp_path


def test_what_is_analysed(out: Path) -> None:
    found = candidates(read_run(out))
    assert [c.config.architecture for c in found] == ["FPN", "Unet", "Linknet"]
    assert [c.score for c in found] == pytest.approx([0.815, 0.8, 0.605])
    for one in found:
        seeds = [read_run(out).configs[i].seed for i in one.trials]
        assert seeds == [seed for name, seed in BY_VAL if name == one.config.architecture]
    chosen, _ = choose_candidates(found, 2)
    assert [c.config.architecture for c in chosen] == ["FPN", "Unet"]
    board = pd.read_csv(out / "leaderboard.csv").sort_values("test_dataset_iou")
    kept = chosen_trials(board.sample(frac=1, random_state=0))
    assert names(kept.to_dict("records")) == [("Unet", 0), ("FPN", 1), ("Linknet", 1)]


def test_what_segments_new_images(out: Path) -> None:
    # the best seed of the best candidate, not the single trial that did best
    assert names([choose_model(out).config.model_dump()]) == [("FPN", 1)]
    # with a report, its first representative: methods.csv is in the order of validation
    (out / "report").mkdir()
    ids = {(c.architecture, c.seed): i for i, c in read_run(out).configs.items()}
    methods = pd.DataFrame(
        [
            {"method": "b", "trial_id": ids["Linknet", 0], "way": "w", "representative": False},
            {"method": "b", "trial_id": ids["Linknet", 1], "way": "w", "representative": True},
            {"method": "a", "trial_id": ids["Unet", 0], "way": "w", "representative": True},
        ]
    )
    methods.to_csv(out / "report" / "methods.csv", index=False)
    assert names([choose_model(out).config.model_dump()]) == [("Linknet", 1)]


def test_what_a_search_is_taught(tmp_path: Path) -> None:
    name, space = load_space("hpo")
    request = make_request(name, space, ["search=optuna", "samples=4"], None)
    base, ledger = request.configs[0], Ledger(tmp_path)
    for rate, val in ((1e-3, 0.9), (2e-3, 0.2)):
        config = base.model_copy(update={"learning_rate": rate})
        metrics = {"val_dataset_iou": val, "test_dataset_iou": 1 - val, "val_image_iou": 0.5}
        ledger.write(config.trial_id("f"), config, "done", metrics=metrics)
    study, _ = open_study(tmp_path, 0)
    Draws(
        study,
        request.space.dimensions,
        lambda drawn: with_changes(base.model_dump(), drawn),
        ledger,
        "f",
        (),
        0,
        lambda *_: Limits(),
    )
    assert sorted(trial.value for trial in study.trials) == [0.2, 0.9]
    assert study.best_params["learning_rate"] == 1e-3
    assert study.direction.name == "MAXIMIZE"


def test_the_best_epoch() -> None:
    history = History()
    # (validation data-set IoU, everything else says the opposite)
    values = [0.3, None, 0.8, 0.8, 0.5]
    better = [
        history.append(EpochRecord(n, 1 - (v or 0), v, v, None if v is None else 1 - v, 1.0))
        for n, v in enumerate(values, 1)
    ]
    assert better == [True, False, True, False, False]
    assert history.best is not None
    assert history.best.epoch == 3


@pytest.mark.parametrize("task", ["semantic2", "stardist"])
def test_other_test_images_change_nothing_but_the_test(
    task: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, best epoch, thresholds and validation do not depend on the test images."""
    other = tmp_path / "other"
    shutil.copytree(tiny_dataset, other)
    seen: list[str] = []
    load = DataSet.load

    def noted(self: DataSet, item: Item, normalization: Normalization) -> Any:
        seen.append(item.stem)
        return load(self, item, normalization)

    monkeypatch.setattr(DataSet, "load", noted)
    for stem in open_dataset(other).split["test"]:
        labels = tifffile.imread(other / "masks" / f"{stem}.tif")
        noise = np.random.default_rng(1).integers(0, 4000, labels.shape).astype(np.uint16)
        tifffile.imwrite(other / "images" / f"{stem}.tif", noise)
    cfg = TrialConfig(
        task=task,
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=4,
        epochs=3,
        learning_rate=3e-3,
        augmentation="none",
    )
    results = []
    for number, root in enumerate((tiny_dataset, other)):
        seen.clear()
        forget_images()
        dataset = open_dataset(root)
        during: set[str] = set()

        def while_training(_: EpochRecord, during: set[str] = during) -> None:
            during |= set(seen)

        result = train(cfg, dataset, tmp_path / str(number), on_epoch=while_training)
        assert during
        assert not during & set(dataset.split["test"]), "test images were read while training"
        results.append(result)
    one, two = results
    assert (one.best_epoch, one.val_dataset_iou, one.val_image_iou) == (
        two.best_epoch,
        two.val_dataset_iou,
        two.val_image_iou,
    )
    first, second = (checkpoint.load(result.checkpoint) for result in results)
    assert first.info["task"] == second.info["task"]
    assert isinstance(first, Predictor)
    assert isinstance(second, Predictor)
    states = [p.network.state_dict() for p in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    if task == "semantic2":
        assert one.test_dataset_iou != two.test_dataset_iou
