"""What the report of a planted sweep has to show, computed by hand from what was planted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tests.analysis import by_hand, by_hand_methods
from tests.analysis.by_hand import Array, Sides
from tests.analysis.planted_study import PIXEL_UM, Planted

TRUTH = "ground truth"
NAMES = {"A": "TableA, 2-class", "B": "TableB, 2-class", "C": "TableC, 3-class"}
GAP_NAME = "TableB, 2-class, gap given back"
"""The gap is given back for the candidate with the highest IoU."""
RECOMMENDED = NAMES["A"]
CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")


@dataclass(frozen=True)
class Difference:
    """One row of a table of features."""

    a: str
    b: str
    feature: str
    table_a: pd.DataFrame
    table_b: pd.DataFrame
    sides: Sides
    margin: float
    """In pixels."""

    @property
    def scale(self) -> float:
        """What turns pixels into the unit that is shown."""
        return PIXEL_UM ** by_hand.POWERS.get(self.feature, 0)

    @property
    def means(self) -> tuple[float, float]:
        """Means over all cells."""
        return self.table_a[self.feature].mean(), self.table_b[self.feature].mean()


class Expected:
    """Everything that can be computed by hand of one planted sweep.

    What half a pixel does to shapes, and other conventions than scikit-image's, are tested
    elsewhere: their functions are given.
    """

    def __init__(
        self,
        study: Planted,
        unit: str,
        half_pixel: Callable[..., float],
        measure: Callable[..., pd.DataFrame],
    ) -> None:
        self.study, self.unit, self.half_pixel, self.measure = study, unit, half_pixel, measure
        own: dict[str, list[str]] = {}
        for trial_id, one in study.trials.items():
            if one.letter in NAMES and one.quality:
                own.setdefault(NAMES[one.letter], []).append(trial_id)
        self.trials = {**own, GAP_NAME: own[NAMES["B"]]}
        """Trials of each method."""
        best = {name: max(ids, key=lambda i: study.trials[i].val_iou) for name, ids in own.items()}
        self.shown = {**best, GAP_NAME: best[NAMES["B"]]}
        """The trial of each method whose cells are shown."""

    def unit_of(self, stem: str) -> str:
        """Give the independent unit of an image."""
        return self.study.groups[stem] if self.unit == "group" else stem

    def labels(self, name: str, trial_id: str, stem: str, parameters: str) -> by_hand.Labels:
        """Give the label image that has to be scored."""
        if name in self.study.others:
            return self.study.others[name][stem]
        return self.study.cells(trial_id, stem, "gap" if name == GAP_NAME else parameters)

    def fractions(self, name: str, trial_id: str, split: str, parameters: str) -> dict[str, Any]:
        """Give the numerators and denominators of each image."""
        key = (name, trial_id, split, parameters)
        if key not in self._fractions:
            self._fractions[key] = {
                stem: by_hand.fractions(
                    self.study.true[stem], self.labels(name, trial_id, stem, parameters)
                )
                for stem in self.study.split[split]
            }
        return self._fractions[key]

    @cached_property
    def _fractions(self) -> dict[tuple[str, ...], dict[str, Any]]:
        return {}

    def by_unit(self, images: Mapping[str, Any]) -> dict[str, float]:
        """Give the mean AP of each unit."""
        units: dict[str, list[Any]] = {}
        for stem, one in images.items():
            units.setdefault(self.unit_of(stem), []).append(one)
        return {unit: by_hand.scores(own)["ap_mean"] for unit, own in units.items()}

    def standing(self, split: str) -> dict[str, Array]:
        """Give `_standing`, computed once."""
        if split not in self._known:
            self._known[split] = self._standing(split)
        return self._known[split]

    @cached_property
    def _known(self) -> dict[str, dict[str, Array]]:
        return {}

    def _standing(self, split: str) -> dict[str, Array]:
        """Give the (seeds, units) mean AP of each method, without units that nobody is scored in.

        In a unit without true cells, who shows none has made no mistake if others show some.
        """
        table = {
            name: [
                self.by_unit(self.fractions(name, trial_id, split, "calibrated"))
                for trial_id in ids
            ]
            for name, ids in self.trials.items()
        }
        units = list(next(iter(table.values()))[0])
        values = {
            name: np.array([[one[unit] for unit in units] for one in seeds])
            for name, seeds in table.items()
        }
        known = ~np.isnan(np.concatenate(list(values.values()))).all(0)
        return {name: np.nan_to_num(one[:, known], nan=1.0) for name, one in values.items()}

    @cached_property
    def order(self) -> list[str]:
        """Methods, best on validation first."""
        means = {name: one.mean() for name, one in self.standing("val").items()}
        return sorted(means, key=lambda name: -means[name])

    @cached_property
    def tied(self) -> list[str]:
        """Methods that may be the best."""
        p = by_hand_methods.leaving(self.standing("val"))
        return [name for name in self.order if p[name] > 0.05]

    @cached_property
    def objects(self) -> pd.DataFrame:
        """All cells of the test images that are compared, with columns method, unit, group, image
        and population.
        """
        tables = []
        for name in (TRUTH, *self.trials, *self.study.others):
            for stem in self.study.split["test"]:
                true = self.study.true[stem]
                found = None
                if name != TRUTH:
                    found = self.labels(name, self.shown.get(name, ""), stem, "calibrated")
                rows = by_hand.cells(true, found)
                known = [self.study.population.get((stem, own)) for own in rows["own"]]
                tables.append(
                    rows.assign(
                        method=name,
                        image=stem,
                        unit=self.unit_of(stem),
                        group=self.study.groups[stem],
                        population=pd.Series(known, dtype=object),
                    )
                )
        table = pd.concat(tables, ignore_index=True)
        return table[~table["left_out"].astype(bool)]

    def of(self, method: str) -> pd.DataFrame:
        """Give the cells of one method that are compared."""
        return self.objects[self.objects["method"] == method]

    def margin(self, tables: Sequence[pd.DataFrame], feature: str) -> float:
        """Give what half a pixel does to such cells, each table counting the same."""
        found = []
        for table in tables:
            radii = table["radius"].to_numpy(float)
            known = {
                "area": float(np.mean(math.pi * radii + math.pi / 4)),
                "perimeter": math.pi,
                "radius": 0.5,
            }
            other = self.half_pixel(table["area"], feature, convention="skimage")
            found.append(known.get(feature, other))
        return float(np.mean(found))

    def difference(
        self, a: str, b: str, feature: str, a_rows: pd.DataFrame, b_rows: pd.DataFrame
    ) -> Difference:
        """Compare two tables of cells."""
        levels = [b_rows] if b == TRUTH else [a_rows, b_rows]
        sides = by_hand.sides(a_rows, b_rows, feature, "unit")
        return Difference(a, b, feature, a_rows, b_rows, sides, self.margin(levels, feature))

    @cached_property
    def against_truth(self) -> dict[tuple[str, str], Difference]:
        """Differences from the truth by method and feature."""
        return {
            (name, feature): self.difference(name, TRUTH, feature, self.of(name), self.of(TRUTH))
            for name in (*self.trials, *self.study.others)
            for feature in by_hand.FEATURES
        }

    def populations(self, method: str) -> dict[tuple[str, str, str], Difference]:
        """Differences between the populations within one method."""
        if method not in self._populations:
            self._populations[method] = self._compared(method)
        return self._populations[method]

    @cached_property
    def _populations(self) -> dict[str, dict[tuple[str, str, str], Difference]]:
        return {}

    def _compared(self, method: str) -> dict[tuple[str, str, str], Difference]:
        table = self.of(method)
        names = sorted(table["population"].dropna().unique())
        return {
            (a, b, feature): self.difference(
                a, b, feature, table[table["population"] == a], table[table["population"] == b]
            )
            for a, b in combinations(names, 2)
            for feature in by_hand.FEATURES
        }

    def _again(self, method: str, trial_id: str, convention: str) -> pd.DataFrame:
        """Give the cells of one training of a method, measured in another convention."""
        tables = []
        for stem in self.study.split["test"]:
            true = self.study.true[stem]
            found = None if method == TRUTH else self.labels(method, trial_id, stem, "calibrated")
            rows = by_hand.cells(true, found)
            rows = rows[~rows["left_out"].astype(bool)]
            if convention != "skimage":
                shown = self.measure(true if found is None else found, convention=convention)
                other = shown.set_index("label")[list(by_hand.TESTED)]
                rows = rows.drop(columns=list(by_hand.TESTED)).join(other, on="label")
            known = [self.study.population.get((stem, own)) for own in rows["own"]]
            named = rows.assign(population=pd.Series(known, rows.index, dtype=object))
            tables.append(named.assign(unit=self.unit_of(stem), group=self.study.groups[stem]))
        return pd.concat(tables, ignore_index=True)

    def conclusion(
        self, method: str, trial_id: str, convention: str, key: tuple[str, str, str]
    ) -> str:
        """Say what the interval of a difference between populations shows; '' for none."""
        known = (method, trial_id, convention)
        if known not in self._cells:
            self._cells[known] = self._again(*known)
        table, (a, b, feature) = self._cells[known], key
        both = [table[table["population"] == name].dropna(subset=[feature]) for name in (a, b)]
        one = by_hand.sides(both[0], both[1], feature, "unit")
        if not one.enough:
            return ""
        low, high = one.interval
        return "a is larger" if low > 0 else "a is smaller" if high < 0 else "no difference shown"

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        return {}

    def same_in(self, method: str, key: tuple[str, str, str]) -> tuple[list[bool], list[bool]]:
        """Say in which trainings, and in which conventions, the conclusion is that of the truth."""
        shown = self.shown.get(method, "")
        true = {c: self.conclusion(TRUTH, "", c, key) for c in CONVENTIONS}
        if method == TRUTH:
            return [], [true[c] == true["skimage"] for c in CONVENTIONS]
        trainings = [
            self.conclusion(method, trial_id, "skimage", key) == true["skimage"]
            for trial_id in self.trials.get(method, [])
        ]
        again = [self.conclusion(method, shown, c, key) == true[c] for c in CONVENTIONS]
        return trainings, again

    def family(self, rows: Mapping[Any, Difference]) -> dict[Any, float]:
        """Give the corrected p of each difference that is tested."""
        own = {
            key: one
            for key, one in rows.items()
            if one.feature in by_hand.TESTED and one.sides.enough
        }
        p = by_hand.step_down([one.sides for one in own.values()])
        return dict(zip(own, p))

    def pairs(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Give true and found values of the cells that all methods found, but those that found
        fewer than half of the cells; labels that were given do not count as methods.
        """
        true = self.of(TRUTH).set_index(["image", "label"])
        found = {}
        common = set(true.index)
        for name in (*self.trials, *self.study.others):
            own = self.of(name)
            own = own[own["matched"] > 0].set_index(["image", "matched"])
            found[name] = own[own.index.isin(true.index)]
            if name in self.trials and 2 * len(found[name]) >= len(true):
                common &= set(found[name].index)
        tables = {}
        for name, own in found.items():
            both = [key for key in own.index if key in common]
            for feature in by_hand.FEATURES:
                tables[name, feature] = pd.DataFrame(
                    {
                        "true": true.loc[both, feature].to_numpy(float),
                        "pred": own.loc[both, feature].to_numpy(float),
                        "unit": true.loc[both, "unit"].to_numpy(),
                    }
                )
        return tables

    @cached_property
    def agreement(self) -> dict[tuple[str, str], dict[str, float]]:
        """Agreement of each method and feature, in pixels."""
        return {key: by_hand.agreement(table) for key, table in self.pairs().items() if len(table)}
