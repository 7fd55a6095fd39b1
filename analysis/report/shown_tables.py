"""What the page shows of some tables: fewer columns, names in the place of keys, micrometres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.evidence import Evidence
from trainables.names import network_name


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
        f"agreement: bias minus and plus 1.96 SD of single cells. Units are {unit}s."
    )
