"""Track cells through a sequence: linking by laptrack, and TrackMate's measures of tracks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.formats.trackmate import TRACKS

MAX_GAP = 3
"""Number of frames in a row in which a tracked cell may be missing."""
STEPS = (3, 95)
"""A cell may move by this many times this percentile of the steps."""
LEAST_STEPS = 20
"""With fewer steps than this, their percentile says little."""
SHORT = 0.25
"""A track is short if its cell was found in less than this fraction of its sequence's frames."""
_LEAST_DIAMETERS = 0.25
"""Least estimated distance in diameters of a typical cell. Cells that hardly move change in outline
from frame to frame; no other cell comes as close as this."""
_TRACK_COLUMNS = [column.key for column in TRACKS]


class Reach(NamedTuple):
    """How far a cell may move from one frame to the next."""

    distance: float
    """In the unit of x, y and radius."""
    why: str
    """Where it comes from, in words."""


def default_distance(objects: pd.DataFrame) -> float:
    """Return how far a cell may move between frames by default: see `choose_distance`."""
    return choose_distance(objects).distance


def choose_distance(objects: pd.DataFrame) -> Reach:
    """Estimate how far a cell may move from one frame to the next.

    Parameters
    ----------
    objects : DataFrame
        One row per cell: frame, x, y, radius; optionally sequence.

    Returns
    -------
    Reach
        Three times the 95th percentile of the steps between cells of consecutive frames that are
        each other's nearest cell, and at least a quarter of a typical (median) cell's diameter.
        With fewer than `LEAST_STEPS` steps: a typical cell's diameter; 1 if there is no cell.
    """
    radii = objects["radius"].dropna()
    diameter = float(2 * radii.median()) if len(radii) else 0.0
    steps = nearest_steps(objects)
    if len(steps) < LEAST_STEPS:
        return Reach(
            diameter or 1.0, f"a typical cell's diameter: only {len(steps)} steps are known"
        )
    times, percentile = STEPS
    high = float(np.percentile(steps, percentile))
    estimate, least = times * high, _LEAST_DIAMETERS * diameter
    if estimate < least:
        return Reach(least, f"a quarter of a typical cell's diameter: cells move by {high:.1f} px")
    return Reach(
        estimate or 1.0, f"{times} times the {percentile}th percentile of steps, {high:.1f} px"
    )


def nearest_steps(objects: pd.DataFrame) -> NDArray[np.float64]:
    """Return the distances of cells in consecutive frames that are each other's nearest cell.

    Parameters
    ----------
    objects : DataFrame
        One row per cell: frame, x, y; optionally sequence. Rows without a position are left out.

    Returns
    -------
    (N,) float array
        In the unit of x and y.
    """
    from scipy.spatial import cKDTree

    steps = [np.empty(0)]
    for _, cells in _by_sequence(objects):
        frames, places = cells["frame"].to_numpy(np.int64), cells[["x", "y"]].to_numpy(float)
        for frame in np.unique(frames):
            here, there = places[frames == frame], places[frames == frame + 1]
            if not len(there):
                continue
            distance, nearest = map(np.asarray, cKDTree(there).query(here))
            back = np.asarray(cKDTree(here).query(there)[1])
            steps.append(distance[back[nearest] == np.arange(len(here))])
    return np.concatenate(steps)


def _by_sequence(objects: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    known = objects[objects["x"].notna() & objects["y"].notna()]
    names = known["sequence"] if "sequence" in known else pd.Series(0, index=known.index)
    yield from known.groupby(names, sort=False)


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
        holds across a gap. Default: `choose_distance`.
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
    count = 0
    for _, cells in _by_sequence(objects):
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


def short_tracks(objects: pd.DataFrame, frames: Mapping[Any, int]) -> NDArray[np.bool_]:
    """Say which cells belong to a short track, or to none.

    Parameters
    ----------
    objects : DataFrame
        One row per cell: track_id, sequence.
    frames : mapping
        Number of frames of each sequence.

    Returns
    -------
    (N,) bool array
        True for cells whose track has cells in less than `SHORT` of its sequence's frames, and for
        cells that are not linked to any other.
    """
    found = objects.groupby("track_id")["track_id"].transform("size").fillna(0)
    wanted = SHORT * objects["sequence"].map(frames).to_numpy(float)
    unlinked = objects["track_id"].isna().to_numpy(bool)
    short: NDArray[np.bool_] = unlinked | (found.to_numpy(float) < wanted)
    return short


def numbers_in_images(track_id: pd.Series) -> NDArray[np.int64]:
    """Return the number that every cell has in the tracked label images.

    Parameters
    ----------
    track_id : Series of Int64
        The result of `link`.

    Returns
    -------
    (N,) int64 array
        The track's number plus one; a cell without a track gets a number of its own, above those
        of all tracks.

    Examples
    --------
    >>> numbers_in_images(pd.Series([1, pd.NA, 0, 1, pd.NA], dtype="Int64"))
    array([2, 3, 1, 2, 4])
    """
    numbers = track_id.fillna(-1).to_numpy(np.int64) + 1
    alone = numbers == 0
    numbers[alone] = numbers.max(initial=0) + 1 + np.arange(alone.sum())
    return numbers


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
