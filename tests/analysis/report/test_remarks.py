"""What the page remarks beside its numbers, against cases computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import TRUTH, Evidence
from analysis.report.answer import answer
from analysis.report.remarks import (
    against_validation,
    calibration_said,
    second_said,
    small_cells_said,
)
from tests.analysis.evidence_data import METHODS, make_evidence

NAMES = list(METHODS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))


def standing(leads: list[float]) -> pd.DataFrame:
    """Give scores of two methods, the first one ahead by so much on each unit."""
    rows = [
        (name, 0, f"u{number}", 0.5 + 0.01 * number + lead * (name == NAMES[0]))
        for number, lead in enumerate(leads)
        for name in NAMES[:2]
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "unit", "score"])


def test_second_by_hand(evidence: Evidence) -> None:
    leads = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    (said,) = second_said(replace(evidence, standing=standing(leads)))
    # with six units, the test only rejects differences with all units on one side of them
    assert said == (
        f"Second is {NAMES[1]}, with a mean AP lower by 0.035 (95 % confidence interval of the "
        "difference, over 6 groups: 0.010 to 0.060; not corrected for "
        "the choice of these two by their scores)."
    )
    twice = pd.concat([standing(leads), standing(leads).assign(seed=1)])
    assert (
        "; for these trainings, and not corrected for"
        in second_said(replace(evidence, standing=twice))[0]
    )
    (few,) = second_said(replace(evidence, standing=standing(leads[:5])))
    assert few == f"Second is {NAMES[1]}, with a mean AP lower by 0.030."
    one = evidence.methods[evidence.methods["method"] == NAMES[0]]
    assert second_said(replace(evidence, methods=one)) == []


def test_second_is_compared_on_the_units_that_all_methods_have(evidence: Evidence) -> None:
    table = standing([0.5, *[0.02] * 6])
    table.loc[0, "score"] = np.nan
    (said,) = second_said(replace(evidence, standing=table))
    assert "lower by 0.020" in said
    assert "over 6 groups: 0.020 to 0.020" in said


def with_test(evidence: Evidence, test: float, low: float, high: float) -> Evidence:
    first = evidence.methods["method"] == NAMES[0]
    units = evidence.units.copy()
    own = (units["method"] == NAMES[0]) & (units["metric"] == "ap_mean")
    units.loc[own & (units["split"] == "test") & (units["parameters"] == "calibrated"), "value"] = (
        test
    )
    methods = evidence.methods.copy()
    methods.loc[first, ["val_score", "val_low", "val_high"]] = 0.985, 0.967, 1.0
    methods.loc[first, ["measured_low", "measured_high"]] = low, high
    return replace(evidence, units=units, methods=methods)


def test_a_test_score_is_set_against_validation(evidence: Evidence) -> None:
    assert against_validation(with_test(evidence, 0.948, 0.887, 1.0)) == (
        "The test score is lower than that on validation by 0.037; their confidence intervals "
        "overlap, so this may be chance. On new images of the same kind expect about the test "
        "score."
    )
    assert "higher than that on validation by 0.005" in against_validation(
        with_test(evidence, 0.99, 0.9, 1.0)
    )
    apart = against_validation(with_test(evidence, 0.8, 0.7, 0.9))
    assert apart == (
        "The test score is lower than that on validation by 0.185; their confidence intervals do "
        "not overlap."
    )
    nan = float("nan")
    assert against_validation(with_test(evidence, 0.948, nan, nan)) == (
        "The test score is lower than that on validation by 0.037. On new images of the same kind "
        "expect about the test score."
    )
    assert "the same as that on validation" in against_validation(
        with_test(evidence, 0.985, 0.9, 1.0)
    )
    assert any("may be chance" in s for s in answer(with_test(evidence, 0.9, 0.8, 1.0)).details)


def test_methods_that_calibration_lowered_are_named(evidence: Evidence) -> None:
    assert calibration_said(evidence) == ""
    scores = evidence.scores.copy()
    rows = (scores["split"] == "test") & (scores["metric"] == "ap_mean")
    for name, default in ((NAMES[1], 0.742), (NAMES[3], 0.9)):
        own = rows & (scores["method"] == name) & (scores["parameters"] == "default")
        scores.loc[own, "value"] = default
    said = calibration_said(replace(evidence, scores=scores))
    assert said.startswith("Calibration lowered the mean AP on the test images for ")
    assert f"for {NAMES[1]} (by 0.012); {NAMES[3]} (by 0.280):" in said
    assert said.endswith("For the other methods it did not.")
    assert calibration_said(replace(evidence, scores=scores.iloc[:0])) == ""


def test_minimum_sizes_near_the_smallest_true_cell_are_named(evidence: Evidence) -> None:
    truth = evidence.objects["method"] == TRUTH
    objects = evidence.objects.copy()
    objects.loc[truth, "area"] = 250.0
    objects.loc[objects[truth].index[3], "area"] = 60.0
    objects.loc[objects[truth & objects["left_out"]].index[0], "area"] = 5.0  # cut by the border
    methods = evidence.methods.copy()
    small = json.dumps({"min_size": 30})
    methods["calibrated"] = [
        json.dumps({"min_size": 31}) if name == NAMES[2] else small for name in methods["method"]
    ]
    said = small_cells_said(replace(evidence, objects=objects, methods=methods))
    assert said.startswith("Small cells: the smallest true cell of the test images has 60 px²")
    assert f"near that or above it for {NAMES[2]} (31 px²)." in said
    assert NAMES[0] not in said
    every = methods.assign(calibrated=json.dumps({"min_size": 31}))
    assert "; and 1 more. A method" in small_cells_said(
        replace(evidence, objects=objects, methods=every)
    )
    assert small_cells_said(replace(evidence, objects=objects, methods=methods.iloc[:1])) == ""
    assert small_cells_said(replace(evidence, objects=objects.iloc[:0])) == ""
