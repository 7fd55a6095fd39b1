"""Whether methods lead to the truth's conclusions about populations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import TRUTH, Evidence
from analysis.report.conclusions import conclusions, survives_said
from analysis.report.feature_tables import cells_said
from tests.analysis.evidence_data import METHODS, make_evidence

NAMES = list(METHODS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))


def of(evidence: Evidence, intervals: dict[str, tuple[float, float]], **tied: Any) -> Evidence:
    """Give one difference, in area, with each method's own interval."""
    rows = [
        {
            "comparison": "populations",
            "method": method,
            "feature": "area",
            "feature_unit": "px2",
            "a": "large",
            "b": "small",
            "unit_difference": (low + high) / 2,
            "unit_difference_low": low,
            "unit_difference_high": high,
        }
        for method, (low, high) in intervals.items()
    ]
    methods = evidence.methods.assign(tied=evidence.methods["method"].isin(NAMES[:2]))
    return replace(evidence, statistics=pd.DataFrame(rows), methods=methods)


def test_conclusions_by_hand(evidence: Evidence) -> None:
    found = conclusions(
        of(
            evidence,
            {NAMES[1]: (-1.0, 3.0), NAMES[0]: (2.0, 4.0), TRUTH: (1.0, 5.0), NAMES[3]: (-4, -2)},
        )
    )
    assert found["method"].tolist() == [TRUTH, NAMES[0], NAMES[1], NAMES[3]]
    assert found["conclusion"].tolist() == [
        "a is larger",
        "a is larger",
        "no difference shown",
        "a is smaller",
    ]
    assert found["as_truth"].tolist() == ["", "yes", "no", "no"]
    assert found["effect"][0] == "+3.00 px² (+1.00 to +5.00)"


def test_the_page_says_whether_tied_methods_agree_with_the_truth(evidence: Evidence) -> None:
    same = of(evidence, {TRUTH: (1, 5), NAMES[0]: (2, 4), NAMES[1]: (1, 3), NAMES[3]: (-4, -2)})
    (said,) = survives_said(same)
    assert said == (
        "Conclusions about populations, from the cells of all 2 methods that may be the best, and "
        "from the true cells: the same in the one comparison."
    )
    other = of(evidence, {TRUTH: (1, 5), NAMES[0]: (2, 4), NAMES[1]: (-1, 3)})
    (said,) = survives_said(other)
    assert "the same in 0 of 1 comparisons, not in area of large against small (" in said
    assert f"({NAMES[1]})" in said


def test_without_truth_populations_or_units_nothing_is_said(evidence: Evidence) -> None:
    for table in (
        of(evidence, {NAMES[0]: (1, 2)}).statistics,
        of(evidence, {TRUTH: (np.nan, np.nan), NAMES[0]: (np.nan, np.nan)}).statistics,
        pd.DataFrame(),
    ):
        nothing = replace(evidence, statistics=table)
        assert conclusions(nothing).empty
        assert survives_said(nothing) == []


def effects(*rows: tuple[str, str, str, float, float]) -> pd.DataFrame:
    names = ["method", "trial_id", "convention", "unit_difference_low", "unit_difference_high"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(a="large", b="small", feature="area", unit_difference=0.0)


def test_trainings_and_conventions_are_counted(evidence: Evidence) -> None:
    """Of three trainings two agree with the truth; of two conventions both, though they differ."""
    one = of(evidence, {TRUTH: (1, 5), NAMES[0]: (2, 4), NAMES[1]: (1, 3)})
    chosen = one.methods[one.methods["representative"].astype(bool)]
    shown = dict(zip(chosen["method"], chosen["trial_id"]))
    first, second = shown[NAMES[0]], shown[NAMES[1]]
    again = effects(
        (TRUTH, "", "trackmate", 1, 5),
        (TRUTH, "", "imagej", -1, 5),
        (NAMES[0], first, "trackmate", 2, 4),
        (NAMES[0], first, "imagej", -2, 4),
        (NAMES[0], "another seed", "trackmate", 1, 2),
        (NAMES[0], "third seed", "trackmate", -1, 2),
        (NAMES[1], second, "trackmate", 1, 3),
        (NAMES[1], second, "imagej", 1, 3),
    )
    found = conclusions(replace(one, effects=again)).set_index("method")
    assert found.loc[TRUTH, "same_in_conventions"] == "1 of 2"
    assert found.loc[TRUTH, "same_in_trainings"] == ""
    assert found.loc[NAMES[0], "same_in_conventions"] == "2 of 2"
    assert found.loc[NAMES[0], "same_in_trainings"] == "2 of 3"
    assert found.loc[NAMES[1], "same_in_conventions"] == "1 of 2"
    assert found.loc[NAMES[1], "same_in_trainings"] == ""
    (said,) = survives_said(replace(one, effects=again))
    assert (
        "best, in all their trainings and conventions of measuring, and from the true cells" in said
    )
    assert (
        f"the same in 0 of 1 comparisons, not in area of large against small ({NAMES[0]}, the same "
        f"in 2 of 3 trainings; {NAMES[1]}, the same in 1 of 2 conventions)." in said
    )


def test_synthetic_populations_survive(evidence: Evidence) -> None:
    found = conclusions(evidence)
    assert len(found) == 4 * 5
    area = found[found["feature"] == "area"]
    assert area["conclusion"].nunique() == 1


def test_bias_that_is_not_known_is_not_said(evidence: Evidence) -> None:
    table = evidence.statistics.copy()
    circularity = (table["feature"] == "circularity") & (table["b"] == TRUTH)
    table.loc[circularity, "difference"] = np.nan
    said = cells_said(replace(evidence, statistics=table), NAMES[0])[0].split(" Only on")[0]
    assert "nan" not in said
    assert "circularity" not in said
    assert "solidity" in said


def test_one_invented_cell_does_not_exist(evidence: Evidence) -> None:
    errors = evidence.errors[evidence.errors["image"] == "t000"]
    said = " ".join(cells_said(replace(evidence, errors=errors), NAMES[0]))
    assert "of the 50 cells that it drew, 1 does not exist." in said
