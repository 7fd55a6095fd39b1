"""Which method for which purpose: against numbers computed by hand from the same cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import TRUTH, Evidence
from analysis.report.purposes import COUNTING, FEATURES, Purpose, purposes, purposes_said
from tests.analysis.evidence_data import METHODS, make_evidence

NAMES = list(METHODS)
UNITS = 8


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(units=UNITS, architectures=("Unet", "PAN"), encoders=("resnet152",))


def rows(evidence: Evidence) -> dict[str, Purpose]:
    return {row.purpose: row for row in purposes(evidence)}


def with_errors(evidence: Evidence, missed: dict[str, list[int]]) -> Evidence:
    """Give errors of nothing but missed cells: so many of 50 in each unit."""
    table = evidence.errors[evidence.errors["method"].isin(missed)].copy()
    table[["true_cells", "predicted_cells"]] = 0
    for name, counts in missed.items():
        for number, count in enumerate(counts):
            own = (table["method"] == name) & (table["group"] == f"field{number}")
            table.loc[own & (table["cause"] == "missed"), "true_cells"] = count
            table.loc[own & (table["cause"] == "boundary"), "true_cells"] = 50 - count
    return replace(evidence, errors=table)


def test_counting_names_the_method_with_the_fewest_wrong_cells(evidence: Evidence) -> None:
    row = rows(evidence)[COUNTING]
    # of 50 cells in each image the first method misses 0, merges 4, splits 1 and invents 1
    assert row.method == NAMES[0]
    assert row.gives == (
        "12.0 wrong cells for 100 true ones (0 missed, 32 merged, 8 split, 8 invented; 400 true "
        "cells); F1 at 0.5 is 0.940"
    )
    # each other one misses one more in every image: always behind
    assert row.equals == "none of the others"


def test_methods_whose_lead_changes_from_unit_to_unit_may_be_as_good(evidence: Evidence) -> None:
    missed = {
        NAMES[0]: [2, 1, 3, 2, 1, 3, 2, 2],
        NAMES[1]: [1, 2, 2, 3, 2, 2, 2, 1],
        NAMES[2]: [9, 8, 9, 8, 9, 8, 9, 8],
    }
    row = rows(with_errors(evidence, missed))[COUNTING]
    assert row.method == NAMES[1]
    assert row.gives.startswith("3.8 wrong cells for 100 true ones (15 missed")
    assert row.equals == NAMES[0]
    equal = rows(with_errors(evidence, dict.fromkeys(NAMES[:3], missed[NAMES[0]])))[COUNTING]
    assert (equal.method, equal.equals) == (NAMES[0], "all 2 others")


def test_biases_are_those_of_the_means_over_all_cells(evidence: Evidence) -> None:
    cells = evidence.cells
    found = rows(evidence)
    for feature, purpose in FEATURES.items():
        means = cells.groupby("method")[feature].mean()
        bias = (100 * (means / means[TRUTH] - 1)).drop(TRUTH)
        name = bias.abs().idxmin()
        assert found[purpose].method == name
        assert found[purpose].gives.startswith(f"{bias[name]:+.1f} % against the true cells (95 %")


def planted(evidence: Evidence, scale: dict[str, float]) -> Evidence:
    """Give cells whose areas are those of the truth times a factor, and a little chance."""
    rng = np.random.default_rng(0)
    truth = evidence.objects[evidence.objects["method"] == TRUTH]
    tables = [truth]
    for name, factor in scale.items():
        chance = 1 + rng.normal(0, 0.004, truth["group"].nunique())
        own = truth["group"].map(dict(zip(truth["group"].unique(), chance)))
        tables.append(truth.assign(method=name, area=truth["area"] * factor * own))
    return replace(evidence, objects=pd.concat(tables, ignore_index=True))


def test_biases_of_either_sign_are_compared_by_size(evidence: Evidence) -> None:
    scale = {NAMES[0]: 1.1, NAMES[1]: 0.97, NAMES[2]: 1.03, NAMES[3]: 0.85}
    row = rows(planted(evidence, scale))["measuring size (mean area)"]
    assert row.method in NAMES[1:3]
    assert row.equals == next(name for name in NAMES[1:3] if name != row.method)


def test_too_few_units_or_methods(evidence: Evidence) -> None:
    few = make_evidence(units=5, architectures=("Unet", "PAN"), encoders=("resnet152",))
    found = rows(few)
    assert len(found) == 4
    for row in found.values():
        assert row.equals == "not known: 5 independent groups, at least 6 needed"
    assert "interval" not in found["measuring size (mean area)"].gives
    one = evidence.methods[evidence.methods["method"] == NAMES[0]]
    assert purposes(replace(evidence, methods=one)) == []
    single = make_evidence(units=1, architectures=("Unet", "PAN"), encoders=("resnet152",))
    assert len(purposes(single)) == 4
    nothing = replace(evidence, errors=evidence.errors.iloc[:0], objects=evidence.objects.iloc[:0])
    assert purposes(nothing) == []


def test_the_sentence_says_that_test_images_chose_nothing(evidence: Evidence) -> None:
    said = purposes_said(evidence)
    assert "from the test images (best seed; 8 independent groups, 420 true cells)" in said
    assert "not used for the recommendation" in said
