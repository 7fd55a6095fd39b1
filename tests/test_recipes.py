"""Recipes 2 to 4 of CONTRIBUTING.md, followed to the letter in one copy of the packages.

The metric and the figure are shown for a network of the session's own sweep; a way of making cells
needs a sweep of its own. What the way's two records do by themselves is in test_ways.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import tifffile

from analysis.evidence import TRUTH
from tests.analysis.page_text import drawn, visible
from tests.recipes import PACKAGES, ROOT, files, follow, recipe


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, as they are once a reader has followed the recipes."""
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    # no recipe touches compiled loops: they are compiled once for both
    cache = Path("analysis", "kernels", "__pycache__")
    (ROOT / cache).mkdir(exist_ok=True)
    (root / cache).symlink_to(ROOT / cache)
    for number in (2, 3, 4):
        follow(recipe(number), root)
    return root


def run(tree: Path, *words: object) -> str:
    """Run ``python -m WORDS`` in the copy; return what it printed."""
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE")
    environment = {key: value for key, value in os.environ.items() if key not in drop}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=tree,
        env=environment | {"PYTHONPATH": str(tree)},
        text=True,
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Analysed:
    """A run folder with a report."""

    out: Path
    said: str = ""
    """What the sweep printed."""

    @property
    def page(self) -> Path:
        """The report's page."""
        return self.out / "report" / "index.html"

    @property
    def board(self) -> pd.DataFrame:
        """The leaderboard."""
        return pd.read_csv(self.out / "leaderboard.csv")

    def table(self, name: str) -> pd.DataFrame:
        """Read a table of the report."""
        return pd.read_csv(self.out / "report" / f"{name}.csv")

    def objects(self) -> pd.DataFrame:
        """Read the object table."""
        return pd.read_parquet(self.out / "report" / "objects.parquet")


@pytest.fixture(scope="module")
def one_network(tree: Path, swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """The session's sweep, of which one checkpoint is left to analyse."""
    out = tmp_path_factory.mktemp("one") / "run"
    shutil.copytree(swept, out, ignore=shutil.ignore_patterns("tune", "wandb", "tensorboard"))
    for folder in (out / "checkpoints").iterdir():
        if not folder.name.startswith("semantic2-Unet"):
            shutil.rmtree(folder)
    run(tree, "analysis.run", out, "--budget", 4, "--resamples", 9)
    return Analysed(out)


def test_the_metric_is_scored_and_on_the_page(one_network: Analysed) -> None:
    scores = one_network.table("scores")
    merged = scores[scores["metric"] == "merged"]
    assert set(merged["split"]) == {"val", "test"}
    assert set(merged["method"]) == set(one_network.table("methods")["method"])
    assert merged["value"].between(0, 1).all()
    assert "merged" in set(one_network.table("units")["metric"])
    text = visible(one_network.page)
    assert "test merged" in text  # a column of the first table
    assert "iou merged" in text  # and of the table of all scores


def test_the_metric_counts() -> None:
    module = ModuleType("merged")
    (source,) = files(recipe(3)).values()
    exec(source, module.__dict__)
    true = np.repeat(np.array([[1, 1, 2, 2, 0, 3, 3, 3]], np.int32), 2, axis=0)
    pred = np.array([[1, 1, 1, 1, 0, 2, 3, 3], [1, 1, 1, 0, 0, 2, 3, 3]], np.int32)
    assert module.merged(true, pred) == (2, 3)
    assert module.merged(true, true) == (0, 3)
    assert module.merged(true, 0 * true) == (0, 3)
    assert module.merged(0 * true, pred) == (0, 0)


def test_the_figure_is_on_the_page(one_network: Analysed) -> None:
    folder = one_network.out / "report" / "figures"
    assert {"counts.svg", "counts.pdf"} <= {path.name for path in folder.iterdir()}
    texts = drawn(one_network.page)["counts"]
    assert {*one_network.table("methods")["method"], "cells"} <= set(texts)
    true = (one_network.objects()["method"] == TRUTH).sum()
    said = f"Cells found by each method, calibrated. Line: the {true} true cells."
    assert said in visible(one_network.page)


SMALL = (
    "architecture=Unet",
    "encoder=resnet18",
    "crop_size=64",
    "epochs=6",
    "batch_size=4",
    "learning_rate=5e-3",
    "augmentation=none",
    "validate_every=6",
    "concurrency=1",
)
NAME, OTHER = "U-Net, ResNet-18, centres", "U-Net, ResNet-18, 2-class"


@pytest.fixture(scope="module")
def finished(tree: Path, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """What the recipe's own command gives, with settings that make it cheap."""
    out = tmp_path_factory.mktemp("finished") / "run"
    (line,) = re.findall(r"python -m (sweep\.run .*)", recipe(2))
    words = [str(cells) if word == "DATA" else word for word in shlex.split(line)]
    small = [word for setting in SMALL for word in ("--set", setting)]
    said = run(tree, *words, "--out", out, "--wandb", "off", *small)
    run(tree, "analysis.run", out, "--budget", 12, "--resamples", 99)
    return Analysed(out, said)


def centres(finished: Analysed) -> Path:
    """Give the checkpoint of the way that was added."""
    board = finished.board
    trial_id = str(board.loc[board["task"] == "centres", "trial_id"].item())
    return finished.out / "checkpoints" / trial_id


@pytest.mark.slow
def test_the_way_is_trained_and_ranked(finished: Analysed) -> None:
    board = finished.board
    assert (board["status"] == "done").all(), finished.said
    assert set(zip(board["task"], board["loss"])) == {("semantic2", "dice"), ("centres", "centres")}
    assert board["val_dataset_iou"].is_monotonic_decreasing
    assert board["test_dataset_iou"].min() > 0.7
    assert NAME in finished.said
    history = pd.read_csv(finished.out / "history.csv")
    loss = history.loc[history["trial_id"] == centres(finished).name, "train_loss"]
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]


@pytest.mark.slow
def test_the_way_is_calibrated_and_measured(finished: Analysed) -> None:
    calibration = json.loads((centres(finished) / "calibration.json").read_text())
    assert calibration["way"] == "centres + watershed"
    for name in ("default", "calibrated"):
        assert set(calibration[name]) == {"threshold", "apart", "min_size"}
    assert calibration["calibrated"]["apart"] % 1 == 0
    assert calibration["score"] >= calibration["default_score"]
    methods = finished.table("methods").set_index("method")
    assert set(methods["way"]) >= {"centres + watershed", "2-class + watershed"}
    assert methods.loc[NAME, "val_score"] == pytest.approx(calibration["score"], abs=0.2)
    objects = finished.objects()
    own = objects[objects["method"] == NAME]
    assert own["matched_label"].notna().sum() > 10
    assert (own["area"] > 0).all()
    compared = finished.table("statistics")
    assert {NAME, OTHER, TRUTH} <= {*compared["a"], *compared["b"]}


@pytest.mark.slow
def test_the_way_is_named_on_the_page(finished: Analysed) -> None:
    text, figures = visible(finished.page), drawn(finished.page)
    assert text.count(NAME) >= 4
    assert "No trial with 'star-convex head' is finished" in text
    assert "No trial with 'centres + watershed' is finished" not in text
    assert "centres" in figures["figure7_dataset_iou"]
    assert "figure8_networks_centres" in figures
    for name in ("figure9_features", "figure10_overlays", "calibration", "overlaps"):
        assert NAME in " ".join(figures[name]), name
    assert NAME in finished.table("table1")["model"].tolist()


@pytest.mark.slow
def test_the_way_segments_new_images(tree: Path, finished: Analysed, tmp_path: Path) -> None:
    rng, (y, x) = np.random.default_rng(1), np.mgrid[:100, :120]
    cells = (np.hypot(y - 30, x - 40) < 9) | (np.hypot(y - 70, x - 90) < 11)
    image = rng.normal(1000, 30, cells.shape) + 400 * cells
    tifffile.imwrite(tmp_path / "new.tif", image.astype(np.uint16))
    words = ("--model", centres(finished), tmp_path / "new.tif", "--out", tmp_path / "cells")
    run(tree, "analysis.segment", *words)
    (path,) = (tmp_path / "cells" / "labels").iterdir()
    labels = tifffile.imread(path)
    found = labels[30, 40], labels[70, 90]
    assert 0 not in found
    assert found[0] != found[1]
    assert len(pd.read_csv(tmp_path / "cells" / "objects.csv")) >= 2
