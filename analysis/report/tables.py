"""Tables of the report: what they show, their headings, and how many digits.

Pure functions of the evidence; nothing is drawn or written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation.selection import without_cells
from analysis.evidence import LENGTHS, Evidence
from analysis.folds import folds_of
from analysis.report.conclusions import conclusions, conclusions_caption
from analysis.report.feature_tables import (
    FEATURE_HEADINGS,
    against_truth,
    between_populations,
    exploratory,
    feature_captions,
)
from analysis.report.shown_tables import (
    CANDIDATES_CAPTION,
    SCORES_CAPTION,
    agreed,
    agreement_caption,
    known_ties,
    named_networks,
    ranking_caption,
    scores_first,
    shown_ranking,
)
from analysis.report.table1 import table1, table1_caption

UNITS = {"area": "um2", "perimeter": "um", "radius": "um"}
MOST_DOTS = 30
"""With more independent units than this, figures do not draw each of them."""


HEADINGS = {
    "mark": "Fig. 10",
    "val_score": "mean AP, validation",
    "val_units": "validation units",
    "interval": "95 % interval",
    "val_low": "95 % interval, from",
    "val_high": "to",
    "tied": "may be the best",
    "iou_mean": "IoU, validation, mean over groups",
    "iou_low": "95 % interval, from",
    "iou_high": "to",
    "val_lowest": "lowest unit",
    "val_highest": "highest unit",
    "test_ap": "mean AP, test",
    "test_f1": "F1 at 0.5, test",
    "test_pq": "PQ, test",
    "test_seg": "SEG, test",
    "test_iou": "IoU, test",
    "masd": "MASD (px)",
    "hd95": "HD95 (px)",
    "masd_um": "MASD (µm)",
    "hd95_um": "HD95 (µm)",
    "n": "cells",
    "n_a": "cells in a",
    "n_b": "cells in b",
    "units_a": "units in a",
    "units_b": "units in b",
    "loa_low": "limits of agreement, lower",
    "loa_high": "limits of agreement, upper",
    "ccc": "concordance correlation",
    **FEATURE_HEADINGS,
    "command": "command to train it again",
    "parameters_m": "parameters (millions)",
    "test_dataset_iou_percent": "test data-set IoU (%)",
    "paper_parameters_m": "paper: parameters",
    "paper_training_time": "paper: time",
    "paper_loss": "paper: loss",
    "paper_iou_percent": "paper: IoU (%)",
}
"""Column headings on the page; in other columns' names, underscores become spaces."""
DIGITS = {
    "parameters_m": 1,
    "loss": 4,
    "published": 1,
    "matched": 1,
    "cliffs_delta": 2,
    "test_dataset_iou_percent": 2,
    "paper_parameters_m": 1,
    "paper_loss": 4,
    "paper_iou_percent": 2,
    **{f"{split}_{kind}_iou": 4 for split in ("val", "test") for kind in ("dataset", "image")},
}
"""Decimals of these columns; others have as many as a reader can use."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: the text that it shows and the value that it sorts by."""

    text: str
    sort: float | str
    number: bool = False
    shows: tuple[str, str] | None = None
    """Method and outcome of the cells that a click shows in the viewer."""


@dataclass(frozen=True)
class Table:
    """A table as the page shows it."""

    name: str
    """Used as the element's id."""
    caption: str
    headings: list[tuple[str, bool]]
    """Text, and whether the column holds numbers."""
    rows: list[list[Cell]]
    total: int
    """Number of rows in the full table; the page may show only the first ones."""


def in_order(values: Iterable[Any], first: Sequence[str] = ()) -> list[str]:
    """Return the distinct values: first those in `first`, then the others in their own order."""
    there = list(dict.fromkeys(str(value) for value in values))
    return [v for v in first if v in there] + [v for v in there if v not in first]


def representatives(evidence: Evidence) -> pd.DataFrame:
    """Return one row of `methods` for each method, best first."""
    methods = evidence.methods
    if methods.empty:
        return pd.DataFrame({"method": [], "trial_id": []})
    chosen = methods[methods["representative"].astype(bool)]
    return chosen.drop_duplicates("method").reset_index(drop=True)


def letters(methods: pd.DataFrame) -> dict[str, str]:
    """Return a letter for each method: A, B, ..., Z, AA."""
    marks = {}
    for number, name in enumerate(methods["method"]):
        text, rest = "", number + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            text = chr(65 + digit) + text
        marks[str(name)] = text
    return marks


def feature_column(evidence: Evidence, feature: str) -> tuple[str, str]:
    """Return the column that holds a feature, and its unit ('' for a pure number)."""
    if feature not in UNITS:
        return feature, ""
    physical = f"{feature}_{UNITS[feature]}"
    if evidence.settings.get("pixel_size_um") and physical in evidence.objects:
        return physical, "µm²" if feature == "area" else "µm"
    return feature, "px²" if feature == "area" else "px"


def relative_bias(evidence: Evidence) -> pd.DataFrame:
    """Return method, feature, n, units and value (bias divided by the truth's mean)."""
    if evidence.agreement.empty:
        return pd.DataFrame()
    table = evidence.agreement.rename(columns={"relative_bias": "value"})
    return table[["method", "feature", "n", "units", "value"]].dropna(subset=["value"])


def own_units(
    evidence: Evidence,
    metrics: Sequence[str],
    parameters: Sequence[str] = ("calibrated",),
    *,
    every_seed: bool = False,
) -> pd.DataFrame:
    """Return method, parameters, metric, unit and value of each unit of the reported images, for
    representative seeds or for all. AP is known as on validation: see `without_cells`.
    """
    table = evidence.units
    keys = ["method", "parameters", "metric", "unit", "value"]
    if table.empty:
        return pd.DataFrame(columns=keys)
    chosen = representatives(evidence)
    own = set(zip(chosen["method"], chosen["trial_id"]))
    table = table[
        (table["split"] == measured_split(evidence))
        & table["metric"].isin(metrics)
        & table["parameters"].isin(parameters)
    ]
    trained, same = table["method"].isin(chosen["method"]), ["metric", "parameters", "unit"]
    scored = without_cells(table["value"], [table[name] for name in same], trained)
    is_ap = table["metric"].str.startswith("ap_")
    table = table.assign(value=table["value"].where(~is_ap, scored))
    keyed = zip(table["method"], table["trial_id"])
    chosen_rows = [every_seed or key in own for key in keyed]
    return table.loc[np.array(chosen_rows, bool), keys]  # an empty list would choose columns


def unit_values(
    evidence: Evidence, metrics: Sequence[str], parameters: Sequence[str] = ("calibrated",)
) -> tuple[pd.DataFrame, str]:
    """Return the values of each unit alone on the reported images, for representative seeds.

    Returns
    -------
    DataFrame
        method, parameters, metric, unit, value; no rows where there are more than `MOST_DOTS`
        units.
    str
        Name of one dot in a figure's legend.
    """
    table = own_units(evidence, metrics, parameters)
    bias = bool(metrics) and metrics[0].startswith("bias")
    one, count = unit_of(evidence, cells=bias), table["unit"].nunique()
    if not 0 < count <= MOST_DOTS:
        return table.iloc[:0], ""
    return table[table["value"].notna()], f"one {one} (of {independent(count, one)})"


def unit_of(evidence: Evidence, *, cells: bool = False) -> str:
    """Return the name of the independent unit; tracks are units for `cells`, never for scores."""
    unit = str(evidence.settings.get("unit", "image"))
    return "group" if unit == "track" and not cells else unit


def independent(count: int, unit: str) -> str:
    """Return a count of units in words.

    >>> independent(1, "group"), independent(6, "image")
    ('1 independent group', '6 independent images')
    """
    return f"{count} independent {unit}{'s' * (count != 1)}"


def counted(evidence: Evidence, split: str) -> dict[str, int]:
    """Return how many units, images and true cells the scores of a split come from."""
    names = ["units", "images", "true_objects"]
    if evidence.scores.empty or not (evidence.scores["split"] == split).any():
        return dict.fromkeys(names, 0)
    rows = evidence.scores.loc[evidence.scores["split"] == split, names]
    return {name: int(rows[name].iloc[0]) for name in names}


def number(value: float) -> str:
    """Write a number with the digits a reader can use.

    >>> [number(v) for v in (0.912345, 1234567.0, 12.0, 0.00001234, float("nan"))]
    ['0.912', '1,234,567', '12', '1.23e-05', '']
    """
    if not math.isfinite(value):
        return ""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3}f}"


def make_table(name: str, caption: str, frame: pd.DataFrame, *, most: int = 2000) -> Table:
    """Turn a data frame into a table for the page.

    Parameters
    ----------
    name, caption : str
        Id of the HTML element, and caption of the table.
    frame : DataFrame
        Its columns are shown in their order; columns without any value are left out.
    most : int
        Largest number of rows on the page; the files beside the page contain all rows.
    """
    frame = frame.loc[:, [c for c in frame if not _empty(frame[c])]]
    shown = frame.head(most)
    numeric = {
        c: pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c])
        for c in frame
    }
    columns = [[_cell(v, str(c), numeric[c]) for v in shown[c].tolist()] for c in shown]
    rows = [list(row) for row in zip(*columns)]
    titles = [(HEADINGS.get(str(c), str(c).replace("_", " ")), numeric[c]) for c in frame]
    return Table(name, caption, titles, rows, len(frame))


def _empty(values: pd.Series) -> bool:
    return bool(values.isna().all() or (values.astype(str) == "").all())


def _cell(value: Any, column: str, numeric: bool) -> Cell:
    """Write one value; a missing one gets '', which the page's script sorts last."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return Cell("", "", numeric)
    if isinstance(value, bool | np.bool_):
        return Cell("yes" if value else "no", int(value))
    if numeric:
        plain = column in ("seed", "learning_rate", "epoch")
        text = f"{value:g}" if plain else number(float(value))
        text = f"{value:.{DIGITS[column]}f}" if column in DIGITS else text
        return Cell(text, float(value), True)
    if ":" in str(value) and str(value).replace(":", "").isdigit():  # mm:ss
        whole, _, rest = str(value).partition(":")
        return Cell(str(value), 60 * int(whole) + int(rest), True)
    text = str(value).replace("_", " ") if column == "feature" else str(value)
    return Cell(text, text)


def wide_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores with one column per metric and one row per trial, split and parameters.

    Distances are in micrometres if they are known for all rows, else in pixels.
    """
    if scores.empty:
        return scores
    keys = ["method", "trial_id", "split", "parameters"]
    counts = ["images", "true_objects", "predicted_objects"]
    wide = scores.pivot_table(index=keys, columns="metric", values="value", sort=False)
    metrics = list(dict.fromkeys(scores["metric"]))
    known = all(
        wide[f"{m}_um"].notna().equals(wide[m].notna()) for m in LENGTHS if f"{m}_um" in wide
    )
    left = {m if known else f"{m}_um" for m in LENGTHS if f"{m}_um" in wide}
    wide = wide[[m for m in metrics if m in wide and m not in left]]
    few = scores.drop_duplicates(keys).set_index(keys)[counts]
    return wide.join(few).reset_index()


def measured_split(evidence: Evidence) -> str:
    """Return the split whose images are reported: 'test' unless other images were given."""
    splits = [] if evidence.scores.empty else evidence.scores["split"].unique().tolist()
    return next((str(split) for split in splits if split != "val"), "test")


def measured_scores(
    evidence: Evidence, metrics: Sequence[str], parameters: Sequence[str] = ("calibrated",)
) -> pd.DataFrame:
    """Return the scores on the reported images for all seeds; column `own` marks the
    representative seed.
    """
    table = evidence.scores
    if table.empty:
        return table
    chosen = representatives(evidence)
    keys = set(zip(chosen["method"], chosen["trial_id"]))
    table = table[
        (table["split"] == measured_split(evidence))
        & table["metric"].isin(metrics)
        & table["parameters"].isin(parameters)
        & table["value"].notna()
    ]
    return table.assign(own=[key in keys for key in zip(table["method"], table["trial_id"])])


SHOWN = {
    "test_ap": "ap_mean",
    "test_f1": "f1_50",
    "test_pq": "pq",
    "test_seg": "seg",
    "test_iou": "iou",
}
"""Columns of the ranking, and the metrics that they show for the measured images."""


def ranking(evidence: Evidence) -> pd.DataFrame:
    """Return one row per method in the order of validation scores, with test scores."""
    methods = representatives(evidence)
    if methods.empty:
        return pd.DataFrame()
    scores = measured_scores(evidence, tuple(SHOWN.values()))
    each = own_units(evidence, ["ap_mean"], every_seed=True)
    rows = []
    for mark, method in zip(letters(methods).values(), methods.to_dict("records")):
        known = ("method", "tied", "val_score", "val_low", "val_high", "val_units")
        row = {name: method[name] for name in known}
        if not math.isfinite(method["val_low"]):
            row["tied"] = None  # too few units to say
        row |= _shown_scores(method["method"], scores, each)
        trained = evidence.methods[evidence.methods["method"] == method["method"]]
        row["seeds"] = int(trained["seed"].nunique())
        rows.append(row | {"mark": mark, "command": method["command"]})
    for name in evidence.given:  # never ranked: nothing was trained or calibrated here
        rows.append(
            {"method": f"{name} (labels given)", "tied": None, **_shown_scores(name, scores, each)}
        )
    return pd.DataFrame(rows)


def _shown_scores(method: str, scores: pd.DataFrame, each: pd.DataFrame) -> dict[str, float]:
    """Return the columns `SHOWN` of a method: means over seeds, and AP over units, too."""
    row = dict.fromkeys(SHOWN, math.nan)
    for name, metric in SHOWN.items():
        if not scores.empty:
            own = (scores["metric"] == metric) & (scores["method"] == method)
            row[name] = scores.loc[own, "value"].mean()  # over seeds and folds
    if len(mine := each[each["method"] == method]):
        row["test_ap"] = float(mine["value"].mean())
    return row


def make_tables(evidence: Evidence) -> list[Table]:
    """Return the tables of the page, the most important ones first."""
    board = evidence.leaderboard
    board = board.drop(columns=["wandb_id", "augmentation", "loss", "batch_size"], errors="ignore")
    ranked = ranking_caption(
        unit_of(evidence),
        measured_split(evidence),
        folds=folds_of(evidence.plan) > 0,
        given=bool(evidence.given),
    )
    features = feature_captions(unit_of(evidence, cells=True), evidence.settings.get("annotator"))
    order = "best on validation first."
    if folds_of(evidence.plan):
        order = "in the order of their candidates (validation images of folds differ)."
    survived = conclusions(evidence)
    candidates = known_ties(scores_first(named_networks(evidence.candidates)))
    paper = table1(evidence).drop(columns="task", errors="ignore")
    tables = [
        make_table("ranking", ranked, shown_ranking(ranking(evidence), list(SHOWN))),
        make_table("features", features["features"], against_truth(evidence)),
        make_table("populations", features["populations"], between_populations(evidence)),
        make_table("conclusions", conclusions_caption(survived), survived),
        make_table("table1", table1_caption(evidence), paper),
        make_table("statistics", features["statistics"], exploratory(evidence)),
        make_table(
            "agreement",
            agreement_caption(evidence, unit_of(evidence, cells=True)),
            agreed(evidence),
        ),
        make_table("scores", SCORES_CAPTION, scores_first(wide_scores(evidence.scores))),
        make_table("leaderboard", f"All trials, {order}", scores_first(named_networks(board))),
        make_table("candidates", CANDIDATES_CAPTION, candidates),
        make_table(
            "noise",
            "Noise floor: how drawing a shape on pixels changes each feature.",
            evidence.noise,
        ),
        make_table(
            "methods",
            "The trials that were analysed.",
            known_ties(
                evidence.methods.drop(columns=["task", "architecture", "encoder"], errors="ignore")
            ),
        ),
    ]
    return [table for table in tables if table.total]
