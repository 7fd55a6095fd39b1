"""Folds by the real command lines: a sweep begun with one fold, completed, extended, analysed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from analysis.run import main as analysis_run
from tests.sweep.command_line import TINY_TUNE, make_data, rows, run
from trainables.data.dataset import index_dataset
from trainables.data.splits import DataOptions

SPACE = """
from search_spaces import SearchSpace, grid
SHARED = dict(crop_size=64, batch_size=4, epochs=1, augmentation="none")
SPACE = SearchSpace(trials=(
    *grid(encoder="mobilenet_v2", **SHARED),
    *grid(task="stardist", architecture="StarDist", rays=16, **SHARED),
))
"""


def validated(out: Path) -> dict[str, set[str]]:
    """Return the validation images of every finished trial."""
    found: dict[str, set[str]] = {}
    for row in rows(out, "per_image.csv"):
        if row["split"] == "val":
            found.setdefault(row["trial_id"], set()).add(row["image"])
    return found


def check_analysis(out: Path) -> None:
    """Analyse the run: six groups are for validation, though each network validated two."""
    assert analysis_run([str(out), "--budget", "2", "--resamples", "99"]) == 0
    report = out / "report"
    methods = rows(report, "methods.csv")
    assert {row["val_units"] for row in methods} == {"6"}
    assert Counter((row["architecture"], row["seed"], row["fold"]) for row in methods) == {
        ("Unet", seed, fold): 2  # with its gap given back, too
        for seed in "01"
        for fold in "123"
    }
    chosen = [row for row in methods if row["representative"] == "True"]
    assert {row["fold"] for row in chosen} == {"1"}
    for row in chosen:
        kept = json.loads((out / "checkpoints" / row["trial_id"] / "calibration.json").read_text())
        assert set(kept["images"]) == validated(out)[row["trial_id"]]
    units = rows(report, "units.csv")
    val = {(row["method"], row["unit"]) for row in units if row["split"] == "val"}
    assert len({unit for _, unit in val}) == 6
    assert len(val) == 6 * len({row["method"] for row in methods})
    page = (report / "index.html").read_text()
    assert "Nadeau and Bengio 2003" in page
    assert "validation images of 6 independent groups" in page
    assert "StarDist, seed 0, lacks fold 1, 3; only seeds with all folds are analysed." in page


@pytest.mark.slow
def test_one_fold_then_all_folds_of_two_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_data(tmp_path / "data", images=8)
    (tmp_path / "space.py").write_text(SPACE)
    out = tmp_path / "run"
    words = ("space.py", "--data", root, "--out", out, *TINY_TUNE, "--set", "folds=3")
    code, text, err = run(*words, "--only", "fold=2", cwd=tmp_path)
    assert code == 0, text + err
    assert "missing folds" in text
    assert {row["fold"] for row in rows(out)} == {"2"}
    assert {row["missing_folds"] for row in rows(out, "candidates.csv")} == {"seed 0: 1, 3"}
    assert {row["val_dataset_iou_mean"] for row in rows(out, "candidates.csv")} == {""}
    assert analysis_run([str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no candidate has all of its 3 folds yet (for example, " in line
    assert "seed 0, lacks fold 1, 3); run the missing ones" in line

    more = ("--seeds", 2, "--only", "architecture=Unet")
    code, text, err = run(*words, *more, cwd=tmp_path)
    assert code == 0, text + err
    board = rows(out)
    assert Counter((row["architecture"], row["seed"], row["fold"]) for row in board) == {
        **{("Unet", seed, fold): 1 for seed in "01" for fold in "123"},
        ("StarDist", "0", "2"): 1,
    }
    dataset = index_dataset(root, DataOptions(folds=3))
    plan = json.loads((out / "plan.json").read_text())
    assert plan["data"]["split"] == {name: list(stems) for name, stems in dataset.parts.items()}
    images = validated(out)
    for row in board:
        assert images[row["trial_id"]] == set(dataset.folds[int(row["fold"]) - 1])
        manifest = out / "checkpoints" / row["trial_id"] / "checkpoint.json"
        assert json.loads(manifest.read_text())["config"]["fold"] == int(row["fold"])
    whole, part = rows(out, "candidates.csv")
    assert (part["architecture"], part["seeds"]) == ("StarDist", "0")
    assert part["missing_folds"] == "seed 0: 1, 3"
    assert (whole["architecture"], whole["seeds"], whole["missing_folds"]) == ("Unet", "2", "")
    expected = []
    for seed in "01":
        mine = {r["trial_id"] for r in board if (r["architecture"], r["seed"]) == ("Unet", seed)}
        counts = [
            (int(one["intersection"]), int(one["union"]))
            for one in rows(out, "per_image.csv")
            if one["split"] == "val" and one["trial_id"] in mine
        ]
        assert len(counts) == 6, "every image once"
        expected.append(sum(i for i, _ in counts) / sum(u for _, u in counts))
    assert float(whole["val_dataset_iou_mean"]) == pytest.approx(np.mean(expected))

    check_analysis(out)

    code, _, err = run(*words[:-1], "folds=2", cwd=tmp_path)
    assert code == 2
    assert "its images are divided into 3 folds, but this command asks for 2 folds" in err
