"""Track cells through a sequence: linking by laptrack, and TrackMate's measures of tracks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.formats.trackmate import TRACKS

MAX_GAP = 1
"""Number of frames in a row in which a tracked cell may be missing."""
_TRACK_COLUMNS = [column.key for column in TRACKS]


def default_distance(objects: pd.DataFrame) -> float:
    """Return how far a cell may move between frames by default: a typical cell's diameter.

    Parameters
    ----------
    objects : DataFrame
        Table with a column radius.

    Returns
    -------
    float
        Distance in the unit of radius; 1 if there is no cell.
    """
    radii = objects["radius"].dropna()
    return float(2 * radii.median()) if len(radii) else 1.0


def link(
    objects: pd.DataFrame, *, max_distance: float | None = None, max_gap: int = MAX_GAP
) -> pd.Series:
    """Link the cells of each sequence into tracks with laptrack.

    The linear assignment of Jaqaman et al. 2008 (doi:10.1038/nmeth.1237).

    Parameters
    ----------
    objects : DataFrame
        One row per cell: frame (integer, increasing by one from image to image), x, y, optionally
        sequence; rows without a position belong to no track.
    max_distance : float, optional
        How far a cell may move from one frame to the next, in the unit of x and y; the same limit
        holds across a gap. Default: `default_distance`.
    max_gap : int
        Number of frames in a row in which a cell may be missing.

    Returns
    -------
    Series of Int64
        Track number of each row, counted from 0 over all sequences in the order of first frames;
        NA for cells that are not linked to any other, as in TrackMate. Tracks neither split nor
        merge.

    Raises
    ------
    ValueError
        When the distance is not positive or the gap is negative.

    Examples
    --------
    >>> cells = pd.DataFrame({"frame": [0, 0, 1, 1], "x": [0, 9, 1, 8], "y": [0, 0, 0, 0]})
    >>> link(cells, max_distance=3).tolist()
    [0, 1, 0, 1]
    """
    if max_distance is None:
        max_distance = default_distance(objects)
    if not 0 < max_distance < np.inf:
        raise ValueError(f"max_distance must be positive, not {max_distance}")
    if max_gap < 0:
        raise ValueError(f"max_gap must not be negative, not {max_gap}")
    result = pd.Series(pd.NA, index=objects.index, dtype="Int64", name="track_id")
    known = objects[objects["x"].notna() & objects["y"].notna()]
    names = known["sequence"] if "sequence" in known else pd.Series(0, index=known.index)
    count = 0
    for _, cells in known.groupby(names, sort=False):
        for rows in _linked(cells, max_distance, max_gap):
            result[cells.index[rows]] = count
            count += 1
    return result


def _linked(cells: pd.DataFrame, max_distance: float, max_gap: int) -> list[list[int]]:
    """Return the rows of each track of one sequence."""
    from laptrack import LapTrack

    frame = cells["frame"].to_numpy(np.int64)
    place = cells[["x", "y"]].to_numpy(float)
    first = int(frame.min())
    rows = [np.flatnonzero(frame == f) for f in range(first, int(frame.max()) + 1)]
    # two frames apart means one is missing between them
    # and whoever is near enough is linked: no cost that depends on how many others are
    tracker = LapTrack(
        cutoff=max_distance**2,
        gap_closing_cutoff=max_distance**2 if max_gap else False,
        gap_closing_max_frame_count=max_gap + 1,
        segment_start_cost=1.05 * max_distance**2,
        segment_end_cost=1.05 * max_distance**2,
    )
    tree = tracker.predict([place[r] for r in rows])
    after = {min(edge): max(edge) for edge in tree.edges}  # a cell is followed by one at most
    tracks = []
    for node in after.keys() - after.values():
        chain = [node]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        tracks.append([int(rows[f][i]) for f, i in chain])
    return sorted(tracks, key=lambda track: (frame[track[0]], track[0]))


def track_table(objects: pd.DataFrame) -> pd.DataFrame:
    """Measure tracks as TrackMate does.

    Parameters
    ----------
    objects : DataFrame
        One row per cell: track_id, frame, x, y; optionally num_pixels (the quality), sequence.

    Returns
    -------
    DataFrame
        One row per track, with the keys of TrackMate's table of tracks as columns, lengths in the
        unit of x and y, times in frames:

        - TRACK_DISPLACEMENT : from the first place to the last; TOTAL_DISTANCE_TRAVELED : sum of
          all steps; MAX_DISTANCE_TRAVELED : farthest from the first place
        - TRACK_MEAN_SPEED, _MAX_, _MIN_, _MEDIAN_, _STD_SPEED (n - 1) : over steps, each its length
          over its time
        - CONFINEMENT_RATIO : displacement over total distance, the straightness
        - MEAN_STRAIGHT_LINE_SPEED : displacement over duration;
          LINEARITY_OF_FORWARD_PROGRESSION : that over the mean speed
        - NUMBER_GAPS : steps over missing frames; LONGEST_GAP : most frames missing in one
    """
    linked = objects[objects["track_id"].notna()]
    several = "sequence" in linked and linked["sequence"].nunique() > 1
    rows: list[dict[str, Any]] = []
    for number, track in linked.groupby("track_id", sort=True):
        track = track.sort_values("frame")
        row = _measure(
            track["frame"].to_numpy(float),
            track[["x", "y"]].to_numpy(float),
        )
        identity = int(number)  # type: ignore[arg-type]
        name = f"Track_{identity}"
        row["LABEL"] = f"{track['sequence'].iloc[0]}:{name}" if several else name
        row["TRACK_INDEX"], row["TRACK_ID"] = len(rows), identity
        quality = track["num_pixels"] if "num_pixels" in track else pd.Series([np.nan])
        row["TRACK_MEAN_QUALITY"] = float(quality.mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=_TRACK_COLUMNS)


def _measure(frame: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    steps = np.hypot(*np.diff(place, axis=0).T)
    times = np.diff(frame)
    speed = steps / times
    displacement = float(np.hypot(*(place[-1] - place[0])))
    total, duration = float(steps.sum()), float(frame[-1] - frame[0])
    straight = displacement / duration
    mean = float(speed.mean())
    return {
        "NUMBER_SPOTS": len(frame),
        "NUMBER_GAPS": int((times > 1).sum()),
        "NUMBER_SPLITS": 0,
        "NUMBER_MERGES": 0,
        "NUMBER_COMPLEX": 0,
        "LONGEST_GAP": int(times.max()) - 1,
        "TRACK_DURATION": duration,
        "TRACK_START": float(frame[0]),
        "TRACK_STOP": float(frame[-1]),
        "TRACK_DISPLACEMENT": displacement,
        "TRACK_X_LOCATION": float(place[:, 0].mean()),
        "TRACK_Y_LOCATION": float(place[:, 1].mean()),
        "TRACK_Z_LOCATION": 0.0,
        "TRACK_MEAN_SPEED": mean,
        "TRACK_MAX_SPEED": float(speed.max()),
        "TRACK_MIN_SPEED": float(speed.min()),
        "TRACK_MEDIAN_SPEED": float(np.median(speed)),
        "TRACK_STD_SPEED": float(speed.std(ddof=1)) if len(speed) > 1 else np.nan,
        "TOTAL_DISTANCE_TRAVELED": total,
        "MAX_DISTANCE_TRAVELED": float(np.hypot(*(place - place[0]).T).max()),
        "CONFINEMENT_RATIO": displacement / total if total else np.nan,
        "MEAN_STRAIGHT_LINE_SPEED": straight,
        "LINEARITY_OF_FORWARD_PROGRESSION": straight / mean if mean else np.nan,
    }
