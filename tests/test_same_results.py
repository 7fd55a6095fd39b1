"""The program that says whether two versions of the code give the same results."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "same_results.py"


@pytest.fixture(scope="module")
def main() -> Any:
    return runpy.run_path(str(PROGRAM))["main"]


@pytest.fixture
def pair(swept: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A sweep's tables, with one table and one label image as a report would add them, twice."""
    one, other = tmp_path / "before", tmp_path / "after"
    unwanted = shutil.ignore_patterns("tune", "wandb", "weights.pt", "tensorboard")
    shutil.copytree(swept, one, ignore=unwanted)
    (one / "cells" / "labels").mkdir(parents=True)
    tifffile.imwrite(one / "cells" / "labels" / "a.tif", np.arange(12, dtype=np.uint32))
    frame = pd.DataFrame({"area": [0.1, np.nan], "track": pd.array([1, None], dtype="Int64")})
    (one / "report").mkdir()
    frame.to_parquet(one / "report" / "objects.parquet")
    shutil.copytree(one, other)
    return one, other


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def test_what_no_two_runs_have_in_common_is_no_difference(
    pair: tuple[Path, Path], main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = pair
    edit(after / "leaderboard.csv", lambda t: t.assign(train_seconds="1", wandb_id="another"))
    edit(after / "history.csv", lambda t: t.assign(seconds="7"))
    assert main([str(before), str(after)]) == 0
    said = capsys.readouterr().out.splitlines()
    board = pd.read_csv(before / "leaderboard.csv")
    assert f"leaderboard.csv: equal, 5 rows, {len(board.columns) - 4} columns" in said
    assert "report/objects.parquet: equal, 2 rows, 2 columns" in said
    assert "cells/labels: equal, 1 tif files" in said
    assert any(line.startswith("per_image.csv: equal, ") for line in said)
    assert said[-1].startswith("all ")


def last_digit(text: str) -> str:
    return text[:-1] + str((int(text[-1]) + 1) % 10)


def test_every_digit_row_pixel_and_file_counts(
    pair: tuple[Path, Path], main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = pair

    def changed(table: pd.DataFrame) -> pd.DataFrame:
        values = table["val_dataset_iou"].tolist()
        values[1] = last_digit(values[1])
        return table.assign(val_dataset_iou=values)

    edit(after / "leaderboard.csv", changed)
    edit(after / "per_image.csv", lambda table: table[:-1])
    edit(after / "candidates.csv", lambda table: table.rename(columns={"loss": "losses"}))
    (after / "history.csv").unlink()
    image = after / "cells" / "labels" / "a.tif"
    tifffile.imwrite(image, tifffile.imread(image) + np.uint32(2**31))
    frame = pd.read_parquet(after / "report" / "objects.parquet")
    frame.astype({"track": "Float64"}).to_parquet(after / "report" / "objects.parquet")
    assert main([str(before), str(after)]) == 1
    said = {line.split(": ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert said["leaderboard.csv"].startswith(
        "leaderboard.csv: 1 values differ: row 2, val_dataset"
    )
    assert "rows before" in said["per_image.csv"]
    assert "lost ['loss'], new ['losses']" in said["candidates.csv"]
    assert said["history.csv"] == "history.csv: is missing after"
    assert "a.tif: 12 values differ" in said["cells/labels"]
    assert "track (Int64)" in said["report/objects.parquet"]
    assert list(said)[-1].startswith("6 of ")


def test_nothing_to_compare_is_no_success(
    tmp_path: Path, main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 2
    assert main([str(tmp_path / "gone"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
