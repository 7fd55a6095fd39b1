"""Follow cells through films: split fused cells, link cells, and write tracked label images."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from analysis.segment.folder import Options, originals, part_of, write_cells
from analysis.segment.fused import split_fused
from analysis.segment.inputs import Frame
from analysis.segment.tracks import (
    SHORT,
    Reach,
    choose_distance,
    link,
    numbers_in_images,
    short_tracks,
    track_table,
)
from trainables.records.files import write_with

_PLACES = ["sequence", "frame", "label", "x", "y", "radius", "num_pixels"]
Normalize = Callable[[NDArray[Any]], NDArray[np.float32]]
Pieces = dict[int, list[int]]
Tracks = dict[str, pd.DataFrame]
"""By image name, one row per cell in the order of the image's own table: track_id, and the columns
`TRACKED`."""
TRACKED = ("tracked_label", "short_track", "split")
"""Further columns of ``objects_plain.csv`` if cells are tracked: the cell's number in ``tracked/``;
whether its track is short; whether it was segmented as one with another cell and then split."""


def follow(
    out: Path, frames: Sequence[Frame], options: Options, normalize: Normalize
) -> tuple[Tracks, dict[str, Any]]:
    """Split fused cells, link cells to tracks, and write ``tracks.csv`` and ``tracked/``.

    Parameters
    ----------
    out : Path
    frames : sequence of Frame
        All finished images, in order.
    options : Options
    normalize : callable
        Scales raw intensities for overlays.

    Returns
    -------
    tracks : dict
    found : dict
        tracks (their number), max_distance (pixels), and as tracking: max_distance_from, max_gap,
        split (whether fused cells were looked for), fused_objects, cells_from_fused,
        short_tracks, cells_without_track.
    """
    from analysis.formats.trackmate import write_trackmate_tracks

    pieces = split_films(out, frames, options, normalize) if options.split else {}
    # only places are held of all cells at once
    places = [pd.read_parquet(part_of(out, frame), columns=_PLACES) for frame in frames]
    ends = np.cumsum([len(part) for part in places])
    cells = pd.concat(places, ignore_index=True)
    del places
    reach = choose_distance(cells)
    if options.max_distance is not None:
        reach = Reach(options.max_distance, "--max-distance")
    cells["track_id"] = link(cells, max_distance=reach.distance, max_gap=options.max_gap)
    cells["tracked_label"] = numbers_in_images(cells["track_id"])
    cells["short_track"] = short_tracks(cells, Counter(frame.sequence for frame in frames))
    table = track_table(cells)
    write_trackmate_tracks(
        table,
        out / "tracks.csv",
        pixel_size_um=options.pixel_size_um,
        frame_interval_s=options.frame_interval_s,
    )
    tracks = {}
    for frame, start, end in zip(frames, [0, *ends[:-1]], ends):
        made = {label for labels in pieces.get(frame.name, {}).values() for label in labels}
        rows = cells.iloc[start:end]
        tracks[frame.name] = rows[["track_id"]].assign(
            tracked_label=rows["tracked_label"],
            short_track=rows["short_track"],
            split=rows["label"].isin(made),
        )
    _write_tracked(out, frames, tracks, int(cells["tracked_label"].max()) if len(cells) else 0)
    linked = cells[cells["track_id"].notna()]
    tracking = {
        "max_distance_from": reach.why,
        "max_gap": options.max_gap,
        "split": options.split,
        "fused_objects": sum(len(of_image) for of_image in pieces.values()),
        "cells_from_fused": sum(int(rows["split"].sum()) for rows in tracks.values()),
        "short_tracks": int(linked.loc[linked["short_track"], "track_id"].nunique()),
        "cells_without_track": len(cells) - len(linked),
    }
    return tracks, {"tracks": len(table), "max_distance": reach.distance, "tracking": tracking}


def split_films(
    out: Path, frames: Sequence[Frame], options: Options, normalize: Normalize
) -> dict[str, Pieces]:
    """Split the fused cells of every sequence, frame by frame, and write the files of these frames.

    The label image and the table of a frame before it is split are kept (`originals`), and are
    what is split if this runs again.

    Parameters
    ----------
    out, frames, options, normalize
        See `follow`.

    Returns
    -------
    dict
        By image name, what `analysis.segment.fused.split_fused` returned as pieces.
    """
    found: dict[str, Pieces] = {}
    for name in dict.fromkeys(frame.sequence for frame in frames):
        members = [frame for frame in frames if frame.sequence == name]
        typical = _typical_solidity(out, members)
        last: tuple[Frame, NDArray[np.integer[Any]]] | None = None
        for frame in members:
            unsplit, table = original_of(out, frame)
            labels: NDArray[np.integer[Any]] = unsplit
            pieces: Pieces = {}
            if last is not None and _comparable(last, frame, unsplit, options):
                solidity = pd.read_parquet(table, columns=["label", "solidity"]).dropna()
                values = dict(zip(solidity["label"].tolist(), solidity["solidity"].tolist()))
                labels, pieces = split_fused(last[1], unsplit, solidity=values, typical=typical)
            kept = originals(out, frame)
            if pieces:
                found[frame.name] = pieces
                _keep(out, frame)
            if pieces or kept[0].exists():
                write_cells(out, frame, options, frame.read(), labels.astype(np.int32), normalize)
            if not pieces:
                for path in kept:
                    path.unlink(missing_ok=True)
            last = frame, labels
    return found


def original_of(out: Path, frame: Frame) -> tuple[NDArray[np.integer[Any]], Path]:
    """Return the label image of a frame as it was segmented, and the path of its table."""
    labels, table = originals(out, frame)
    if not labels.exists():
        labels, table = out / "labels" / f"{frame.name}.tif", part_of(out, frame)
    return tifffile.imread(labels), table


def _typical_solidity(out: Path, frames: Iterable[Frame]) -> float:
    values = []
    for frame in frames:
        labels, table = originals(out, frame)
        table = table if labels.exists() else part_of(out, frame)
        values.append(pd.read_parquet(table, columns=["solidity"])["solidity"].to_numpy(float))
    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else 1.0


def _comparable(
    last: tuple[Frame, NDArray[Any]], frame: Frame, labels: NDArray[Any], options: Options
) -> bool:
    """Whether a frame is close enough in time to the one before, and of its shape."""
    steps = frame.number - last[0].number
    return steps <= options.max_gap + 1 and last[1].shape == labels.shape


def _keep(out: Path, frame: Frame) -> None:
    """Copy the label image and the table of a frame before they are replaced."""
    labels, table = originals(out, frame)
    if labels.exists():
        return
    labels.parent.mkdir(exist_ok=True)
    write_with(table, lambda path: shutil.copyfile(part_of(out, frame), path))
    source = out / "labels" / labels.name
    write_with(labels, lambda path: shutil.copyfile(source, path))


def _write_tracked(out: Path, frames: Sequence[Frame], tracks: Tracks, highest: int) -> None:
    """Write label images in which a cell keeps one number over time."""
    from analysis.formats.imagej import write_labels

    for frame in frames:
        labels = tifffile.imread(out / "labels" / f"{frame.name}.tif")
        cells = pd.read_parquet(part_of(out, frame), columns=["label"])["label"].to_numpy()
        numbers = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
        numbers[cells] = tracks[frame.name]["tracked_label"].to_numpy(np.int64)
        write_labels(numbers[labels], out / "tracked" / f"{frame.name}.tif", highest=highest)


def tracking_notes(found: dict[str, Any]) -> list[str]:
    """Say how cells were tracked.

    Parameters
    ----------
    found : dict
        The second result of `follow`.

    Returns
    -------
    list of str
    """
    tracking = found["tracking"]
    gap = tracking["max_gap"]
    missing = f"{gap} image{'s' * (gap != 1)} in a row" if gap else "no image"
    notes = [
        f"tracking: steps of at most {found['max_distance']:.1f} px "
        f"({tracking['max_distance_from']}); a cell may be missing in {missing}"
    ]
    if tracking["fused_objects"]:
        notes.append(
            f"tracking: {tracking['fused_objects']} objects were split into "
            f"{tracking['cells_from_fused']} cells, because the image before shows these apart "
            "(fused/ has the label images before; --no-split leaves them whole)"
        )
    rest = []
    if tracking["short_tracks"]:
        rest.append(
            f"{tracking['short_tracks']} of {found['tracks']} tracks are short (less than "
            f"{SHORT:.0%} of the images)"
        )
    if tracking["cells_without_track"]:
        rest.append(f"{tracking['cells_without_track']} cells have no track")
    if rest:
        notes.append(f"tracking: {' and '.join(rest)}; see short_track in objects_plain.csv")
    return notes
