"""What a report compares: methods, populations, and groups of images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import FEATURES, TRUTH
from analysis.study.comparisons import agreements, comparisons, unit_biases


def objects(population: bool) -> pd.DataFrame:
    """Return ten images of two patients; cells of the second are larger, the method adds 10 px."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(10):
        for label in range(1, 9):
            area = 300 + 200 * (image >= 5) + rng.normal(0, 5)
            for method, extra in ((TRUTH, 0), ("U-Net", 10)):
                row: dict[str, object] = {**dict.fromkeys(FEATURES, 1.0 + rng.normal(0, 0.01))}
                row |= {"area": area + extra, "method": method, "image": f"i{image}"}
                row |= {"group": "ab"[image >= 5], "label": label, "matched_label": label}
                row |= {"track": pd.NA, "population": "all" if population else pd.NA}
                rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"population": "string", "matched_label": "Int64", "track": "Int64"})


def test_groups_are_compared_where_no_population_is_named() -> None:
    found = comparisons(objects(False), unit="image", resamples=500)
    assert set(found["comparison"]) == {"methods", "groups"}
    groups = found[(found["comparison"] == "groups") & (found["feature"] == "area")]
    assert set(groups["method"]) == {TRUTH, "U-Net"}
    assert set(groups["a"] + groups["b"]) == {"ab"}
    assert groups["difference"].to_numpy() == pytest.approx(-200, abs=5)
    assert (groups["units_a"] == 1).all()  # a patient, whatever the number of images
    assert groups["p_unit"].isna().all()
    assert not groups["below_noise"].any()
    methods = found[(found["comparison"] == "methods") & (found["feature"] == "area")].iloc[0]
    assert methods["design"] == "paired"
    assert abs(methods["unit_difference"]) == pytest.approx(10)


@pytest.mark.parametrize(("population", "unit"), [(True, "image"), (False, "group")])
def test_groups_are_not_compared_otherwise(population: bool, unit: str) -> None:
    assert set(comparisons(objects(population), unit=unit)["comparison"]) == {"methods"}


def test_agreement_with_the_truth() -> None:
    found = agreements(objects(False), unit="image")
    area = found[found["feature"] == "area"].iloc[0]
    assert area["bias"] == pytest.approx(10)
    assert area["relative_bias"] == pytest.approx(10 / 400, rel=0.01)


def test_each_unit_has_a_bias_of_its_own() -> None:
    table = objects(False).assign(trial_id="t1", split="test")
    second = (table["group"] == "b") & (table["method"] != TRUTH)
    table.loc[second, "area"] += 20
    found = unit_biases(table, unit="group")
    area = found[found["metric"] == "bias_area"].set_index("unit")
    assert list(area.index) == ["a", "b"]
    assert area["value"].to_numpy() == pytest.approx([10 / 400, 30 / 400], rel=0.01)
    assert set(zip(found["method"], found["trial_id"], found["split"])) == {("U-Net", "t1", "test")}
    assert len(unit_biases(table, unit="image")) == 10 * len(FEATURES)
    assert unit_biases(table[table["method"] == TRUTH]).empty
