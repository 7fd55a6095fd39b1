"""`--seed` reaches all that is random in a report; wrong seeds are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.evaluation.selection import select
from analysis.run import main
from analysis.runfolder import Run
from analysis.study.comparisons import comparisons, noise_of
from analysis.study.tables import tied_candidates
from tests.analysis.study.test_comparing import objects

SEEDS = range(12)


def close(methods: int = 3, units: int = 14) -> pd.DataFrame:
    """Give scores of which chance decides whether the worst is tied: p is about 0.05."""
    rng = np.random.default_rng(3)
    table = rng.normal(0.7, 0.05, (methods, units))
    table[0] -= 0.05
    rows = [
        {"method": f"m{m}", "seed": 0, "unit": f"u{u:02}", "score": table[m, u]}
        for m in range(methods)
        for u in range(units)
    ]
    return pd.DataFrame(rows)


def test_the_seed_reaches_the_tied_methods() -> None:
    tied = [tuple(one.tied for one in select(close(), seed=seed).values()) for seed in SEEDS]
    assert len(set(tied)) == 2
    assert tied[3] == tuple(one.tied for one in select(close(), seed=3).values())


def test_the_seed_reaches_the_tied_candidates() -> None:
    scores = close()
    images = pd.DataFrame(
        {
            "trial_id": scores["method"] + "-s0",
            "split": "val",
            "image": scores["unit"],
            "group": scores["unit"],
            "intersection": (1e9 * scores["score"]).astype(int),
            "union": 10**9,
        }
    )
    names = sorted(set(scores["method"]))
    board = pd.DataFrame(
        {
            "trial_id": [f"{name}-s0" for name in names],
            "candidate": names,
            "seed": 0,
            "status": "done",
        }
    )
    none = pd.DataFrame()
    run = Run(Path("r"), {}, board, pd.DataFrame({"candidate": names}), none, {}, images)
    tied = [tuple(tied_candidates(run, seed=seed)["tied"]) for seed in SEEDS]
    assert len(set(tied)) == 2


def test_the_seed_reaches_comparisons_and_noise() -> None:
    table = objects(False)
    once, again, other = (
        comparisons(table, unit="image", resamples=200, seed=seed) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(once, again)
    for column in ("p_unit", "p_family"):
        assert (once[column].dropna() != other[column].dropna()).any(), column
    first, second = (noise_of(table, "skimage", seed=seed) for seed in (1, 2))
    assert (first["bias"] != second["bias"]).any()
    pd.testing.assert_frame_equal(first, noise_of(table, "skimage", seed=1))


@pytest.mark.parametrize("seed", ["-1", "1.5", "none", "4294967296"])
def test_wrong_seeds_are_refused(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["runs/none", f"--seed={seed}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--seed: must be a whole number from 0 to 4294967295" in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
