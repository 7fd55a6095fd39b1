"""Combine the tables of single images into those of a folder, one image at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.formats.trackmate import write_trackmate_objects
from analysis.morphology.intensities import ELLIPSE
from analysis.segment.folder import Options, part_of
from analysis.segment.inputs import Frame
from trainables.records.files import whole_file

KEYS = ("image", "frame", "label", "track_id", "sequence")
"""First columns of ``objects_plain.csv``."""
_PLACES = ["sequence", "frame", "label", "x", "y", "radius", "num_pixels"]

Tracks = dict[str, "pd.Series[Any]"]
"""The tracks of an image's cells by image name, in the order of the image's own table."""


def assemble(out: Path, frames: Sequence[Frame], options: Options) -> dict[str, Any]:
    """Write the tables of all images that are done.

    Parameters
    ----------
    out : Path
    frames : sequence of Frame
        All finished images, in order.
    options : Options

    Returns
    -------
    dict
        objects, and with tracking tracks and max_distance (pixels).
    """
    tracks: Tracks = {}
    found: dict[str, Any] = {}
    if options.track:
        tracks, found = _follow(out, frames, options)
        _write_tracked(out, frames, tracks)
    write_trackmate_objects(
        _parts(out, frames, tracks),
        out / "objects.csv",
        pixel_size_um=options.pixel_size_um,
        frame_interval_s=options.frame_interval_s,
    )
    found["objects"] = _write_plain(out, frames, tracks)
    return found


def _parts(out: Path, frames: Sequence[Frame], tracks: Tracks) -> Iterator[pd.DataFrame]:
    for frame in frames:
        part = pd.read_parquet(part_of(out, frame))
        part["frame"] = pd.array([frame.time] * len(part), dtype="Int64")
        numbers = tracks.get(frame.name)
        part["track_id"] = (
            pd.array([pd.NA] * len(part), dtype="Int64") if numbers is None else numbers.array
        )
        yield part


def _write_plain(out: Path, frames: Sequence[Frame], tracks: Tracks) -> int:
    count = 0
    target = out / "objects_plain.csv"
    with whole_file(target) as path, open(path, "w", newline="", encoding="utf-8") as handle:
        for number, part in enumerate(_parts(out, frames, tracks)):
            rest = [c for c in part if c not in (*KEYS, *ELLIPSE)]
            rows = part[[*KEYS, *rest]]
            rows.to_csv(handle, header=number == 0, index=False, lineterminator="\n")
            count += len(rows)
    return count


def _follow(out: Path, frames: Sequence[Frame], options: Options) -> tuple[Tracks, dict[str, Any]]:
    from analysis.formats.trackmate import write_trackmate_tracks
    from analysis.segment.tracks import default_distance, link, track_table

    # only places are held of all cells at once
    places = [pd.read_parquet(part_of(out, frame), columns=_PLACES) for frame in frames]
    ends = np.cumsum([len(part) for part in places])
    cells = pd.concat(places, ignore_index=True)
    del places
    distance = options.max_distance or default_distance(cells)
    cells["track_id"] = link(cells, max_distance=distance, max_gap=options.max_gap)
    table = track_table(cells)
    write_trackmate_tracks(
        table,
        out / "tracks.csv",
        pixel_size_um=options.pixel_size_um,
        frame_interval_s=options.frame_interval_s,
    )
    tracks = {
        frame.name: cells["track_id"].iloc[start:end]
        for frame, start, end in zip(frames, [0, *ends[:-1]], ends)
    }
    return tracks, {"tracks": len(table), "max_distance": distance}


def _write_tracked(out: Path, frames: Sequence[Frame], tracks: Tracks) -> None:
    """Write label images in which a cell keeps one number over time: its track's plus one."""
    import tifffile

    from analysis.formats.imagej import write_labels

    for frame in frames:
        labels = tifffile.imread(out / "labels" / f"{frame.name}.tif")
        cells = pd.read_parquet(part_of(out, frame), columns=["label"])["label"].to_numpy()
        numbers = np.zeros(int(labels.max()) + 1, np.int64)
        numbers[cells] = tracks[frame.name].fillna(-1).to_numpy(np.int64) + 1
        write_labels(numbers[labels], out / "tracked" / f"{frame.name}.tif")
