"""All comparisons of a report: between methods, between populations of cells, with the truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.evidence import FEATURES, TRUTH
from analysis.morphology.noise import discretisation_difference, noise_floor
from analysis.statistics.pairs import RESAMPLES, agreement, compare, holm

UNITS = ("group", "image", "track")
MOST_GROUPS = 6
"""Most groups of images to compare with each other; more would give too many pairs."""
QUARTILES = (0.25, 0.5, 0.75)


def with_unit(objects: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Add the column ``unit``: the name of the group or image, or the track within its group.

    With tracks as units, objects without a track (those found by a method only) get no unit, and
    tests leave them out.
    """
    table = objects.copy()
    if unit == "track":
        track = table["track"].astype("string")
        table["unit"] = (table["group"].astype("string") + "/" + track).where(track.notna())
    else:
        table["unit"] = table[unit].astype("string")
    return table


def comparisons(
    objects: pd.DataFrame,
    *,
    unit: str = "group",
    convention: str = "trackmate",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare all pairs of methods, and within each method all pairs of populations.

    Where objects.csv names no population and units are smaller than groups (``image`` or
    ``track``), the groups of images (patients, treatments, ...) are described like populations;
    they are not tested, since one group against another is one unit against one.

    Parameters
    ----------
    objects : DataFrame
        See `analysis.evidence.Evidence.objects`.
    unit : {"group", "image", "track"}
        The independent unit.
    convention : str
        Convention with which the objects were measured.
    resamples : int
        See `analysis.statistics.compare`.
    seed : int
        Of all that is random: permutations, and the shifts of discs on their pixels.

    Returns
    -------
    DataFrame
        See `analysis.evidence.Evidence.statistics`; empty if there is nothing to compare.
    """
    table = with_unit(objects, unit)
    table = table[table["unit"].notna()]
    tables = []
    for kind, method, part, by in _questions(table, unit):
        for feature in FEATURES:
            found = compare(
                part, feature=feature, by=by, unit="unit", resamples=resamples, seed=seed
            )
            if not len(found):
                continue
            found.insert(0, "comparison", kind)
            found.insert(1, "method", method)
            areas = {
                level: rows["area"].dropna().to_numpy(float) for level, rows in part.groupby(by)
            }
            found["discretisation"] = [
                _discretisation(areas.get(a), areas.get(b), feature, convention, seed)
                for a, b in zip(found["a"], found["b"])
            ]
            tables.append(found)
    if not tables:
        return pd.DataFrame()
    result = holm(pd.concat(tables, ignore_index=True))
    # an unknown difference is not known to be larger than pixels alone produce
    result["below_noise"] = ~(result["difference"].abs() > result["discretisation"])
    return result


def _questions(table: pd.DataFrame, unit: str) -> Iterator[tuple[str, str, pd.DataFrame, str]]:
    if table["method"].nunique() > 1:
        yield "methods", "", table, "method"
    # groups of images are populations where nothing smaller is named and they are not the units
    by_group = unit != "group" and table["population"].isna().all()
    if by_group and 2 <= table["group"].nunique() <= MOST_GROUPS:
        for method, rows in table.groupby("method", sort=False):
            # under another name: what differs between groups has groups as its units
            between = rows.sort_values("group").assign(between=lambda cells: cells["group"])
            yield "groups", str(method), between, "between"
    for method, rows in table.groupby("method", sort=False):
        named = rows[rows["population"].notna()]
        if named["population"].nunique() > 1:
            # the same pairs the same way round for every method
            yield "populations", str(method), named.sort_values("population"), "population"


def _discretisation(
    a: np.ndarray | None, b: np.ndarray | None, feature: str, convention: str, seed: int
) -> float:
    if a is None or b is None or not len(a) or not len(b):
        return float("nan")
    return float(discretisation_difference(a, b, feature, convention=convention, seed=seed))


def agreements(objects: pd.DataFrame, *, unit: str = "group") -> pd.DataFrame:
    """Compare each method's features with the truth's, for cells that both have.

    Returns
    -------
    DataFrame
        See `analysis.evidence.Evidence.agreement`.
    """
    rows = []
    for method, feature, pairs in _matched(objects, unit):
        one = dict(agreement(pairs, feature_true="true", feature_pred="pred", unit="unit"))
        mean = pairs["true"].mean()
        relative = one["bias"] / mean if mean else np.nan
        rows.append(
            {
                "method": method,
                "feature": feature,
                **one,
                "relative_bias": relative,
                "relative_low": one["bias_low"] / mean if mean else np.nan,
                "relative_high": one["bias_high"] / mean if mean else np.nan,
            }
        )
    return pd.DataFrame(rows)


def unit_biases(objects: pd.DataFrame, *, unit: str = "group") -> pd.DataFrame:
    """Return the bias in each unit alone, for cells that a method and the truth both have.

    Returns
    -------
    DataFrame
        One row per method, feature and unit: method, trial_id, split, metric ('bias_area', ...),
        unit, value: mean of method minus truth over the unit's cells, divided by the truth's mean
        over the cells of all units.
    """
    tables = []
    for method, feature, pairs in _matched(objects, unit):
        mean = pairs["true"].mean()
        if not mean:
            continue
        each = ((pairs["pred"] - pairs["true"]) / mean).groupby(pairs["unit"]).mean()
        row = {"method": method, "metric": f"bias_{feature}"}
        tables.append(pd.DataFrame({**row, "unit": each.index.astype(str), "value": each.array}))
    if not tables:
        return pd.DataFrame()
    # of one method, all objects are of one trial and one split
    trials = objects.drop_duplicates("method").set_index("method")[["trial_id", "split"]]
    return pd.concat(tables, ignore_index=True).join(trials, on="method")


def _matched(objects: pd.DataFrame, unit: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the matched cells of each method and feature as a table with true, pred and unit."""
    table = with_unit(objects, unit)
    true = table[table["method"] == TRUTH].set_index(["image", "label"])
    for method, found in table[table["method"] != TRUTH].groupby("method", sort=False):
        found = found[found["matched_label"].notna()]
        keys = pd.MultiIndex.from_arrays([found["image"], found["matched_label"].astype("int64")])
        partner = true.reindex(keys)
        for feature in FEATURES:
            pairs = pd.DataFrame(
                {
                    "true": partner[feature].to_numpy(float),
                    "pred": found[feature].to_numpy(float),
                    "unit": found["unit"].to_numpy(),
                }
            ).dropna()
            if len(pairs):
                yield str(method), feature, pairs


def noise_of(objects: pd.DataFrame, convention: str, *, seed: int = 0) -> pd.DataFrame:
    """Return the noise floor at the quartiles of the true cells' areas."""
    areas = objects.loc[objects["method"] == TRUTH, "area"].dropna()
    if areas.empty:
        return pd.DataFrame()
    quartiles = areas.quantile(list(QUARTILES)).to_numpy(float)
    return noise_floor(quartiles, convention=convention, seed=seed)
