"""Images without masks: tracks that all methods share, fields, and what is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from analysis.evidence import FEATURES
from analysis.segment.inputs import InputError
from analysis.study.sequence import read_sequence
from analysis.study.unlabelled import (
    Packed,
    best_of_ways,
    cells_of_frame,
    compare_methods,
    unit_of,
    with_tracks,
)

FIRST, SECOND = "U-Net, 2-class", "U-Net, 3-class"


def frame_cells(labels: np.ndarray, reference: np.ndarray, method: str, frame: int) -> pd.DataFrame:
    found = cells_of_frame(labels, reference, convention="trackmate", pixel_size_um=None)
    names = {"method": method, "trial_id": method, "image": f"t{frame}", "group": "film"}
    return found.assign(frame=frame, **names)


def test_cells_of_other_methods_get_the_tracks_of_the_cells_that_they_overlap_most() -> None:
    """Two cells move by a pixel; the second method fuses them in one frame, and invents a third."""
    tables = []
    for frame in range(3):
        own = np.zeros((40, 60), np.int32)
        own[5:15, 5 + frame : 15 + frame] = 2
        own[5:15, 15 + frame : 22 + frame] = 1
        other = np.zeros_like(own)
        other[5:15, 5 + frame : 15 + frame] = 1
        other[5:15, 15 + frame : 22 + frame] = 1 if frame == 1 else 2
        other[25:33, 40:48] = 7
        tables += [frame_cells(own, own, FIRST, frame), frame_cells(other, own, SECOND, frame)]
    found = with_tracks(pd.concat(tables, ignore_index=True), FIRST)
    large = found[(found["method"] == FIRST) & (found["label"] == 2)]["track"]
    small = found[(found["method"] == FIRST) & (found["label"] == 1)]["track"]
    assert large.nunique() == small.nunique() == 1
    assert large.iloc[0] != small.iloc[0]
    second = found[found["method"] == SECOND].set_index(["frame", "label"])
    assert second.loc[(0, 1), "track"] == large.iloc[0]
    assert second.loc[(0, 2), "track"] == small.iloc[0]
    assert second.loc[(1, 1), "track"] == large.iloc[0], "of a fused cell, that of the larger part"
    assert second.loc[(1, 1), "overlap_label"] == 2
    invented = found[(found["method"] == SECOND) & (found["label"] == 7)]
    assert len(invented) == 3
    assert invented["track"].isna().all()
    assert invented["overlap_label"].isna().all()
    assert not found["at_border"].any()


def test_cells_at_the_border_are_left_out() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[0:8, 4:12] = 1
    labels[12:20, 12:20] = 2
    found = frame_cells(labels, labels, FIRST, 0)
    assert found.set_index("label")["left_out"].to_dict() == {1: True, 2: False}
    one_frame = with_tracks(found, FIRST)
    assert one_frame["track"].isna().all()


def test_frames_without_cells() -> None:
    nothing = np.zeros((20, 20), np.int32)
    labels = nothing.copy()
    labels[4:12, 4:12] = 1
    tables = [frame_cells(nothing, nothing, FIRST, 0), frame_cells(labels, nothing, SECOND, 0)]
    found = with_tracks(pd.concat(tables, ignore_index=True), FIRST)
    assert found["track"].isna().all()
    table = compare_methods(found, unit="track", convention="trackmate", resamples=9, seed=0)
    assert table.empty or (table["verdict"] == "").all()


def test_packed_label_images_come_back() -> None:
    labels = np.random.default_rng(0).integers(0, 300, (70, 50)).astype(np.int32)
    assert np.array_equal(Packed.of(labels).labels(), labels)
    assert np.array_equal(Packed.of(labels.T).labels(), labels.T)


def drawn(fields: int, tracks: int, frames: int, extra: float) -> pd.DataFrame:
    """Return round cells of two methods; the second one draws them larger by `extra` pixels."""
    rng = np.random.default_rng(1)
    rows = []
    for field in range(fields):
        for track in range(tracks):
            radius = rng.normal(8, 0.6)
            for frame in range(frames):
                for method in (FIRST, SECOND):
                    own = radius + rng.normal(0, 0.1) + extra * (method == SECOND)
                    noise = rng.normal(0, 0.004, 3)
                    row: dict[str, object] = {"area": np.pi * own**2, "perimeter": 2 * np.pi * own}
                    row |= {"circularity": 0.9 + noise[0], "solidity": 0.95 + noise[1]}
                    row |= {"radius": own, "shape_index": 3.7 + noise[2], "method": method}
                    row |= {"image": f"f{field}t{frame}", "group": f"f{field}", "frame": frame}
                    row |= {"track": field * tracks + track, "left_out": False}
                    rows.append(row)
    return pd.DataFrame(rows).astype({"track": "Int64"})


def test_the_two_tests_differ_where_cells_are_the_same_ones() -> None:
    """A difference of a quarter pixel in every cell: tiny beside the spread of cells."""
    table = drawn(1, 30, 12, 0.25)
    assert unit_of(table) == "track"
    found = compare_methods(table, unit="track", convention="trackmate", resamples=999, seed=0)
    assert list(found["feature"]) == list(FEATURES)
    area = found.set_index("feature").loc["area"]
    assert (area["a"], area["b"], area["design"]) == (FIRST, SECOND, "paired")
    assert area["units_a"] == area["units_b"] == 30
    assert area["unit_difference"] == pytest.approx(-np.pi * (8.25**2 - 8**2), rel=0.1)
    assert (area["cells_a"], area["cells_b"]) == (360, 360)
    assert area["p_cells"] == area["p_mann_whitney"] < 1e-4
    assert area["verdict"] == "equivalent"
    assert area["p_family"] <= 0.005
    assert set(found["family"]) == {"unlabelled"}
    assert found.set_index("feature")["verdict"][["radius", "shape_index"]].eq("").all()
    whole = compare_methods(
        drawn(1, 30, 12, 1.0), unit="track", convention="trackmate", resamples=999, seed=0
    )
    assert whole.set_index("feature")["verdict"]["area"] == "different"


def test_the_papers_test_counts_cells_without_a_track() -> None:
    table = drawn(1, 10, 4, 0.0)
    table.loc[table["track"] == 3, "track"] = pd.NA
    found = compare_methods(table, unit="track", convention="trackmate", resamples=99, seed=0)
    assert (found["units_a"] == 9).all()
    assert (found["n_a"] == 36).all()
    assert (found["cells_a"] == 40).all()
    edge = table.assign(left_out=table["frame"] == 0)
    found = compare_methods(edge, unit="track", convention="trackmate", resamples=99, seed=0)
    assert (found["cells_a"] == 30).all()


@pytest.mark.parametrize(("fields", "unit", "units"), [(5, "track", 20), (6, "group", 6)])
def test_fields_are_units_from_six_on(fields: int, unit: str, units: int) -> None:
    table = drawn(fields, 4, 3, 0.1)
    assert unit_of(table) == unit
    found = compare_methods(table, unit=unit, convention="trackmate", resamples=99, seed=0)
    assert (found["units_a"] == units).all()
    assert (found["design"] == "paired").all()


def test_the_first_method_of_every_way() -> None:
    names = ["A, gap given back", "B", "A", "C", "D"]
    ways = ["2-class + watershed, gap given back", "3-class", "2-class + watershed", "3-class", "x"]
    methods = pd.DataFrame({"method": names, "way": ways, "trial_id": ["a", "b", "a", "c", "d"]})
    methods = methods.assign(calibrated='{"threshold": 0.5}', representative=[True] * 4 + [False])
    chosen = best_of_ways(methods)
    assert [(one.method, one.give_back_gap) for one in chosen] == [
        ("A, gap given back", True),
        ("B", False),
        ("A", False),
    ]
    assert chosen[0].parameters == {"threshold": 0.5}


def frames(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        tifffile.imwrite(folder / f"t{n}.tif", np.full((8, 9), n, np.uint16))


def test_a_folder_a_stack_and_a_folder_of_fields(tmp_path: Path) -> None:
    frames(tmp_path / "film", 3)
    one = read_sequence(tmp_path / "film")
    assert [(f.name, f.sequence, f.number) for f in one.frames] == [
        (f"t{n}", "film", n) for n in range(3)
    ]
    for name in ("f10", "f2"):
        frames(tmp_path / "fields" / name)
    (tmp_path / "fields" / "notes").mkdir()
    fields = read_sequence(tmp_path / "fields")
    assert [f.sequence for f in fields.frames] == ["f2", "f2", "f10", "f10"]
    assert len({f.name for f in fields.frames}) == 4
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 8, 9), np.uint8), imagej=True)
    stack = read_sequence(tmp_path / "stack.tif")
    assert [f.number for f in stack.frames] == list(range(5))
    assert one.pixel_size_um is fields.pixel_size_um is stack.pixel_size_um is None


def test_groups_of_a_data_set_are_fields(tmp_path: Path) -> None:
    frames(tmp_path / "images", 4)
    groups = "{t0: a, t1: a, t2: b, t3: b}"
    (tmp_path / "dataset.yaml").write_text(f"pixel_size_um: 0.25\ngroups: {groups}\n")
    for path in (tmp_path, tmp_path / "images"):
        found = read_sequence(path)
        assert [f.sequence for f in found.frames] == ["a", "a", "b", "b"]
        assert found.pixel_size_um == 0.25


def test_a_damaged_frame_is_named_before_any_work(tmp_path: Path) -> None:
    frames(tmp_path / "film", 3)
    path = tmp_path / "film" / "t1.tif"
    pixels = np.random.default_rng(0).integers(0, 999, (80, 90)).astype(np.uint16)
    tifffile.imwrite(path, pixels, compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(InputError, match=r"t1\.tif"):
        read_sequence(tmp_path / "film")
