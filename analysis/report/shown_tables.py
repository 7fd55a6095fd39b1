"""What the page shows of some tables: fewer columns, names in the place of keys, micrometres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.evidence import Evidence
from trainables.names import network_name

FIRST_SCORES = ("val_dataset_iou", "test_dataset_iou", "iou_mean", "tied", "status")
"""Columns of trials and candidates that matter most."""


SCORES_CAPTION = (
    "All scores of all seeds, pooled over images. MASD is the mean average surface distance of "
    "matched cells, HD95 the 95th percentile of their Hausdorff distance, as Metrics Reloaded "
    "defines them (doi:10.1038/s41592-023-02151-z)."
)
CANDIDATES_CAPTION = (
    "Candidates; scores are means over their seeds. May be the best: statistically tied with the "
    "best by IoU on groups of validation images."
)


def ranking_caption(unit: str, split: str, *, folds: bool, given: bool) -> str:
    """Say what the ranking shows.

    Parameters
    ----------
    unit, split : str
        What is independent, and the split of the reported images.
    folds : bool
        Whether networks were validated in folds.
    given : bool
        Whether there are rows of given labels.
    """
    said = (
        "Calibrated methods, highest validation score first. Each score is the mean over seeds"
        f"{' (on test images also over folds)' if folds else ''}. Mean AP is the mean over IoU 0.5 "
        f"to 0.9 and over {unit}s, on validation with its 95 % confidence interval. May be the "
        "best: statistically tied with the best method, all pairs of methods compared at once (one "
        "that is as good as the best is left out in at most 5 % of studies). F1, PQ, SEG and IoU "
        "(of these cells' pixels; Figure 7: of the network's own output) count all images "
        f"together. Test columns show the {split} images."
    )
    if given:
        said += (
            " Rows with given labels are not ranked: nothing was trained or calibrated for them."
        )
    return said


def shown_ranking(table: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Return the columns of the ranking that fit a page; the table of methods has the rest.

    Parameters
    ----------
    table : DataFrame
        The result of `analysis.report.tables.ranking`.
    scores : sequence of str
        Its columns of scores on the reported images.
    """
    if table.empty:
        return table
    ends = zip(table["val_low"], table["val_high"])
    known = [f"{a:.3f} to {b:.3f}" if math.isfinite(a) else "" for a, b in ends]
    table = table.assign(interval=known)
    return table[["mark", "method", "tied", "val_score", "interval", *scores]]


def named_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of trials or candidates with their networks' names in the place of keys."""
    keys = ["architecture", "encoder", "task"]
    if table.empty or not set(keys) <= set(table):
        return table
    named = zip(*(table[key].fillna("") for key in keys))
    rest = table.drop(columns=keys)
    rest.insert(int("trial_id" in rest), "network", [network_name(*names) for names in named])
    return rest


def scores_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its scores right after the names, since a narrow window shows only these.

    Where methods have names, the keys of their trials come last.
    """
    names = list(table)
    if "network" in names:
        place = names.index("network") + 1
        scores = [name for name in FIRST_SCORES if name in names]
        rest = [name for name in names if name not in scores]
        names = [*rest[:place], *scores, *rest[place:]]
    elif {"method", "trial_id"} <= set(names):
        names = [*(name for name in names if name != "trial_id"), "trial_id"]
    return table[names]


def known_ties(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without a word on ties where too few units were compared to know them."""
    low = next((name for name in ("val_low", "iou_low") if name in table), None)
    if low is None or "tied" not in table:
        return table
    return table.assign(tied=table["tied"].astype(object).where(table[low].notna(), None))


def agreed(evidence: Evidence) -> pd.DataFrame:
    """Return the estimates of `agreement`, in micrometres if the pixel size is known."""
    names = ("bias", "ccc", "relative")
    left = [f"{name}_{end}" for name in names for end in ("low", "high")]
    table = evidence.agreement.drop(columns=left, errors="ignore")
    pixel = evidence.settings.get("pixel_size_um")
    if table.empty or not pixel:
        return table
    powers = {"area": 2, "perimeter": 1, "radius": 1}
    scale = table["feature"].map(lambda feature: pixel ** powers.get(feature, 0))
    sizes = [name for name in ("bias", "sd", "loa_low", "loa_high") if name in table]
    return table.assign(**{name: table[name] * scale for name in sizes})


def agreement_caption(evidence: Evidence, unit: str) -> str:
    """Say what `agreed` shows."""
    size = "µm and µm²" if evidence.settings.get("pixel_size_um") else "pixels"
    return (
        f"Agreement with the ground truth (sizes in {size}), cell by cell, for the cells that all "
        "methods found. Bias is the mean over units of their mean difference; limits of "
        f"agreement: bias minus and plus 1.96 SD of single cells. Concordance correlation is 1 for "
        f"equal values. Units are {unit}s."
    )
