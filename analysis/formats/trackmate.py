"""Tables as TrackMate exports them: four header rows (keys, names, short names, units), then rows.

Read one with ``pandas.read_csv(path, skiprows=[1, 2, 3])``. Names and units are those of the
tables that TrackMate 7 and 8 save from their windows "Spots" and "Tracks".
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from trainables.records.files import whole_file


class Column(NamedTuple):
    """A column of an exported table."""

    key: str
    name: str
    short: str
    dimension: str = ""
    """Physical dimension (length, area, time, velocity), or the unit itself."""
    source: str = ""
    """Column of segsweep's tables, in pixels and frames."""


SPOTS = (
    Column("LABEL", "Label", "Label"),
    Column("ID", "Spot ID", "Spot ID"),
    Column("TRACK_ID", "Track ID", "Track ID"),
    Column("QUALITY", "Quality", "Quality", "quality"),
    Column("POSITION_X", "X", "X", "length", "x"),
    Column("POSITION_Y", "Y", "Y", "length", "y"),
    Column("POSITION_Z", "Z", "Z", "length"),
    Column("POSITION_T", "T", "T", "time"),
    Column("FRAME", "Frame", "Frame"),
    Column("RADIUS", "Radius", "R", "length", "radius"),
    Column("VISIBILITY", "Visibility", "Visibility"),
    Column("MANUAL_SPOT_COLOR", "Manual spot color", "Spot color"),
    Column("MEAN_INTENSITY_CH1", "Mean intensity ch1", "Mean ch1", "counts", "intensity_mean"),
    Column(
        "MEDIAN_INTENSITY_CH1", "Median intensity ch1", "Median ch1", "counts", "intensity_median"
    ),
    Column("MIN_INTENSITY_CH1", "Min intensity ch1", "Min ch1", "counts", "intensity_min"),
    Column("MAX_INTENSITY_CH1", "Max intensity ch1", "Max ch1", "counts", "intensity_max"),
    Column("TOTAL_INTENSITY_CH1", "Sum intensity ch1", "Sum ch1", "counts", "intensity_sum"),
    Column("STD_INTENSITY_CH1", "Std intensity ch1", "Std ch1", "counts", "intensity_std"),
    Column("CONTRAST_CH1", "Contrast ch1", "Ctrst ch1", "", "contrast"),
    Column("SNR_CH1", "Signal/Noise ratio ch1", "SNR ch1", "", "snr"),
    Column("ELLIPSE_X0", "Ellipse center x0", "El. x0", "length", "ellipse_x0"),
    Column("ELLIPSE_Y0", "Ellipse center y0", "El. y0", "length", "ellipse_y0"),
    Column("ELLIPSE_MAJOR", "Ellipse long axis", "El. long axis", "length", "ellipse_major"),
    Column("ELLIPSE_MINOR", "Ellipse short axis", "El. sh. axis", "length", "ellipse_minor"),
    Column("ELLIPSE_THETA", "Ellipse angle", "El. angle", "radians", "ellipse_theta"),
    Column("ELLIPSE_ASPECTRATIO", "Ellipse aspect ratio", "El. a.r."),
    Column("AREA", "Area", "Area", "area", "area"),
    Column("PERIMETER", "Perimeter", "Perim.", "length", "perimeter"),
    Column("CIRCULARITY", "Circularity", "Circ.", "", "circularity"),
    Column("SOLIDITY", "Solidity", "Solidity", "", "solidity"),
    Column("SHAPE_INDEX", "Shape index", "Shape index", "", "shape_index"),
)
"""Columns of an object table."""

TRACKS = (
    Column("LABEL", "Label", "Label"),
    Column("TRACK_INDEX", "Track index", "Index"),
    Column("TRACK_ID", "Track ID", "ID"),
    Column("NUMBER_SPOTS", "Number of spots in track", "N spots"),
    Column("NUMBER_GAPS", "Number of gaps", "N gaps"),
    Column("NUMBER_SPLITS", "Number of split events", "N splits"),
    Column("NUMBER_MERGES", "Number of merge events", "N merges"),
    Column("NUMBER_COMPLEX", "Number of complex points", "N complex"),
    Column("LONGEST_GAP", "Longest gap", "Lgst gap"),
    Column("TRACK_DURATION", "Track duration", "Duration", "time"),
    Column("TRACK_START", "Track start", "Track start", "time"),
    Column("TRACK_STOP", "Track stop", "Track stop", "time"),
    Column("TRACK_DISPLACEMENT", "Track displacement", "Track disp.", "length"),
    Column("TRACK_X_LOCATION", "Track mean X", "Track X", "length"),
    Column("TRACK_Y_LOCATION", "Track mean Y", "Track Y", "length"),
    Column("TRACK_Z_LOCATION", "Track mean Z", "Track Z", "length"),
    Column("TRACK_MEAN_SPEED", "Track mean speed", "Mean sp.", "velocity"),
    Column("TRACK_MAX_SPEED", "Track max speed", "Max speed", "velocity"),
    Column("TRACK_MIN_SPEED", "Track min speed", "Min speed", "velocity"),
    Column("TRACK_MEDIAN_SPEED", "Track median speed", "Med. speed", "velocity"),
    Column("TRACK_STD_SPEED", "Track std speed", "Std speed", "velocity"),
    Column("TRACK_MEAN_QUALITY", "Track mean quality", "Mean Q", "quality"),
    Column("TOTAL_DISTANCE_TRAVELED", "Total distance traveled", "Total dist.", "length"),
    Column("MAX_DISTANCE_TRAVELED", "Max distance traveled", "Max dist.", "length"),
    Column("CONFINEMENT_RATIO", "Confinement ratio", "Cfn. ratio"),
    Column("MEAN_STRAIGHT_LINE_SPEED", "Mean straight line speed", "Mn. v. line", "velocity"),
    Column("LINEARITY_OF_FORWARD_PROGRESSION", "Linearity of forward progression", "Fwd. progr."),
)
"""Columns of a track table."""

_INTEGERS = {"ID", "TRACK_ID", "FRAME", "VISIBILITY"}
_OUTLINED = ("ELLIPSE_X0", "ELLIPSE_Y0", "ELLIPSE_MAJOR", "ELLIPSE_MINOR", "ELLIPSE_THETA")


class Scale(NamedTuple):
    """Units of a table."""

    pixel_size_um: float | None = None
    """None keeps lengths in pixels."""
    frame_interval_s: float | None = None
    """None keeps times in frames."""

    def factor(self, dimension: str) -> float:
        """Return the factor that converts a value from pixels and frames."""
        length, time = self.pixel_size_um or 1.0, self.frame_interval_s or 1.0
        return {
            "length": length,
            "area": length**2,
            "time": time,
            "velocity": length / time,
        }.get(dimension, 1.0)

    def unit(self, dimension: str) -> str:
        """Return a dimension's unit in brackets; '' if it has none."""
        length = "pixel" if self.pixel_size_um is None else "micron"
        time = "frame" if self.frame_interval_s is None else "sec"
        names = {
            "length": length,
            "area": f"{length}^2",
            "time": time,
            "velocity": f"{length}/{time}",
        }
        return f"({names.get(dimension, dimension)})" if dimension else ""


def write_trackmate_objects(
    table: pd.DataFrame | Iterable[pd.DataFrame],
    path: Path | str,
    *,
    pixel_size_um: float | None = None,
    frame_interval_s: float | None = None,
    extra: Sequence[str] = (),
) -> int:
    """Write an object table in the format of TrackMate's spots.

    Parameters
    ----------
    table : DataFrame, or iterable of DataFrame
        One row per object, with the columns of `analysis.morphology.measure` in pixels (its
        columns in micrometres are ignored). Optional columns: image, sequence or group, frame
        (empty for an image outside any time-lapse; without this column the images of a sequence
        are numbered in order, and a single image gets no number), track_id (or else track),
        intensity_mean, intensity_median, intensity_min, intensity_max, intensity_sum,
        intensity_std, contrast, snr, ellipse_x0, ellipse_y0, ellipse_major, ellipse_minor,
        ellipse_theta. Several tables (with equal columns, each for its own frames) are written one
        after another, with one at a time in memory.
    path : path
    pixel_size_um : float, optional
        Side of a pixel in micrometres; without it, lengths are in pixels.
    frame_interval_s : float, optional
        Seconds between frames; without it, times are in frames.
    extra : sequence of str
        Further columns of `table` to append unchanged, with their names in capitals.

    Returns
    -------
    int
        Number of rows written. Objects without features, which TrackMate would drop, are left
        out.

    Raises
    ------
    ValueError
        When a column of features is missing, or a scale is not positive.

    Notes
    -----
    LABEL is ``image:label``, so that each row can be found in its label image. QUALITY is the
    number of pixels, as in TrackMate's mask and label image detectors. Intensities that the table
    does not contain are left out. Without ``ellipse_*`` columns (fitted to the outline, as
    TrackMate does), the ellipse is the one with equal second moments.
    """
    scale = _scale(pixel_size_um, frame_interval_s)
    tables = iter([table] if isinstance(table, pd.DataFrame) else table)
    none = pd.DataFrame(columns=["label", *(c.source for c in SPOTS if c.source)])
    first = next(tables, none)
    columns = [c for c in SPOTS if _has(first, c)]
    missing = {"label", "x", "y", "radius", "area", "perimeter"} - set(first.columns)
    if missing:
        raise ValueError(f"the object table lacks the columns {', '.join(sorted(missing))}")
    count = 0
    with _writer(Path(path), columns, scale, extra) as write:
        for part in _chain(first, tables):
            rows = spot_rows(part, columns, scale, first_id=count)
            for name in extra:
                rows[name.upper()] = part.loc[rows.index, name]
            write(rows)
            count += len(rows)
    return count


def write_trackmate_tracks(
    tracks: pd.DataFrame,
    path: Path | str,
    *,
    pixel_size_um: float | None = None,
    frame_interval_s: float | None = None,
) -> None:
    """Write a track table in the format of TrackMate's tracks.

    Parameters
    ----------
    tracks : DataFrame
        The result of `analysis.segment.tracks.track_table`, in pixels and frames.
    path : path
    pixel_size_um, frame_interval_s : float, optional
        See `write_trackmate_objects`.
    """
    scale = _scale(pixel_size_um, frame_interval_s)
    rows = tracks[[c.key for c in TRACKS]].copy()
    for column in TRACKS:
        if column.dimension in ("length", "area", "time", "velocity"):
            rows[column.key] = rows[column.key] * scale.factor(column.dimension)
    with _writer(Path(path), TRACKS, scale, ()) as write:
        write(rows)


def spot_rows(
    table: pd.DataFrame, columns: Sequence[Column], scale: Scale, *, first_id: int = 0
) -> pd.DataFrame:
    """Return one row per object that has features, with TrackMate's keys as columns."""
    table = table[table["area"].notna()]
    size = range(first_id, first_id + len(table))
    frame = _frames(table)
    track = next((table[n] for n in ("track_id", "track") if n in table), pd.Series(dtype="Int64"))
    image = table["image"].astype(str) + ":" if "image" in table else "cell "
    rows = pd.DataFrame(index=table.index)
    for column in columns:
        if column.source in table:
            values = pd.to_numeric(table[column.source], errors="coerce")
            rows[column.key] = values * scale.factor(column.dimension)
        elif column.key in _OUTLINED:
            rows[column.key] = _ellipse_of_moments(table, column.key) * scale.factor(
                column.dimension
            )
        else:
            rows[column.key] = np.nan
    rows["LABEL"] = image + table["label"].astype(str)
    rows["ID"], rows["FRAME"], rows["VISIBILITY"] = list(size), frame, 1
    rows["TRACK_ID"] = track.reindex(table.index).astype("Int64")
    rows["QUALITY"] = table["num_pixels" if "num_pixels" in table else "area"].astype(float)
    rows["POSITION_Z"] = 0.0
    rows["POSITION_T"] = frame.astype(float) * scale.factor("time")
    rows["MANUAL_SPOT_COLOR"] = ""
    if "ELLIPSE_MAJOR" in rows:
        minor = rows["ELLIPSE_MINOR"].where(rows["ELLIPSE_MINOR"] > 0)
        rows["ELLIPSE_ASPECTRATIO"] = rows["ELLIPSE_MAJOR"] / minor
    return rows


def _scale(pixel_size_um: float | None, frame_interval_s: float | None) -> Scale:
    for name, value in (("pixel_size_um", pixel_size_um), ("frame_interval_s", frame_interval_s)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive, not {value}")
    return Scale(pixel_size_um, frame_interval_s)


def _has(table: pd.DataFrame, column: Column) -> bool:
    if column.key.startswith("ELLIPSE"):
        return "ellipse_major" in table or "axis_major_length" in table
    return not column.source or column.source in table


def _frames(table: pd.DataFrame) -> pd.Series:
    if "frame" in table:
        return table["frame"].astype("Int64")
    if "image" not in table:
        return pd.Series(0, index=table.index)
    within = next((name for name in ("sequence", "group") if name in table), None)
    if within is None:
        return pd.Series(pd.factorize(table["image"])[0], index=table.index)
    images = table.groupby(within, sort=False)["image"]
    numbered = images.transform(lambda s: pd.factorize(s)[0]).astype("Int64")
    return numbered.where(images.transform("nunique") > 1)  # a field alone is of no sequence


def _ellipse_of_moments(table: pd.DataFrame, key: str) -> pd.Series:
    if key in ("ELLIPSE_MAJOR", "ELLIPSE_MINOR"):
        name = "axis_major_length" if key == "ELLIPSE_MAJOR" else "axis_minor_length"
        return table[name] / 2  # TrackMate's axes are from the centre
    if key == "ELLIPSE_THETA":  # ours: from the rows' axis
        return (np.pi / 2 - table["orientation"] + np.pi / 2) % np.pi - np.pi / 2
    return table["area"] * 0.0  # the ellipse's centre from the object's


def _chain(first: pd.DataFrame, rest: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    yield first
    yield from rest


class _writer:
    """Write headers, then tables, to a file that appears only when it is complete."""

    def __init__(
        self, path: Path, columns: Sequence[Column], scale: Scale, extra: Sequence[str]
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = whole_file(path)
        self._columns, self._scale, self._extra = columns, scale, extra

    def __enter__(self) -> _writer:
        self._handle = open(self._file.__enter__(), "w", newline="", encoding="utf-8")
        more = [name.upper() for name in self._extra]
        lines = [
            [c.key for c in self._columns] + more,
            [c.name for c in self._columns] + list(self._extra),
            [c.short for c in self._columns] + list(self._extra),
            [self._scale.unit(c.dimension) for c in self._columns] + [""] * len(more),
        ]
        csv.writer(self._handle, lineterminator="\n").writerows(lines)
        return self

    def __call__(self, rows: pd.DataFrame) -> None:
        rows.to_csv(self._handle, header=False, index=False, lineterminator="\n")

    def __exit__(self, *error: object) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._file.__exit__(*error)  # type: ignore[arg-type]
