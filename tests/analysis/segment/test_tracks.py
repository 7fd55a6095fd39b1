"""Discs that move as we say, and what their tracks measure by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.formats.trackmate import TRACKS, write_trackmate_tracks
from analysis.segment.tracks import (
    choose_distance,
    default_distance,
    link,
    nearest_steps,
    numbers_in_images,
    short_tracks,
    track_table,
)


def cells(
    paths: Mapping[str, Sequence[tuple[int, float, float]]], sequence: str = "s"
) -> pd.DataFrame:
    rows = [
        (name, frame, x, y, 5.0, 80, sequence)
        for name, path in paths.items()
        for frame, x, y in path
    ]
    names = ["name", "frame", "x", "y", "radius", "num_pixels", "sequence"]
    table = pd.DataFrame(rows, columns=names).sort_values(["frame", "name"], ignore_index=True)
    return table


def by_name(table: pd.DataFrame, tracks: pd.Series) -> dict[str, set[Any]]:
    return {str(name): set(tracks[rows.index]) for name, rows in table.groupby("name")}


TRUTH: dict[str, list[tuple[int, float, float]]] = {
    "east": [(f, 10 + 3.0 * f, 20) for f in range(6)],
    "south": [(f, 60, 10 + 4.0 * f) for f in range(6)],
    "gap": [(f, 100 + 3.0 * f, 50 + 4.0 * f) for f in (0, 1, 3, 4)],
    "still": [(f, 150, 150) for f in range(6)],
    "lone": [(2, 200, 20)],
}


def test_known_paths_are_found() -> None:
    table = cells(TRUTH)
    tracks = link(table, max_distance=12)
    found = by_name(table, tracks)
    assert all(len(ids) == 1 for ids in found.values())
    assert found.pop("lone") == {pd.NA}
    assert set.union(*found.values()) == {0, 1, 2, 3}
    assert tracks.dtype == "Int64"


def test_gaps_are_bridged_as_far_as_allowed() -> None:
    table = cells(TRUTH)
    strict = by_name(table, link(table, max_distance=12, max_gap=0))
    assert len(strict["gap"]) == 2
    two = {"a": [(0, 5, 5), (1, 6, 5), (4, 8, 5), (5, 9, 5)]}
    assert len(by_name(cells(two), link(cells(two), max_distance=9, max_gap=1))["a"]) == 2
    assert len(by_name(cells(two), link(cells(two), max_distance=9, max_gap=2))["a"]) == 1


def test_speed_displacement_and_straightness_by_hand() -> None:
    paths = {
        # two steps of 5, one turn back by 4; then a step of 12 over two frames
        "a": [(0, 0, 0), (1, 3, 4), (2, 6, 8), (3, 6, 4), (5, 6, 16)],
        "b": [(2, 100, 100), (3, 100, 107)],
    }
    table = cells(paths)
    table["track_id"] = link(table, max_distance=13)
    tracks = track_table(table).set_index("TRACK_ID")
    a, b = tracks.loc[0], tracks.loc[1]
    assert a["NUMBER_SPOTS"] == 5
    assert (a["NUMBER_GAPS"], a["LONGEST_GAP"]) == (1, 1)
    assert (a["TRACK_START"], a["TRACK_STOP"], a["TRACK_DURATION"]) == (0, 5, 5)
    assert a["TOTAL_DISTANCE_TRAVELED"] == 5 + 5 + 4 + 12
    displacement = math.hypot(6, 16)
    assert a["TRACK_DISPLACEMENT"] == pytest.approx(displacement)
    assert a["MAX_DISTANCE_TRAVELED"] == pytest.approx(displacement)
    assert a["CONFINEMENT_RATIO"] == pytest.approx(displacement / 26)
    assert a["MEAN_STRAIGHT_LINE_SPEED"] == pytest.approx(displacement / 5)
    speeds = [5, 5, 4, 6]
    assert a["TRACK_MEAN_SPEED"] == 5
    assert (a["TRACK_MIN_SPEED"], a["TRACK_MAX_SPEED"], a["TRACK_MEDIAN_SPEED"]) == (4, 6, 5)
    assert a["TRACK_STD_SPEED"] == pytest.approx(np.std(speeds, ddof=1))
    assert a["LINEARITY_OF_FORWARD_PROGRESSION"] == pytest.approx(displacement / 5 / 5)
    assert a["TRACK_X_LOCATION"] == pytest.approx(21 / 5)
    assert a["TRACK_MEAN_QUALITY"] == 80
    assert b["TRACK_MEAN_SPEED"] == b["TRACK_DISPLACEMENT"] == 7
    assert b["CONFINEMENT_RATIO"] == 1
    assert b[["TRACK_STD_SPEED"]].isna().all()


def test_a_cell_that_stays_has_no_direction() -> None:
    table = cells({"still": TRUTH["still"]})
    table["track_id"] = link(table, max_distance=5)
    one = track_table(table).iloc[0]
    assert one["TRACK_MEAN_SPEED"] == one["TRACK_DISPLACEMENT"] == 0
    assert math.isnan(one["CONFINEMENT_RATIO"])


def test_sequences_are_linked_apart_and_numbered_together() -> None:
    path = [(0, 5, 5), (1, 6, 5)]
    table = pd.concat([cells({"a": path}, "one"), cells({"b": path}, "two")], ignore_index=True)
    table["track_id"] = link(table, max_distance=3)
    assert table["track_id"].tolist() == [0, 0, 1, 1]
    assert track_table(table)["LABEL"].tolist() == ["one:Track_0", "two:Track_1"]


def test_empty_frames_and_cells_without_a_place() -> None:
    table = cells({"a": [(1, 5, 5), (2, 6, 5), (4, 7, 5)], "b": [(4, np.nan, np.nan)]})
    found = link(table)
    assert default_distance(table) == 10
    assert found.isna().tolist() == [False, False, False, True]
    assert found.nunique() == 1
    none = table.iloc[:0]
    assert link(none).empty
    assert track_table(none.assign(track_id=link(none))).empty
    one = table.iloc[:1]
    assert link(one).isna().all()
    for wrong in ({"max_distance": 0}, {"max_distance": math.nan}, {"max_gap": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            link(table, **wrong)


def test_crowded_sequence_is_followed() -> None:
    """A hundred discs that drift together by less than half their distance."""
    rng, count = np.random.default_rng(0), 100
    start = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 30.0
    rows = []
    for frame in range(12):
        start = start + rng.normal(0, 2, start.shape) + (2, 0)
        order = rng.permutation(count)
        rows += [(i, frame, *start[i], 8.0) for i in order if rng.random() > 0.03]
    table = pd.DataFrame(rows, columns=["name", "frame", "x", "y", "radius"])
    table["track_id"] = link(table)
    pure = table.dropna().groupby("track_id")["name"].nunique()
    assert (pure == 1).mean() > 0.98
    assert table.groupby("name")["track_id"].nunique().mean() < 1.1


def test_table_as_trackmate_exports_it(tmp_path: Path) -> None:
    table = cells(TRUTH)
    table["track_id"] = link(table, max_distance=12)
    tracks = track_table(table)
    write_trackmate_tracks(tracks, tmp_path / "a.csv", pixel_size_um=0.5, frame_interval_s=10)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].split(",") == [c.key for c in TRACKS]
    assert lines[2].startswith("Label,Index,ID,N spots,N gaps")
    assert "(micron/sec)" in lines[3]
    found = pd.read_csv(tmp_path / "a.csv", skiprows=[1, 2, 3]).set_index("TRACK_ID")
    east = found.loc[int(table["track_id"][table["name"] == "east"].iloc[0])]
    assert east["TRACK_DISPLACEMENT"] == 7.5
    assert east["TRACK_DURATION"] == 50
    assert east["TRACK_MEAN_SPEED"] == pytest.approx(0.15)
    assert east["CONFINEMENT_RATIO"] == pytest.approx(1)
    assert east["LABEL"] == f"Track_{east.name}"


def walkers(count: int, frames: int, step: float, seed: int = 0) -> pd.DataFrame:
    """Cells 50 apart with a diameter of 16 that walk at random."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) * 50.0
    rows = []
    for frame in range(frames):
        rows += [(frame, x, y, 8.0, "s") for x, y in place]
        angle = rng.uniform(0, 2 * np.pi, len(place))
        place = place + step * np.stack([np.cos(angle), np.sin(angle)], 1)
    return pd.DataFrame(rows, columns=["frame", "x", "y", "radius", "sequence"])


@pytest.mark.parametrize("step", [2.0, 6.0])
def test_distance_comes_from_the_steps(step: float) -> None:
    reach = choose_distance(walkers(5, 8, step))
    assert reach.distance == pytest.approx(3 * step)
    assert reach.why == f"3 times the 95th percentile of steps, {step:.1f} px"
    table = walkers(5, 8, step)
    assert link(table).nunique() == 25
    assert link(table, max_distance=0.9 * step, max_gap=0).isna().all()


def test_distance_of_cells_that_hardly_move_or_are_few() -> None:
    still = choose_distance(walkers(5, 8, 0.0))
    assert still.distance == 4  # a quarter of the diameter
    assert "a quarter of a typical cell's diameter" in still.why
    few = choose_distance(walkers(2, 5, 3.0))
    assert few.distance == 16
    assert few.why == "a typical cell's diameter: only 16 steps are known"


def test_only_mutual_neighbours_of_consecutive_frames_are_steps() -> None:
    table = cells({"a": [(0, 5, 5), (1, 8, 9), (3, 8, 9)], "b": [(0, 5, 6), (5, 5, 6)]})
    assert nearest_steps(table).tolist() == [math.hypot(3, 3)]  # b is nearer to where a went
    apart = table.assign(sequence=table["name"])
    assert nearest_steps(apart).tolist() == [5]
    assert nearest_steps(table.iloc[:0]).tolist() == []


def test_a_gap_of_three_frames_is_closed_by_default() -> None:
    table = cells({"a": [(0, 5, 5), (1, 6, 5), (5, 8, 5), (6, 9, 5)]})
    assert link(table, max_distance=9).nunique() == 1
    assert link(table.assign(frame=table["frame"] * 2), max_distance=9).nunique() != 1


def test_short_tracks_and_numbers_in_images_by_hand() -> None:
    table = pd.DataFrame({"sequence": ["s"] * 8 + ["t"] * 2})
    table["track_id"] = pd.array([1, 1, 0, 0, 0, pd.NA, pd.NA, 1, 2, 2], dtype="Int64")
    short = short_tracks(table, {"s": 13, "t": 8})
    # 3 of 13 frames are less than a quarter, 2 of 8 are not
    assert short.tolist() == [True] * 8 + [False] * 2
    assert not short_tracks(table, {"s": 12, "t": 8})[:5].any()
    assert numbers_in_images(table["track_id"]).tolist() == [2, 2, 1, 1, 1, 4, 5, 2, 3, 3]
