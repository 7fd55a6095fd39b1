"""Combine the tables of single images into those of a folder, one image at a time in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from analysis.formats.trackmate import write_trackmate_objects
from analysis.morphology.border import border_labels
from analysis.morphology.intensities import ELLIPSE
from analysis.segment.folder import Options, part_of
from analysis.segment.inputs import Frame
from trainables.records.files import whole_file

if TYPE_CHECKING:
    from analysis.segment.films import Tracks

KEYS = ("image", "frame", "label", "track_id", "sequence")
"""First columns of ``objects_plain.csv``."""


def assemble(
    out: Path,
    frames: Sequence[Frame],
    options: Options,
    normalize: Callable[[NDArray[Any]], NDArray[np.float32]],
) -> dict[str, Any]:
    """Write the tables of all images that are done; before that, track their cells if asked to.

    Parameters
    ----------
    out : Path
    frames : sequence of Frame
        All finished images, in order.
    options : Options
    normalize : callable
        Scales raw intensities for overlays, which are drawn again where cells were split.

    Returns
    -------
    dict
        objects (their number), and with tracking what `analysis.segment.films.follow` found.
    """
    tracks: Tracks = {}
    found: dict[str, Any] = {}
    if options.track:
        from analysis.segment.films import follow

        tracks, found = follow(out, frames, options, normalize)
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
        if "at_border" not in part:  # written by an earlier version
            image = tifffile.imread(out / "labels" / f"{frame.name}.tif")
            part["at_border"] = part["label"].isin(border_labels(image))
        part["frame"] = pd.array([frame.time] * len(part), dtype="Int64")
        numbers = tracks.get(frame.name)
        if numbers is None:
            part["track_id"] = pd.array([pd.NA] * len(part), dtype="Int64")
        else:
            part[numbers.columns.tolist()] = numbers.set_axis(part.index)
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
