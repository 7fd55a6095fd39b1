"""The score of benchmarks/tracking.py, counted by hand on frames of one row."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from trainables.synthetic.dataset import generate

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "tracking.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tracking", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tracking"] = module  # its records look themselves up
    spec.loader.exec_module(module)
    return module


def film(*rows: Sequence[int]) -> list[NDArray[np.int64]]:
    return [np.array([row]) for row in rows]


TRUE = film(*[[1, 1, 0, 2, 2, 0, 0]] * 3)  # 6 vertices, 4 edges: 66 to make them from nothing


@pytest.mark.parametrize(
    ("found", "errors", "changes", "cost"),
    [
        ([[5, 5, 0, 6, 6, 0, 0]] * 3, {}, 0, 0),
        # one frame shows both as one: its vertex is split, and all four links are missing
        (
            [[5, 5, 0, 6, 6, 0, 0], [5, 5, 5, 5, 5, 0, 0], [5, 5, 0, 6, 6, 0, 0]],
            {"split_vertices": 1, "missing_edges": 4, "redundant_edges": 1},
            0,
            5 + 4 * 1.5 + 1,
        ),
        # numbers swap
        (
            [[5, 5, 0, 6, 6, 0, 0]] * 2 + [[6, 6, 0, 5, 5, 0, 0]],
            {"redundant_edges": 2, "missing_edges": 2},
            2,
            2 + 3,
        ),
        # a cell is missed and another invented; one link is missing, one is new and not counted
        (
            [[5, 5, 0, 6, 6, 0, 7], [5, 5, 0, 6, 6, 0, 7], [5, 5, 0, 0, 0, 0, 0]],
            {"missing_vertices": 1, "false_vertices": 2, "missing_edges": 1},
            0,
            10 + 2 + 1.5,
        ),
        # half of a cell is not more than half
        (
            [[5, 5, 0, 6, 6, 0, 0], [5, 5, 0, 6, 0, 0, 0], [5, 5, 0, 8, 8, 0, 0]],
            {"missing_vertices": 1, "false_vertices": 1, "missing_edges": 2},
            1,
            10 + 1 + 3,
        ),
        ([[0] * 7] * 3, {"missing_vertices": 6, "missing_edges": 4}, 0, 66),
    ],
)
def test_scores_by_hand(
    benchmark: ModuleType,
    found: list[list[int]],
    errors: dict[str, int],
    changes: int,
    cost: float,
) -> None:
    score = benchmark.score(TRUE, film(*found))
    assert {kind: count for kind, count in score.errors.items() if count} == errors
    assert score.changes == changes
    assert score.tra == pytest.approx(1 - cost / 66)


def test_splitting_helps_on_a_generated_film(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = generate(tmp_path / "d", sequences=1, frames=8, seed=2, height=260, width=300, cells=40)
    benchmark.main([str(root)])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in lines}
    assert len(rows) == 4 * 3
    assert "| 1.0000 | 0 |" in rows["s00, true masks", "split"]
    tra = {key: float(line.split("|")[3]) for key, line in rows.items()}
    assert tra["s00, blurred more", "split"] > tra["s00, blurred more", "as before"]
    benchmark.main([str(root), str(root / "masks")])
    assert "| 1.0000 | 0 |" in capsys.readouterr().out
    assert tifffile.imread(root / "masks" / "s00_t000.tif").max() > 1
