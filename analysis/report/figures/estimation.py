"""Estimation plots: single cells, means of units, and differences with intervals and verdicts.

Cells and means of units as in SuperPlots (Lord et al. 2020, doi:10.1083/jcb.202001064), and beside
them the differences on an axis of their own, as in Gardner-Altman plots (Ho et al. 2019,
doi:10.1038/s41592-019-0470-3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evidence import TRUTH, Evidence
from analysis.report.feature_tables import LENGTHS, family_rows, margin_said
from analysis.report.figures.features import axis_ends
from analysis.report.figures.samples import first_methods, measured_from
from analysis.report.figures.style import look
from analysis.report.tables import MOST_DOTS, representatives, unit_of
from analysis.statistics.intervals import FEWEST_UNPAIRED
from analysis.statistics.pairs import cells_of
from analysis.statistics.resampling import FEWEST_UNITS
from analysis.statistics.units import BETWEEN_GROUPS, pair_units
from analysis.study.comparisons import with_unit
from analysis.study.families import (
    FAMILY_FEATURES,
    POPULATION_FAMILY,
    TRUTH_FAMILY,
    length_unit,
)

MOST_CELLS = 120
"""Largest number of single cells that are drawn for each method or population."""
MOST_METHODS = 8
"""Largest number of methods, given labels included; with more, rows are too low for their text."""
MOST_PAIRS = 4
"""Largest number of pairs of populations; each has one row for the true cells, one for a method."""
TRUE_COLOUR = "0.45"
Array = NDArray[np.float64]


class Side(NamedTuple):
    """One of the two sets of cells that a row compares."""

    colour: str
    cells: Array
    """Values of at most `MOST_CELLS` cells; none where another row shows them."""
    means: Array
    """(units,) means of the units that are compared."""


class Row(NamedTuple):
    """One feature of one comparison."""

    sides: tuple[Side, ...]
    """The reference first; alone where nothing is compared with it. None without cells."""
    paired: bool
    """Whether both sides have the same units, in the same order."""
    difference: float
    """Mean over units, second side minus reference."""
    low: float
    high: float
    """Ends of its 95 % confidence interval; NaN with too few units."""
    inner: tuple[float, float]
    """Ends of its 90 % confidence interval, which lies within the zone where the verdict is
    'equivalent' (two one-sided tests at 5 %)."""
    margin: float
    """Half the width of the equivalence zone."""
    verdict: str


class Panel(NamedTuple):
    """One feature of all rows."""

    label: str
    """The feature and its unit."""
    rows: list[Row]
    ends: tuple[float, float]
    """Ends of the axis of values."""
    beyond: int
    """Number of cells beyond these ends."""
    cells: int
    """Number of all cells."""


class Estimation(NamedTuple):
    """All features of all comparisons."""

    names: list[str]
    """What each row compares."""
    counts: list[str]
    """Number of cells in each row."""
    panels: list[Panel | None]
    """One per feature of the family; None where no row has a value."""
    keys: list[tuple[str, str]]
    """Colours and what they mean, where rows do not say it."""
    sign: str
    """What the differences are: 'method − truth' or 'first − second'."""
    unit: str
    """Name of the independent unit."""
    dots: bool
    """Whether there are few enough units to draw each of them."""
    said: str
    """What is compared, from how much data."""
    margin: str
    """What the margin is, in words."""
    few: str
    """How many methods or pairs are left out, and other exceptions; '' for none."""


class _Asked(NamedTuple):
    """A row before its values are known."""

    name: str
    cells: str
    """Key of the table of cells."""
    first: Any
    """The level whose cells are shown, or of which the second is subtracted."""
    second: Any
    """None where nothing is compared."""
    colours: tuple[str, str]
    """Of first and second."""


def compute_methods(evidence: Evidence) -> Estimation | None:
    """Return the comparison of methods and given labels with the true cells."""
    if family_rows(evidence, TRUTH_FAMILY).empty or evidence.cells.empty:
        return None
    # a second person whose disagreement with the truth is the margin is in no family
    table = evidence.statistics
    tested = table[(table["comparison"] == "methods") & (table["b"] == TRUTH)]
    every = [*representatives(evidence)["method"], *evidence.given]
    methods, few = _first(every, evidence.given, set(evidence.cells["method"]))
    cells = _cells(evidence, [*methods, TRUTH])
    asked = [_Asked(TRUTH, "", TRUTH, None, (TRUE_COLOUR, TRUE_COLOUR))]
    places = [*first_methods(evidence), *evidence.given]  # as in other figures
    for name in methods:
        colour = look(places.index(name)).colour
        asked.append(_Asked(name, "", name, TRUTH, (colour, TRUE_COLOUR)))
    counts = cells["method"].value_counts()
    found = _estimation(evidence, asked, {"": cells}, "method", {"": tested})
    return found and found._replace(
        counts=[f"n = {counts[name]:,}" for name in [TRUTH, *methods]],
        sign="method − truth",
        said=f"Methods and the ground truth in {measured_from(evidence)}.",
        few=few + found.few,
    )


def _first(every: list[str], given: list[str], there: set[str]) -> tuple[list[str], str]:
    """Return the methods that are shown, given labels included, and how many are left out."""
    every = [name for name in every if name in there]
    kept = [name for name in every if name in given][: MOST_METHODS // 2]
    best = [name for name in every if name not in given][: MOST_METHODS - len(kept)]
    trained = sum(name not in given for name in every)
    if len(best) + len(kept) == len(every):
        return [*best, *kept], ""
    return [*best, *kept], f" The first {len(best)} of {trained} methods; tables have all."


def compute_populations(evidence: Evidence) -> Estimation | None:
    """Return the comparison of populations within the recommended method, and of the true cells."""
    tested = family_rows(evidence, POPULATION_FAMILY)
    if tested.empty or evidence.cells.empty:
        return None
    method = str(tested["method"].iloc[0])
    pairs = list(dict.fromkeys(zip(tested["a"], tested["b"])))
    shown = pairs[:MOST_PAIRS]
    table = evidence.statistics
    true = table[(table["comparison"] == "populations") & (table["method"] == TRUTH)]
    sources = {TRUTH: true, method: tested}
    cells = _cells(evidence, [*sources])
    cells = cells[cells["population"].notna()]
    tables = {name: cells[cells["method"] == name] for name in sources}
    levels = list(dict.fromkeys(level for pair in shown for level in pair))
    colours = {level: look(place).colour for place, level in enumerate(levels)}
    asked, counts = [], []
    for a, b in shown:
        for name in sources:
            count = tables[name]["population"].value_counts()
            if a not in count or b not in count:
                continue
            of = "true cells" if name == TRUTH else "method's cells"
            asked.append(_Asked(f"{a} − {b}\n{of}", name, a, b, (colours[a], colours[b])))
            counts.append(f"n = {count[a]:,}, {count[b]:,}")
    found = _estimation(evidence, asked, tables, "population", sources)
    few = f" The first {len(shown)} of {len(pairs)} pairs; the table has all."
    return found and found._replace(
        counts=counts,
        keys=[(colours[level], str(level)) for level in levels],
        sign="first − second",
        said=f"Populations in the cells of {method}, the recommended method, and in the true "
        f"cells: {measured_from(evidence)}.",
        few=(few if len(shown) < len(pairs) else "") + found.few,
    )


def _cells(evidence: Evidence, methods: list[str]) -> pd.DataFrame:
    """Return the cells of some methods with their unit, and only the columns that count."""
    unit, cells = unit_of(evidence, cells=True), evidence.cells
    wanted = ["method", "group", "image", "track", "population"]
    wanted += [f"{feature}{more}" for feature in FAMILY_FEATURES for more in ("", "_um", "_um2")]
    cells = cells.loc[cells["method"].isin(methods), [name for name in wanted if name in cells]]
    cells = with_unit(cells, unit)
    return cells[cells["unit"].notna()]


def _estimation(
    evidence: Evidence,
    asked: Sequence[_Asked],
    tables: Mapping[str, pd.DataFrame],
    by: str,
    found: Mapping[str, pd.DataFrame],
) -> Estimation | None:
    """Return the rows `asked` for; `found` has their rows of `Evidence.statistics`."""
    if not asked:
        return None
    panels = [_panel(feature, asked, tables, by, found) for feature in FAMILY_FEATURES]
    rows = [row for panel in panels if panel is not None for row in panel.rows]
    if not rows:
        return None
    unit = unit_of(evidence, cells=True)
    most = max(len(side.means) for row in rows for side in row.sides)
    known = pd.concat(list(found.values()))
    note = ""
    if known["note"].astype(str).str.contains(BETWEEN_GROUPS).any():
        note = " Where no group holds both, the groups are the units."
    return Estimation(
        [one.name for one in asked],
        [],
        panels,
        [],
        "",
        unit,
        most <= MOST_DOTS,
        "",
        margin_said(unit, evidence.settings.get("annotator")),
        note,
    )


def _panel(
    feature: str,
    asked: Sequence[_Asked],
    tables: Mapping[str, pd.DataFrame],
    by: str,
    found: Mapping[str, pd.DataFrame],
) -> Panel | None:
    rng = np.random.default_rng(0)
    column, length = length_unit(next(iter(tables.values())), feature)
    parts = {name: cells_of(table, column, by, "unit") for name, table in tables.items()}
    values = [part["value"].to_numpy(float) for own in parts.values() for part in own.values()]
    if not any(map(len, values)):
        return None
    rows = [_row(one, parts[one.cells], _of(found[one.cells], feature), rng) for one in asked]
    means = [side.means for row in rows for side in row.sides]
    low, high = axis_ends(values, means)
    every = np.concatenate(values)
    beyond = int(((every < low) | (every > high)).sum())
    length = LENGTHS.get(length, "")
    label = f"{feature.capitalize()}{f' ({length})' if length else ''}"
    return Panel(label, rows, (low, high), beyond, len(every))


def _of(found: pd.DataFrame, feature: str) -> dict[tuple[Any, Any], dict[Any, Any]]:
    """Return a feature's rows of `Evidence.statistics` by what they compare."""
    rows = found[found["feature"] == feature].to_dict("records")
    return {(row["a"], row["b"]): row for row in rows}


def _row(
    one: _Asked,
    parts: Mapping[Any, pd.DataFrame],
    known: Mapping[tuple[Any, Any], Mapping[Any, Any]],
    rng: np.random.Generator,
) -> Row:
    """Return the cells and means of a row, and what `Evidence.statistics` says of them."""
    first = parts[one.first]
    nothing = Row((), False, math.nan, math.nan, math.nan, (math.nan, math.nan), math.nan, "")
    if one.second is None:
        means = pair_units(first, first)[0].means_a if len(first) else np.array([])
        side = Side(one.colours[0], thinned(first["value"].to_numpy(float), rng), means)
        return nothing._replace(sides=(side,))
    second = parts[one.second]
    if not len(first) or not len(second):
        return nothing
    pair, *_ = pair_units(first, second)
    # the true cells have a row of their own
    own = np.array([]) if one.second == TRUTH else thinned(second["value"].to_numpy(float), rng)
    sides = (
        Side(one.colours[1], own, pair.means_b),
        Side(one.colours[0], thinned(first["value"].to_numpy(float), rng), pair.means_a),
    )
    row = known.get((one.first, one.second))
    if row is None:
        return nothing._replace(sides=sides, paired=pair.paired)
    ends = row["unit_difference_low"], row["unit_difference_high"], pair.interval(0.90)
    return Row(sides, pair.paired, row["unit_difference"], *ends, row["margin"], row["verdict"])


def thinned(values: Array, rng: np.random.Generator) -> Array:
    """Return at most `MOST_CELLS` of the values, drawn at random.

    Parameters
    ----------
    values : (n,) array
    rng : numpy.random.Generator

    Returns
    -------
    (at most MOST_CELLS,) array
    """
    if len(values) <= MOST_CELLS:
        return values
    return values[rng.choice(len(values), MOST_CELLS, replace=False, shuffle=False)]


def caption(shown: Estimation) -> str:
    """Say what dots, lines, bars and shading mean, and where nothing is drawn."""
    unit, rows = shown.unit, [row for panel in shown.panels if panel for row in panel.rows]
    compared = [row for row in rows if math.isfinite(row.difference)]
    known = [row for row in compared if math.isfinite(row.low)]
    joined = any(row.paired for row in compared)
    said = (
        f"{shown.said} Cells at the border of an image are left out; n is the number of cells. "
        f"Left axes: pale dots are single cells (at most {MOST_CELLS} for each row and colour, "
        "drawn at random)"
    )
    if shown.dots:
        said += f", larger dots the mean of each {unit}"
        said += f"; thin lines join the two means of one {unit}" if joined else ""
        said += f". Vertical bars: the mean over {unit}s."
    else:
        said += f". Vertical bars: the mean over {unit}s (each {unit} alone is drawn only for at "
        said += f"most {MOST_DOTS})."
    said += f" Right axes: the difference of these means ({shown.sign})"
    said += f"; small dots: each {unit} alone" if joined and shown.dots else ""
    said += ". "
    if known:
        said += "Horizontal lines: its 95 % confidence interval; thick: the 90 % interval. "
    said += f"Shaded: the equivalence zone, as far from zero as the margin: {shown.margin}. "
    if known:
        said += (
            "The word is the verdict, as in the table. Equivalent: the 90 % interval is within the "
            "zone (two one-sided tests at 5 %). Different is corrected for all differences of the "
            "table, which intervals are not."
        )
    if len(known) < len(compared):
        where = "No intervals are" if not known else "Where there is no interval, none is"
        said += (
            f"{' ' if known else ''}{where} drawn because there are too few independent {unit}s "
            f"({FEWEST_UNITS} are needed, or {FEWEST_UNPAIRED} on each side where no {unit} holds "
            "both)."
        )
    said += shown.few
    if any(panel and panel.beyond for panel in shown.panels):
        said += " Axes end as in Figure 9."
    return (
        f"{said} As in SuperPlots (doi:10.1083/jcb.202001064) and Gardner-Altman plots "
        "(doi:10.1038/s41592-019-0470-3)."
    )
