"""Are the page's statements right as often as they say? Simulated studies whose truth is known.

    python benchmarks/calibration_of_claims.py [--studies 2000] [--processes 1]
                                               [--only tied,seeds,mean,compare,pooled,families]

Each row is a kind of study, drawn again and again: how often `tied_set` excludes a method that is
as good as the best (error) and finds the one that leads (power), how often p_unit of `compare` is
at most 0.05 where nothing differs (error), how often a 95 % interval holds the truth (coverage),
how often any difference of a family is called different that is none (error), and how often a
difference as large as the margin is called equivalent (error), or one of half of it (power). In
brackets is the 95 % interval of the rate itself (Wilson), from so many studies.

Scores of methods on units: 0.7, plus a unit's own difficulty (SD .08), plus how well a method does
on that unit (SD .04), plus what a training adds (`retraining`), plus noise (SD .02). Values of
units are normal, gamma (shape 4) or lognormal (sigma 1).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics import compare, mean_interval, tied_set
from analysis.statistics.equivalence import equivalence_p
from analysis.statistics.families import family_p
from analysis.statistics.intervals import pooled_interval
from analysis.statistics.units import UnitPair

UNITS = (6, 12, 20)
RESAMPLES = 999
SEEDS = {"seeds": 3, "retraining": 0.02}
SHAPES = ("normal", "gamma(4)", "lognormal(1)")
Study = Callable[[np.random.Generator], tuple[bool, ...]]
"""Draws one study, and says of each rate whether it counts."""


class Row(NamedTuple):
    """One kind of study."""

    part: str
    kind: str
    units: str
    rates: dict[str, str]
    """error, power or coverage, and what is wanted of it."""
    study: Study


def scores(
    rng: np.random.Generator,
    units: int,
    methods: int,
    *,
    seeds: int = 1,
    retraining: float = 0.0,
    lead: float = 0.0,
    behind: float = 0.0,
) -> pd.DataFrame:
    """Draw the scores of methods; the first leads by `lead`, the last is `behind`."""
    values = 0.7 + rng.normal(0, 0.08, units) + rng.normal(0, 0.04, (methods, 1, units))
    values = values + rng.normal(0, retraining, (methods, seeds, 1))
    values = values + rng.normal(0, 0.02, (methods, seeds, units))
    values[0] += lead
    values[-1] -= behind
    method, seed, unit = (axis.ravel() for axis in np.indices(values.shape))
    return pd.DataFrame({"method": method, "seed": seed, "unit": unit, "score": values.ravel()})


def excludes_an_equal(
    rng: np.random.Generator, *, behind: float = 0.0, **options: float
) -> tuple[bool]:
    """Whether a method that is as good as the best is not tied."""
    found = tied_set(scores(rng, behind=behind, **options))  # type: ignore[arg-type]
    equal = found["method"] < found["method"].max() if behind else found["method"] >= 0
    return (not found.loc[equal, "tied"].all(),)


def finds_the_leader(rng: np.random.Generator, **options: float) -> tuple[bool]:
    """Whether the leading method is the only one of its set."""
    found = tied_set(scores(rng, **options)).set_index("method")["tied"]  # type: ignore[arg-type]
    return (bool(found[0] and found.sum() == 1),)


def unit_values(
    rng: np.random.Generator, shape: str, size: int
) -> tuple[NDArray[np.float64], float]:
    """Draw the values of units, and return their true mean, too."""
    if shape == "normal":
        return rng.normal(0, 1, size), 0.0
    if shape == "gamma(4)":
        return rng.gamma(4, 1, size), 4.0
    return rng.lognormal(0, 1, size), math.exp(0.5)


def cells(rng: np.random.Generator, shape: str, units: int, design: str) -> pd.DataFrame:
    """Draw cells of two methods that do not differ, about values of their units."""
    rows = []
    for side in "ab":
        count = units if design == "paired" else units // 2
        values, _ = unit_values(rng, shape, count)
        for unit, value in enumerate(values):
            of = f"{unit}" if design == "paired" else f"{side}{unit}"
            rows += [(side, of, v) for v in value + rng.normal(0, 1, int(rng.integers(5, 41)))]
    return pd.DataFrame(rows, columns=["by", "unit", "value"])


def differs(rng: np.random.Generator, shape: str, units: int, design: str) -> tuple[bool, bool]:
    """Whether p_unit is at most .05, and whether the interval holds the true difference, 0."""
    table = cells(rng, shape, units, design)
    row = compare(table, feature="value", by="by", unit="unit", resamples=RESAMPLES).iloc[0]
    holds = row["unit_difference_low"] <= 0 <= row["unit_difference_high"]
    return bool(row["p_unit"] <= 0.05), bool(holds)


def between_wells(rng: np.random.Generator, wells: int) -> tuple[bool]:
    """Whether p is at most .05 for a treatment without effect, fields being given as units."""
    rows = []
    for well in range(wells):
        fields = rng.normal(rng.normal(0, 1), 0.3, 10)
        rows += [("ab"[well % 2], f"{well}/{i}", str(well), v) for i, v in enumerate(fields)]
    table = pd.DataFrame(rows, columns=["by", "field", "group", "value"])
    row = compare(table, feature="value", by="by", unit="field", resamples=RESAMPLES).iloc[0]
    return (bool(row["p_unit"] <= 0.05),)


def holds_the_mean(rng: np.random.Generator, shape: str, units: int) -> tuple[bool]:
    """Whether `mean_interval` holds the true mean."""
    values, truth = unit_values(rng, shape, units)
    low, high = mean_interval(values)
    return (low <= truth <= high,)


def holds_the_ap(rng: np.random.Generator, units: int) -> tuple[bool]:
    """Whether the interval of a pooled mean AP holds the true one.

    A unit has 10 to 80 true cells. Its share of good cells varies about 0.8 (beta, SD .1); of
    these, shares 1, .97, .9, .75 and .4 reach IoU 0.5 to 0.9; 5 % more are invented.
    """
    reach = np.array([1.0, 0.97, 0.9, 0.75, 0.4])
    number = rng.integers(10, 81, units)
    good = rng.binomial(number, rng.beta(12, 3, units))
    invented = rng.binomial(number, 0.05)
    found = np.stack([rng.binomial(good, share) for share in reach], 1)
    below = (number + good + invented)[:, None] - found
    low, high = pooled_interval(found, below)
    share = 0.8 * reach
    truth = float(np.mean(share / (1 + 0.8 + 0.05 - share)))
    return (low <= truth <= high,)


def feature_means(
    rng: np.random.Generator, shape: str, levels: int, units: int
) -> NDArray[np.float64]:
    """Draw four features of levels on units, (levels, units, 4): the second repeats the first."""
    values = np.stack([unit_values(rng, shape, levels * units)[0] for _ in range(4)], -1)
    values = values.reshape(levels, units, 4)
    values[..., 1] = values[..., 0] + 0.2 * values[..., 1]
    return values


def unit_pair(a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> UnitPair:
    """Give the units' means of two levels in one feature."""
    names = [tuple(f"{side}{i}" for i in range(len(v))) for side, v in (("a", a), ("b", b))]
    return UnitPair(paired, names[0], names[0] if paired else names[1], a, b, "")


def calls_an_equal_different(
    rng: np.random.Generator, *, shape: str, units: int, design: str, levels: int
) -> tuple[bool]:
    """Whether a family calls a difference real that is none; the last level differs really."""
    values = feature_means(rng, shape, levels, units)
    values[-1] += 3.0
    if design == "truth":  # the truth is the first level, and of the same units
        values += rng.normal(0, 1, (1, units, 4))
        compared = [(0, level) for level in range(1, levels)]
    else:
        compared = list(combinations(range(levels), 2))
    pairs, blocks, equal = [], [], []
    for a, b in compared:
        for feature in range(4):
            sides = values[a, :, feature], values[b, :, feature]
            pairs.append(unit_pair(*sides, paired=design != "unpaired"))
            blocks.append((a, b))
            equal.append(b < levels - 1)
    p = family_p(pairs, blocks, resamples=RESAMPLES, seed=int(rng.integers(2**31)))
    return (bool((p[np.array(equal)] <= 0.05).any()),)


def is_equivalent(rng: np.random.Generator, *, shape: str, units: int, share: float) -> tuple[bool]:
    """Whether a share of the margin is called equivalent; units vary by half of the margin."""
    values, mean = unit_values(rng, shape, units)
    spread = {"normal": 1.0, "gamma(4)": 2.0}[shape]
    each = share + (values - mean) / spread * 0.5
    p = equivalence_p(unit_pair(each, np.zeros(units), paired=True), 1.0)
    return (p <= 0.05,)


def rows() -> Iterator[Row]:
    """Give all rows of the table."""
    for units in UNITS:
        for methods in (2, 7):
            study = partial(excludes_an_equal, units=units, methods=methods)
            yield Row("tied", f"{methods} equal methods", str(units), {"error": "<= 6 %"}, study)
        study = partial(excludes_an_equal, units=units, methods=7, behind=0.2)
        yield Row("tied", "6 equal, 1 bad method", str(units), {"error": "<= 6 %"}, study)
        for lead in (0.02, 0.05, 0.12):
            study = partial(finds_the_leader, units=units, methods=4, lead=lead)
            yield Row("tied", f"1 of 4 leads by {lead}", str(units), {"power": ""}, study)
    for units in UNITS:
        for methods, behind in ((2, 0.0), (4, 0.0), (7, 0.0), (7, 0.2)):
            study = partial(excludes_an_equal, methods=methods, behind=behind, units=units, **SEEDS)
            kind = f"{methods} equal methods" if not behind else "6 equal, 1 bad method"
            yield Row("seeds", f"{kind}, 3 seeds", str(units), {"error": "<= 7 %"}, study)
        study = partial(finds_the_leader, methods=4, lead=0.08, units=units, **SEEDS)
        yield Row("seeds", "1 of 4 leads by 0.08, 3 seeds", str(units), {"power": ""}, study)
    for shape in SHAPES:
        wanted = "" if shape.startswith("log") else "92 to 97 %"
        for units in UNITS:
            mean = partial(holds_the_mean, shape=shape, units=units)
            yield Row("mean", f"mean, {shape}", str(units), {"coverage": wanted}, mean)
        for design, counts in (("paired", UNITS), ("unpaired", (8, 12, 20))):
            for units in counts:
                one = partial(differs, shape=shape, units=units, design=design)
                named = str(units) if design == "paired" else f"{units // 2} + {units // 2}"
                rates = {"error": "<= 6 %", "coverage": wanted}
                yield Row("compare", f"{design}, {shape}", named, rates, one)
    for wells in (2, 8, 12):
        well = partial(between_wells, wells=wells)
        kind = "treatments of wells, fields given as units"
        named = f"{wells // 2} + {wells // 2}"
        yield Row("compare", kind, named, {"error": "<= 6 %"}, well)
    yield from family_rows()
    for units in UNITS:
        ap = partial(holds_the_ap, units=units)
        yield Row("pooled", "pooled mean AP", str(units), {"coverage": "92 to 97 %"}, ap)


def family_rows() -> Iterator[Row]:
    """Give the rows of families and equivalence."""
    designs = (
        ("truth", 6, "4 equal methods and a bad one against truth"),
        ("paired", 4, "3 equal populations and another, paired"),
        ("unpaired", 4, "3 equal populations and another, unpaired"),
    )
    for design, levels, kind in designs:
        for shape in SHAPES[:2]:
            for units in (4, 6, 10) if design == "unpaired" else UNITS:
                study = partial(
                    calls_an_equal_different,
                    shape=shape,
                    units=units,
                    design=design,
                    levels=levels,
                )
                named = f"{units} each" if design == "unpaired" else str(units)
                yield Row("families", f"{kind}, {shape}", named, {"error": "<= 6 %"}, study)
    for shape in SHAPES[:2]:
        for units in UNITS:
            # a one-sided test of skewed units cannot keep its level
            wanted = "<= 6 %" if shape == "normal" else ""
            for share, rate, wish in ((1.0, "error", wanted), (0.5, "power", "")):
                one = partial(is_equivalent, shape=shape, units=units, share=share)
                kind = f"equivalence of {share:g} x margin, {shape}"
                yield Row("families", kind, str(units), {rate: wish}, one)


def measured(row: Row, studies: int, seed: int = 0) -> list[tuple[float, float, float]]:
    """Return each rate of a row, and the rate's own 95 % interval."""
    rng = np.random.default_rng([seed, *row.kind.encode(), *row.units.encode()])
    counts = np.sum([row.study(rng) for _ in range(studies)], axis=0)
    found = []
    for count in counts.tolist():
        interval = stats.binomtest(count, studies).proportion_ci(0.95, "wilson")
        found.append((count / studies, float(interval.low), float(interval.high)))
    return found


def lines(row: Row, studies: int) -> str:
    """Return what is printed of a row."""
    found = zip(row.rates.items(), measured(row, studies))
    return "\n".join(
        f"| {row.kind} | {row.units} | {rate} | {value:.1%} ({low:.1%} to {high:.1%}) | {wanted} |"
        for (rate, wanted), (value, low, high) in found
    )


def main() -> None:
    """Print the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--only", default="tied,seeds,mean,compare,pooled,families")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    chosen = [row for row in rows() if row.part in options.only.split(",")]
    print("| study | units | rate | measured | wanted |\n|---|---|---|---|---|", flush=True)
    with get_context("fork").Pool(options.processes) as pool:
        for text in pool.imap(partial(lines, studies=options.studies), chosen):
            print(text, flush=True)
    print(f"\n{options.studies} studies a row; this took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
