"""TrackMate's tables of spots and tracks, cell by cell and by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.formats.trackmate import (
    SPOTS,
    TRACKS,
    Column,
    Scale,
    spot_rows,
    write_trackmate_objects,
    write_trackmate_tracks,
)

SHAPE: dict[str, Any] = {
    "label": [7, 9],
    "x": [3.0, 5.0],
    "y": [2.0, 6.0],
    "area": [12.0, 20.0],
    "perimeter": [14.0, 18.0],
    "radius": [2.0, 2.5],
    "circularity": [0.75, 0.5],
    "solidity": [1.0, 0.9],
    "shape_index": [4.0, 4.5],
}
PLACE: dict[str, Any] = {"image": ["t3", "t3"], "frame": [3, 3], "track_id": [4, pd.NA]}
SEEN: dict[str, Any] = {
    "intensity_mean": [100.0, 101.0],
    "intensity_median": [99.0, 98.0],
    "intensity_min": [10.0, 11.0],
    "intensity_max": [200.0, 201.0],
    "intensity_sum": [1200.0, 1201.0],
    "intensity_std": [5.0, 6.0],
    "contrast": [0.25, 0.5],
    "snr": [1.5, 2.5],
    "ellipse_x0": [0.5, np.nan],
    "ellipse_y0": [-0.5, np.nan],
    "ellipse_major": [4.0, np.nan],
    "ellipse_minor": [2.0, np.nan],
    "ellipse_theta": [0.125, np.nan],
}
MOMENTS: dict[str, Any] = {
    "num_pixels": [11, 19],
    "axis_major_length": [8.0, 6.0],
    "axis_minor_length": [4.0, 0.0],
    "orientation": [0.0, -1.0],
}


def lines_of(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


def test_every_cell_of_a_table_in_micrometres_and_seconds(tmp_path: Path) -> None:
    table = pd.DataFrame(SHAPE | PLACE | SEEN | MOMENTS | {"method": ["U-Net", "µ"]})
    path = tmp_path / "new" / "folder" / "a.csv"
    count = write_trackmate_objects(
        table, str(path), pixel_size_um=0.5, frame_interval_s=30, extra=("method",)
    )
    assert count == 2
    keys, names, short, units, *rows = lines_of(path)
    assert b"\r" not in path.read_bytes()
    assert keys == [*(c.key for c in SPOTS), "METHOD"]
    assert names == [*(c.name for c in SPOTS), "method"]
    assert short == [*(c.short for c in SPOTS), "method"]
    assert dict(zip(keys, units, strict=True)) == {
        **dict.fromkeys(keys, ""),
        "QUALITY": "(quality)",
        "POSITION_T": "(sec)",
        "AREA": "(micron^2)",
        "ELLIPSE_THETA": "(radians)",
        **dict.fromkeys([f"POSITION_{axis}" for axis in "XYZ"], "(micron)"),
        **dict.fromkeys(["RADIUS", "PERIMETER"], "(micron)"),
        **dict.fromkeys([f"ELLIPSE_{name}" for name in ("X0", "Y0", "MAJOR", "MINOR")], "(micron)"),
        **dict.fromkeys([key for key in keys if "INTENSITY" in key], "(counts)"),
    }
    first, second = (dict(zip(keys, row, strict=True)) for row in rows)
    assert first == {
        "LABEL": "t3:7",
        "ID": "0",
        "TRACK_ID": "4",
        "QUALITY": "11.0",
        "POSITION_X": "1.5",
        "POSITION_Y": "1.0",
        "POSITION_Z": "0.0",
        "POSITION_T": "90.0",
        "FRAME": "3",
        "RADIUS": "1.0",
        "VISIBILITY": "1",
        "MANUAL_SPOT_COLOR": "",
        "MEAN_INTENSITY_CH1": "100.0",
        "MEDIAN_INTENSITY_CH1": "99.0",
        "MIN_INTENSITY_CH1": "10.0",
        "MAX_INTENSITY_CH1": "200.0",
        "TOTAL_INTENSITY_CH1": "1200.0",
        "STD_INTENSITY_CH1": "5.0",
        "CONTRAST_CH1": "0.25",
        "SNR_CH1": "1.5",
        "ELLIPSE_X0": "0.25",
        "ELLIPSE_Y0": "-0.25",
        "ELLIPSE_MAJOR": "2.0",
        "ELLIPSE_MINOR": "1.0",
        "ELLIPSE_THETA": "0.125",
        "ELLIPSE_ASPECTRATIO": "2.0",
        "AREA": "3.0",
        "PERIMETER": "7.0",
        "CIRCULARITY": "0.75",
        "SOLIDITY": "1.0",
        "SHAPE_INDEX": "4.0",
        "METHOD": "U-Net",
    }
    assert (second["LABEL"], second["ID"], second["TRACK_ID"]) == ("t3:9", "1", "")
    assert second["ELLIPSE_ASPECTRATIO"] == second["ELLIPSE_MAJOR"] == ""
    assert second["METHOD"] == "µ"


def test_the_plainest_table_in_pixels_and_frames(tmp_path: Path) -> None:
    """No image, no frame, no intensity, no pixel count: the fewest columns that are asked for."""
    needed = ("label", "x", "y", "area", "perimeter", "radius")
    table = pd.DataFrame({name: SHAPE[name] for name in needed})
    assert write_trackmate_objects(table, tmp_path / "a.csv") == 2
    keys, _, _, units, first, second = lines_of(tmp_path / "a.csv")
    row = dict(zip(keys, first, strict=True))
    assert row == {
        "LABEL": "cell 7",
        "ID": "0",
        "TRACK_ID": "",
        "QUALITY": "12.0",
        "POSITION_X": "3.0",
        "POSITION_Y": "2.0",
        "POSITION_Z": "0.0",
        "POSITION_T": "0.0",
        "FRAME": "0",
        "RADIUS": "2.0",
        "VISIBILITY": "1",
        "MANUAL_SPOT_COLOR": "",
        "AREA": "12.0",
        "PERIMETER": "14.0",
    }
    assert second[:2] == ["cell 9", "1"]
    said = dict(zip(keys, units, strict=True))
    assert said["POSITION_X"] == "(pixel)"
    assert said["AREA"] == "(pixel^2)"
    assert said["POSITION_T"] == "(frame)"


def test_the_ellipse_of_moments_where_none_was_fitted() -> None:
    table = pd.DataFrame(SHAPE | MOMENTS)
    rows = spot_rows(table, SPOTS, Scale(0.5))
    assert rows["ELLIPSE_MAJOR"].tolist() == [2.0, 1.5]
    assert rows["ELLIPSE_MINOR"].tolist() == [1.0, 0.0]
    assert rows["ELLIPSE_X0"].tolist() == rows["ELLIPSE_Y0"].tolist() == [0.0, 0.0]
    # along the rows' axis: straight down, or up; a turn from there to the columns' is positive
    assert abs(rows["ELLIPSE_THETA"][0]) == pytest.approx(math.pi / 2)
    assert rows["ELLIPSE_THETA"][1] == pytest.approx(1 - math.pi / 2)
    assert rows["ELLIPSE_ASPECTRATIO"][0] == 2
    assert math.isnan(rows["ELLIPSE_ASPECTRATIO"][1]), "a line has no aspect ratio"


def test_objects_without_features_are_left_out_and_numbers_go_on() -> None:
    table = pd.DataFrame(SHAPE | MOMENTS | PLACE, index=[5, 6])
    table.loc[5, "area"] = np.nan
    rows = spot_rows(table, SPOTS, Scale(), first_id=40)
    assert rows.index.tolist() == [6]
    assert (rows["LABEL"][6], rows["ID"][6]) == ("t3:9", 40)


@pytest.mark.parametrize(
    ("columns", "frames"),
    [
        ({}, [0, 0, 0, 0, 0]),
        ({"image": list("babac")}, [0, 1, 0, 1, 2]),
        ({"image": list("babac"), "group": list("ggggg")}, [0, 1, 0, 1, 2]),
        ({"image": list("babac"), "group": list("ghghg")}, [0, pd.NA, 0, pd.NA, 1]),
        ({"image": list("babac"), "group": list("ghghi")}, [pd.NA] * 5),
        (
            {"image": list("babac"), "group": list("ghghi"), "sequence": list("sssss")},
            [0, 1, 0, 1, 2],
        ),
        ({"image": list("babac"), "frame": [8, 7, 8, 7, pd.NA]}, [8, 7, 8, 7, pd.NA]),
    ],
)
def test_frames_of_a_table(columns: dict[str, list[Any]], frames: list[Any]) -> None:
    shape = {name: [values[0]] * 5 for name, values in (SHAPE | MOMENTS).items()}
    rows = spot_rows(pd.DataFrame(shape | columns), SPOTS, Scale(None, 10.0))
    assert rows["FRAME"].tolist() == frames
    times = [math.nan if frame is pd.NA else 10.0 * frame for frame in frames]
    np.testing.assert_array_equal(rows["POSITION_T"], times)


def test_tracks_have_either_name() -> None:
    table = pd.DataFrame(SHAPE | MOMENTS)
    assert spot_rows(table, SPOTS, Scale())["TRACK_ID"].isna().all()
    assert spot_rows(table.assign(track=[5, 6]), SPOTS, Scale())["TRACK_ID"].tolist() == [5, 6]
    both = table.assign(track=[5, 6], track_id=[1, 2])
    assert spot_rows(both, SPOTS, Scale())["TRACK_ID"].tolist() == [1, 2]
    assert str(spot_rows(both, SPOTS, Scale())["TRACK_ID"].dtype) == "Int64"


def test_several_tables_one_after_the_other(tmp_path: Path) -> None:
    def tables() -> Iterator[pd.DataFrame]:
        for frame in range(3):
            yield pd.DataFrame(SHAPE | PLACE | {"frame": [frame] * 2, "note": ["a", "b"]})

    assert write_trackmate_objects(tables(), tmp_path / "a.csv", extra=["note"]) == 6
    found = pd.read_csv(tmp_path / "a.csv", skiprows=[1, 2, 3])
    assert found["ID"].tolist() == list(range(6))
    assert found["FRAME"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found["NOTE"].tolist() == ["a", "b"] * 3


def test_no_table_has_headers_only(tmp_path: Path) -> None:
    assert write_trackmate_objects([], tmp_path / "a.csv") == 0
    keys, names, short, units = lines_of(tmp_path / "a.csv")
    assert keys == [c.key for c in SPOTS]
    assert len(names) == len(short) == len(units) == len(keys)


def test_bad_requests_leave_no_file(tmp_path: Path) -> None:
    table = pd.DataFrame(SHAPE)
    with pytest.raises(ValueError) as caught:
        write_trackmate_objects(table.drop(columns=["radius", "area"]), tmp_path / "a.csv")
    assert str(caught.value) == "the object table lacks the columns area, radius"
    for name in ("label", "x", "y", "area", "perimeter", "radius"):
        with pytest.raises(ValueError, match=f"lacks the columns {name}$"):
            write_trackmate_objects(table.drop(columns=name), tmp_path / "a.csv")
    for name in ("pixel_size_um", "frame_interval_s"):
        for wrong in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError) as caught:
                write_trackmate_objects(table, tmp_path / "a.csv", **{name: wrong})  # type: ignore[arg-type]
            assert str(caught.value) == f"{name} must be positive, not {wrong}"
    with pytest.raises(KeyError, match="colour"):
        write_trackmate_objects(table, tmp_path / "a.csv", extra=["colour"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scale", "factors", "units"),
    [
        (Scale(), (1, 1, 1, 1), ("pixel", "pixel^2", "frame", "pixel/frame")),
        (Scale(0.5), (0.5, 0.25, 1, 0.5), ("micron", "micron^2", "frame", "micron/frame")),
        (Scale(None, 4.0), (1, 1, 4, 0.25), ("pixel", "pixel^2", "sec", "pixel/sec")),
        (Scale(0.5, 4.0), (0.5, 0.25, 4, 0.125), ("micron", "micron^2", "sec", "micron/sec")),
    ],
)
def test_units_and_their_factors(
    scale: Scale, factors: tuple[float, ...], units: tuple[str, ...]
) -> None:
    dimensions = ("length", "area", "time", "velocity")
    assert tuple(scale.factor(name) for name in dimensions) == factors
    assert tuple(scale.unit(name) for name in dimensions) == tuple(f"({unit})" for unit in units)
    assert (scale.factor("counts"), scale.unit("counts")) == (1, "(counts)")
    assert (scale.factor(""), scale.unit("")) == (1, "")


def test_every_column_of_tracks_in_its_unit(tmp_path: Path) -> None:
    values: dict[str, Any] = {column.key: [8.0, 16.0] for column in TRACKS}
    tracks = pd.DataFrame({"more": [0, 0], **values, "LABEL": ["Track_0", "Track_1"]})
    before = tracks.copy()
    path = tmp_path / "a.csv"
    write_trackmate_tracks(tracks, path, pixel_size_um=0.5, frame_interval_s=4)
    pd.testing.assert_frame_equal(tracks, before)
    keys, names, short, units, first, second = lines_of(path)
    assert keys == [column.key for column in TRACKS]
    assert names == [column.name for column in TRACKS]
    assert short == [column.short for column in TRACKS]
    expected = {"length": ("4.0", "(micron)"), "time": ("32.0", "(sec)"), "": ("8.0", "")}
    expected |= {"velocity": ("1.0", "(micron/sec)"), "quality": ("8.0", "(quality)")}
    for column, value, unit in zip(TRACKS[1:], first[1:], units[1:], strict=True):
        assert (value, unit) == expected[column.dimension], column.key
    assert (first[0], second[0]) == ("Track_0", "Track_1")
    write_trackmate_tracks(tracks, path)
    assert set(lines_of(path)[4][1:]) == {"8.0"}
    for name in ("pixel_size_um", "frame_interval_s"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            write_trackmate_tracks(tracks, path, **{name: 0})


def test_columns_are_named_once() -> None:
    for table in (SPOTS, TRACKS):
        assert len({column.key for column in table}) == len(table)
    assert Column("K", "Name", "N") == Column("K", "Name", "N", "", "")
