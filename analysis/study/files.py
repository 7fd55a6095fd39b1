"""The tables beside the page: what the analysis found, as files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.evidence import Evidence
from analysis.formats.trackmate import write_trackmate_objects
from trainables.records.files import names, remove, write_json, write_with

TRACKMATE = "trackmate"
"""Folder of the tables in TrackMate's form."""
OBJECT_COLUMNS = ("group", "split", "trial_id", "matched_label", "iou", "population", "outcome")
"""Columns of these tables in addition to TrackMate's."""
UNLABELLED_FILES = (
    "unlabelled_objects.parquet",
    "unlabelled_objects.csv",
    "unlabelled_statistics.csv",
)
LONGEST_NAME = 100
TABLES = ("methods", "scores", "units", "errors", "statistics", "effects", "agreement", "noise")
"""Fields of the evidence that are written as CSV under their name."""


def write_tables(evidence: Evidence, report: Path) -> None:
    """Write the evidence's tables into the report's folder."""
    report.mkdir(parents=True, exist_ok=True)
    write_with(report / "objects.parquet", evidence.objects.to_parquet)
    write_with(report / "objects.csv", partial(evidence.objects.to_csv, index=False))
    write_trackmate(evidence, report / TRACKMATE)
    for name in TABLES:
        table: pd.DataFrame = getattr(evidence, name)
        write_with(report / f"{name}.csv", partial(table.to_csv, index=False))
    write_unlabelled(evidence, report)
    write_json(report / "settings.json", {**evidence.settings, "missing": evidence.missing})


def write_unlabelled(evidence: Evidence, report: Path) -> None:
    """Write the tables of images without masks; remove those of an earlier analysis."""
    found = evidence.unlabelled
    if found is None:
        for name in UNLABELLED_FILES:
            remove(report / name)
        return
    objects, csv, statistics = (report / name for name in UNLABELLED_FILES)
    write_with(objects, found.objects.to_parquet)
    write_with(csv, partial(found.objects.to_csv, index=False))
    write_with(statistics, partial(found.statistics.to_csv, index=False))


def write_trackmate(evidence: Evidence, folder: Path) -> None:
    """Write the cells of each method, and the true ones, as TrackMate exports spots.

    Frame numbers are those of `analysis.study.films.frames_of`; times are empty where a cell's
    image is of no film. A track has the same TRACK_ID in all files, and no other track has it,
    whatever film it is in. Tables of an earlier analysis whose methods are no longer there are
    removed.
    """
    objects = evidence.objects
    files: dict[str, str] = {}
    if len(objects):
        table = _placed(objects, evidence.frames)
        files = file_names(table["method"].unique())
        for method, rows in table.groupby("method", sort=False):
            write_trackmate_objects(
                rows,
                folder / files[str(method)],
                pixel_size_um=evidence.settings.get("pixel_size_um"),
                frame_interval_s=evidence.settings.get("frame_interval_s"),
                extra=OBJECT_COLUMNS,
            )
    for name in names(folder):
        if name.endswith(".csv") and name not in files.values():
            remove(folder / name)


def _placed(objects: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    """Add each object's frame, and a track_id that no other track has."""
    table = objects.merge(frames, on="image", how="left")
    known = table["track"].notna()
    # each film of a data set numbers its own tracks
    numbers = table.loc[known, ["sequence", "track"]].drop_duplicates()
    numbers = numbers.sort_values(["sequence", "track"])
    numbers["track_id"] = pd.array(range(len(numbers)), dtype="Int64")
    return table.merge(numbers, on=["sequence", "track"], how="left")


def file_names(methods: Iterable[str]) -> dict[str, str]:
    """Return a name of a file for each method that every file system takes.

    >>> list(file_names(["ground truth", "U-Net, 3-class", "a/b", "A b"]).values())
    ['ground_truth.csv', 'U-Net_3-class.csv', 'a_b.csv', 'A_b-2.csv']
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for method in methods:
        # a dot in front would hide the file
        plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", method).strip("_.")[:LONGEST_NAME] or "method"
        free, number = plain, 2
        while free.casefold() in taken:
            free, number = f"{plain}-{number}", number + 1
        taken.add(free.casefold())
        names[method] = f"{free}.csv"
    return names
