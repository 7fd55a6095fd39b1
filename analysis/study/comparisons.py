"""All comparisons of a report: between methods, between populations of cells, with the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.evidence import FEATURES, TRUTH
from analysis.morphology.noise import noise_floor
from analysis.statistics.pairs import RESAMPLES, agreement, compare
from analysis.study.families import Annotators, Question, length_unit, with_verdicts

UNITS = ("group", "image", "track")
MOST_GROUPS = 6
"""Most groups of images to compare with each other; more would give too many pairs."""
QUARTILES = (0.25, 0.5, 0.75)
FOUND_ENOUGH = 0.5
"""Share of the true cells that a method must have found for cells found by all to be those that it
found, too."""


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
    recommended: str | None = None,
    annotator: str | None = None,
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
    recommended : str, optional
        The method whose populations are tested.
    annotator : str, optional
        The method whose cells a second person drew: see `analysis.study.families.Annotators`.
    resamples, seed : int
        See `analysis.statistics.compare`.

    Returns
    -------
    DataFrame
        See `analysis.evidence.Evidence.statistics`; empty if there is nothing to compare.
    """
    table = with_unit(objects, unit)
    people = None
    if annotator is not None:
        people = Annotators(annotator, table[table["method"].isin([TRUTH, annotator])])
    return answered(
        list(_questions(table[table["unit"].notna()], unit)),
        recommended=recommended,
        annotators=people,
        convention=convention,
        resamples=resamples,
        seed=seed,
    )


def answered(
    questions: Sequence[Question],
    *,
    recommended: str | None,
    convention: str,
    resamples: int,
    seed: int,
    annotators: Annotators | None = None,
) -> pd.DataFrame:
    """Compare all pairs of each question in all features; see `comparisons`.

    Parameters
    ----------
    questions : sequence of Question
        Their cells have the column ``unit``, see `with_unit`.
    recommended, convention, resamples, seed
        See `comparisons`.
    annotators : Annotators, optional
        See `analysis.study.families.with_verdicts`.
    """
    tables = []
    for question in questions:
        for feature in FEATURES:
            column, length = length_unit(question.cells, feature)
            found = compare(
                question.cells,
                feature=column,
                by=question.by,
                unit="unit",
                resamples=resamples,
                seed=seed,
            ).assign(feature=feature)
            found.insert(0, "comparison", question.comparison)
            found.insert(1, "method", question.method)
            found.insert(3, "feature_unit", length)
            if len(found):
                tables.append(found)
    if not tables:
        return pd.DataFrame()
    return with_verdicts(
        pd.concat(tables, ignore_index=True),
        questions,
        annotators=annotators,
        recommended=recommended,
        convention=convention,
        resamples=resamples,
        seed=seed,
    )


def _questions(table: pd.DataFrame, unit: str) -> Iterator[Question]:
    if table["method"].nunique() > 1:
        # the truth comes last: a difference is method minus truth
        true = table["method"] == TRUTH
        yield Question("methods", "", pd.concat([table[~true], table[true]]), "method")
    # groups of images are populations where nothing smaller is named and they are not the units
    by_group = unit != "group" and table["population"].isna().all()
    if by_group and 2 <= table["group"].nunique() <= MOST_GROUPS:
        for method, rows in table.groupby("method", sort=False):
            # under another name: what differs between groups has groups as its units
            between = rows.sort_values("group").assign(between=lambda cells: cells["group"])
            yield Question("groups", str(method), between, "between")
    for method, rows in table.groupby("method", sort=False):
        named = rows[rows["population"].notna()]
        if named["population"].nunique() > 1:
            # the same pairs the same way round for every method
            cells = named.sort_values("population", kind="stable")
            yield Question("populations", str(method), cells, "population")


def agreements(objects: pd.DataFrame, *, unit: str = "group") -> pd.DataFrame:
    """Compare each method's features with the truth's, cell by cell, for cells that all have.

    A method that found fewer than half of the true cells does not take cells from the others; nor
    do labels that were given (with an empty trial_id).

    Returns
    -------
    DataFrame
        See `analysis.evidence.Evidence.agreement`.
    """
    rows = []
    for method, feature, pairs in _matched(objects, unit):
        one = dict(agreement(pairs, feature_true="true", feature_pred="pred", unit="unit"))
        mean = _unit_mean(pairs)
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
    """Return the bias in each unit alone, for the cells of `agreements`.

    Returns
    -------
    DataFrame
        One row per method, feature and unit: method, trial_id, split, metric ('bias_area', ...),
        unit, value: mean of method minus truth over the unit's cells, divided by the mean of the
        truth's means over units.
    """
    tables = []
    for method, feature, pairs in _matched(objects, unit):
        mean = _unit_mean(pairs)
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


def _unit_mean(pairs: pd.DataFrame) -> float:
    return float(pairs["true"].groupby(pairs["unit"]).mean().mean())


def _matched(objects: pd.DataFrame, unit: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the cells that all methods found, as a table with true, pred and unit, for each method
    and feature.
    """
    table = with_unit(objects, unit)
    true = table[table["method"] == TRUTH].set_index(["image", "label"])
    keys: dict[str, pd.MultiIndex] = {}
    rows: dict[str, pd.DataFrame] = {}
    given = set(table.loc[table["trial_id"] == "", "method"]) if "trial_id" in table else set()
    for method, found in table[table["method"] != TRUTH].groupby("method", sort=False):
        found = found[found["matched_label"].notna()]
        own = pd.MultiIndex.from_arrays([found["image"], found["matched_label"].astype("int64")])
        there = own.isin(true.index)  # not the cells at a border, which are left out
        rows[str(method)], keys[str(method)] = found[there], own[there]
    common = true.index
    for name, own in keys.items():
        if name not in given and len(own) >= FOUND_ENOUGH * len(true):
            common = common[common.isin(own)]
    for method, own in keys.items():
        shared = own.isin(common)
        partner, found = true.reindex(own[shared]), rows[method][shared]
        for feature in FEATURES:
            pairs = pd.DataFrame(
                {
                    "true": partner[feature].to_numpy(float),
                    "pred": found[feature].to_numpy(float),
                    "unit": found["unit"].to_numpy(),
                }
            ).dropna()
            if len(pairs):
                yield method, feature, pairs


def noise_of(objects: pd.DataFrame, convention: str, *, seed: int = 0) -> pd.DataFrame:
    """Return the noise floor at the quartiles of the true cells' areas."""
    areas = objects.loc[objects["method"] == TRUTH, "area"].dropna()
    if areas.empty:
        return pd.DataFrame()
    quartiles = areas.quantile(list(QUARTILES)).to_numpy(float)
    return noise_floor(quartiles, convention=convention, seed=seed)
