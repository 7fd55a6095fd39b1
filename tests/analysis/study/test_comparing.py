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
    assert (groups["verdict"] == "").all()
    assert (groups["family"] == "").all()
    methods = found[(found["comparison"] == "methods") & (found["feature"] == "area")].iloc[0]
    assert methods["design"] == "paired"
    assert (methods["a"], methods["b"]) == ("U-Net", TRUTH)
    assert methods["unit_difference"] == pytest.approx(10)


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


def cells(extra: dict[str, float], images: int = 12) -> pd.DataFrame:
    """Return 20 round cells of radius 8 in each image, true and found.

    The method draws the boundary further out by `extra` pixels, by population.
    """
    rng = np.random.default_rng(0)
    rows = []
    for image in range(images):
        field, drawn = rng.normal(0, 0.3), rng.normal(0, 0.1)
        for label in range(1, 21):
            population = ("large", "small")[label % 2]
            radius = 8 + 2 * (population == "large") + field + rng.normal(0, 0.5)
            for method in (TRUTH, "U-Net"):
                own = radius
                if method != TRUTH:
                    own += extra[population] + drawn + rng.normal(0, 0.1)
                noise = rng.normal(0, 0.004, 3)
                row: dict[str, object] = {"area": np.pi * own**2, "perimeter": 2 * np.pi * own}
                row |= {"circularity": 0.9 + noise[0], "solidity": 0.95 + noise[1]}
                row |= {"radius": own, "shape_index": 3.7 + noise[2], "method": method}
                row |= {"image": f"i{image}", "group": f"g{image}", "track": pd.NA}
                row |= {"label": label, "matched_label": label, "population": population}
                rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"population": "string", "matched_label": "Int64", "track": "Int64"})


def verdicts(table: pd.DataFrame, comparison: str = "methods") -> dict[str, str]:
    found = comparisons(table, recommended="U-Net", resamples=999)
    own = found[(found["comparison"] == comparison) & (found["family"] != "")]
    return dict(zip(own["feature"], own["verdict"]))


def test_a_quarter_pixel_of_boundary_is_equivalent_and_a_whole_one_is_different() -> None:
    shapes = {"circularity": "equivalent", "solidity": "equivalent"}
    others = {"radius": "", "shape_index": ""}
    quarter = verdicts(cells({"large": 0.25, "small": 0.25}))
    assert quarter == {"area": "equivalent", "perimeter": "equivalent"} | shapes | others
    whole = verdicts(cells({"large": 1.0, "small": 1.0}))
    assert whole == {"area": "different", "perimeter": "different"} | shapes | others
    half = verdicts(cells({"large": 0.5, "small": 0.5}))
    assert half["area"] == half["perimeter"] == "different"


def test_populations_are_tested_within_the_recommended_method_alone() -> None:
    table = cells({"large": 0.0, "small": 0.0})
    assert verdicts(table, "populations")["area"] == "different"
    found = comparisons(table, recommended="U-Net", resamples=99)
    rows = found[found["comparison"] == "populations"]
    assert set(rows.loc[rows["family"] != "", "method"]) == {"U-Net"}
    rest = rows[rows["method"] == TRUTH]
    assert rest[["p_family", "p_equivalent"]].isna().all(axis=None)
    assert rest["unit_difference_low"].notna().all()
    few = comparisons(cells({"large": 0.0, "small": 0.0}, 5), recommended="U-Net", resamples=99)
    assert (few["verdict"] == "").all()


def test_sizes_are_in_micrometres_where_these_are_known() -> None:
    table = cells({"large": 1.0, "small": 1.0})
    known = table.assign(area_um2=table["area"] / 4, perimeter_um=table["perimeter"] / 2)
    found, pixels = (comparisons(one, resamples=99) for one in (known, table))
    for feature, unit, factor in (("area", "um2", 4), ("perimeter", "um", 2), ("radius", "px", 1)):
        a, b = (one[one["feature"] == feature].iloc[0] for one in (found, pixels))
        assert a["feature_unit"] == unit
        for column in ("unit_difference", "margin", "mean_b"):
            assert a[column] == pytest.approx(b[column] / factor)
        assert (a["p_family"], a["verdict"]) == pytest.approx(
            (b["p_family"], b["verdict"]), nan_ok=True
        )


def test_the_margin_is_the_disagreement_of_two_people_where_it_is_known() -> None:
    """By hand: the mean over images of how far the two people's means are apart."""
    table = cells({"large": 1.0, "small": 1.0})
    rng = np.random.default_rng(4)
    true = table[table["method"] == TRUTH]
    shift = true["image"].map({f"i{k}": rng.normal(0, 30) for k in range(12)})
    shift = shift.where(true["population"] == "large", -2 * shift)
    second = true.assign(method="second", area=true["area"] + shift)
    everything = pd.concat([table, second], ignore_index=True)
    options = {"recommended": "U-Net", "resamples": 99, "annotator": "second"}
    found = comparisons(everything, **options)  # type: ignore[arg-type]
    area = found[found["feature"] == "area"]
    of_images = shift.groupby(true["image"]).mean().abs().mean()
    methods = area[(area["comparison"] == "methods") & (area["a"] == "U-Net")]
    against_truth = methods[methods["b"] == TRUTH].iloc[0]
    assert against_truth["margin"] == pytest.approx(of_images)
    assert against_truth["family"] == "methods against truth"
    both = area[(area["a"] == "second") & (area["b"] == TRUTH)].iloc[0]
    assert both["verdict"] == both["family"] == ""
    each = shift.abs().groupby([true["population"], true["image"]]).mean().groupby(level=0).mean()
    populations = area[(area["comparison"] == "populations") & (area["method"] == "U-Net")]
    assert populations["margin"].iloc[0] == pytest.approx(each.mean())
    # where the second person drew no cell of these units: half a pixel around discs of radius 9
    nobody = comparisons(
        pd.concat([table, second.assign(image="elsewhere", group="elsewhere")], ignore_index=True),
        **options,  # type: ignore[arg-type]
    )
    plain = comparisons(table, recommended="U-Net", resamples=99)
    for one in (nobody, plain):
        rows = one[(one["feature"] == "area") & (one["a"] == "U-Net") & (one["b"] == TRUTH)]
        assert rows["margin"].iloc[0] == pytest.approx(9 * np.pi + np.pi / 4, abs=0.3)


def test_cells_that_all_methods_found() -> None:
    """The second method fuses cells, so that only the other half can be compared.

    A third one, which found almost nothing, takes no cells from the others.
    """
    table = cells({"large": 0.0, "small": 0.0})
    second = table[table["method"] == "U-Net"].assign(method="second")
    fused = second["population"] == "small"
    second["matched_label"] = second["matched_label"].mask(fused)
    second["area"] = second["area"].mask(fused, 900.0)
    third = second[second["label"] == 2].assign(method="third")
    found = agreements(pd.concat([table, second, third], ignore_index=True), unit="image")
    n = found[found["feature"] == "area"].set_index("method")["n"]
    assert n.to_dict() == {"U-Net": 120, "second": 120, "third": 12}
    # given labels take none either, however many they found
    given = [table.assign(trial_id="t1"), second.assign(method="given", trial_id="")]
    found = agreements(pd.concat(given, ignore_index=True), unit="image")
    n = found[found["feature"] == "area"].set_index("method")["n"]
    assert n.to_dict() == {"U-Net": 240, "given": 120}
    both = comparisons(pd.concat([table, second], ignore_index=True), resamples=99)
    rows = both[(both["feature"] == "area") & (both["b"] == TRUTH)].set_index("a")
    # what would be published has the fused cells, cells found by all do not
    published = rows["difference"] / rows["mean_b"]
    assert published["second"] > 1
    matched = agreements(pd.concat([table, second], ignore_index=True), unit="image")
    bias = matched[matched["feature"] == "area"].set_index("method")["relative_bias"]
    assert abs(bias["second"]) < 0.05
