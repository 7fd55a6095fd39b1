"""Label images for other programs, read back as those programs would."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from skimage.draw import disk
from skimage.measure import label as components

from analysis.formats.imagej import read_rois, separated, write_binary, write_labels, write_rois
from analysis.formats.trackmate import SPOTS, write_trackmate_objects
from analysis.morphology.features import measure
from analysis.morphology.intensities import fit_ellipse, measure_intensities

KEYS = [c.key for c in SPOTS]


def crowd(seed: int = 0, cells: int = 40) -> np.ndarray:
    """Discs of several sizes that touch each other and the border."""
    rng, labels = np.random.default_rng(seed), np.zeros((150, 180), np.int32)
    for label in range(1, cells + 1):
        place = disk(rng.integers(0, (150, 180)), rng.integers(4, 14), shape=labels.shape)
        free = labels[place] == 0
        labels[place[0][free], place[1][free]] = label
    pieces = components(labels, connectivity=1, background=0)  # what was cut apart is two cells
    small = np.bincount(pieces.ravel()) < 12
    pieces[small[pieces]] = 0
    found: NDArray[np.int32] = pieces.astype(np.int32)
    return found


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, skiprows=[1, 2, 3])


@pytest.mark.parametrize(("most", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_label_images_are_as_wide_as_needed(tmp_path: Path, most: int, dtype: type) -> None:
    labels = np.array([[0, 1], [2, most]], np.int32)
    write_labels(labels, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert tiff.asarray().dtype == dtype
        assert np.array_equal(tiff.asarray(), labels)


@pytest.mark.parametrize("seed", range(5))
def test_connected_components_of_the_binary_are_the_cells(tmp_path: Path, seed: int) -> None:
    labels = crowd(seed)
    write_binary(labels, tmp_path / "a.png")
    mask = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    for connectivity in (1, 2):  # TrackMate's mask detector takes 4 neighbours, ImageJ 8
        found = components(mask > 0, connectivity=connectivity)
        pairs = np.unique(np.c_[found[mask > 0], labels[mask > 0]], axis=0)
        assert len(pairs) == found.max() == len(np.unique(labels)) - 1
    lost = (labels > 0) & (mask == 0)
    assert lost.sum() < 0.2 * (labels > 0).sum()


def test_only_the_larger_of_two_touching_cells_gives_pixels() -> None:
    labels = np.zeros((9, 9), int)
    labels[1:8, 1:6] = 7
    labels[4, 6] = 3
    kept = separated(labels)
    assert kept[4, 6]
    assert not kept[3:6, 5].any()
    assert not separated(np.zeros((4, 4), int)).any()


def test_rois_give_back_the_labels(tmp_path: Path) -> None:
    labels = crowd(1)
    labels[labels == 4] = 0  # labels need not be consecutive
    write_rois(labels, tmp_path / "a.zip", position=6)
    filled = read_rois(tmp_path / "a.zip", labels.shape)
    assert np.array_equal(filled, labels)
    from roifile import ROI_TYPE, roiread

    rois = roiread(tmp_path / "a.zip")
    assert {roi.name for roi in rois} == {str(v) for v in np.unique(labels[labels > 0])}
    assert {roi.position for roi in rois} == {7}
    assert {roi.roitype for roi in rois} == {ROI_TYPE.POLYGON}
    write_rois(labels, tmp_path / "b.zip", position=6)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_square_roi_has_imagej_coordinates(tmp_path: Path) -> None:
    from roifile import roiread

    labels = np.zeros((8, 8), int)
    labels[2:5, 3:7] = 9
    write_rois(labels, tmp_path / "a.zip")
    roi = roiread(tmp_path / "a.zip")[0]
    assert sorted(map(tuple, roi.coordinates().tolist())) == [(3, 2), (3, 5), (7, 2), (7, 5)]
    assert roi.position == 0


def test_no_cells_make_empty_files(tmp_path: Path) -> None:
    empty = np.zeros((20, 30), np.int32)
    write_rois(empty, tmp_path / "a.zip")
    assert not read_rois(tmp_path / "a.zip", (20, 30)).any()
    write_trackmate_objects(measure(empty), tmp_path / "o.csv")
    assert read(tmp_path / "o.csv").empty
    assert write_trackmate_objects([], tmp_path / "none.csv") == 0
    assert measure_intensities(empty, empty, measure(empty)).empty
    (tmp_path / "c.zip").write_text("no")
    with pytest.raises(ValueError, match=r"c\.zip"):
        read_rois(tmp_path / "c.zip", (20, 30))


def test_intensities_by_hand() -> None:
    labels = np.zeros((40, 40), int)
    labels[10:20, 10:20] = 5
    image = np.full((40, 40), 100, np.uint16)
    image[10:20, 10:20] = 300
    image[10:15, 10:20] = 500
    one = measure_intensities(image, labels, measure(labels, convention="trackmate_raw")).iloc[0]
    assert one["intensity_mean"] == one["intensity_median"] == 400
    assert (one["intensity_min"], one["intensity_max"]) == (300, 500)
    assert one["intensity_sum"] == 40_000
    assert one["intensity_std"] == pytest.approx(np.std([300, 500] * 50, ddof=1))
    assert one["contrast"] == pytest.approx((400 - 100) / (400 + 100))
    assert one["snr"] == pytest.approx(300 / one["intensity_std"])


def test_intensities_of_many_cells_are_those_of_each() -> None:
    labels, rng = crowd(2), np.random.default_rng(0)
    image = rng.integers(0, 60000, labels.shape).astype(np.uint16)
    features = measure(labels)
    table = measure_intensities(image, labels, features)
    for row, label in zip(table.to_dict("records"), features["label"]):
        values = image[labels == label].astype(float)
        assert row["intensity_mean"] == pytest.approx(values.mean())
        assert row["intensity_median"] == pytest.approx(np.median(values))
        assert row["intensity_std"] == pytest.approx(values.std(ddof=1))
        assert row["intensity_min"] == values.min()


def test_an_ellipse_is_found_wherever_it_lies() -> None:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for angle in (-1.2, -0.4, 0.3, 1.5):
        x, y = 9 * np.cos(t), 4 * np.sin(t)
        points = np.c_[
            500 + x * np.cos(angle) - y * np.sin(angle), 80 + x * np.sin(angle) + y * np.cos(angle)
        ]
        found = fit_ellipse(points)
        assert found == pytest.approx((500, 80, 9, 4, angle), abs=1e-5)
    assert np.isnan(fit_ellipse(points[:5])).all()
    assert np.isnan(fit_ellipse(np.c_[np.arange(9.0), np.arange(9.0)])).all()


def test_trackmate_headers_and_units(tmp_path: Path) -> None:
    labels = crowd(3)
    features = measure(labels).assign(image="t0,1", frame=3)
    intensities = measure_intensities(labels.astype(np.uint16), labels, features)
    table = pd.concat([features, intensities], axis=1)
    write_trackmate_objects(table, tmp_path / "a.csv", pixel_size_um=0.5, frame_interval_s=30)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].split(",") == KEYS
    assert lines[1].startswith("Label,Spot ID,Track ID,Quality,X,Y,Z,T,Frame,Radius,Visibility")
    assert lines[2].startswith("Label,Spot ID,Track ID,Quality,X,Y,Z,T,Frame,R,Visibility")
    assert lines[3].startswith(",,,(quality),(micron),(micron),(micron),(sec),,(micron),,,(counts)")
    assert "(micron^2)" in lines[3]
    found, kept = read(tmp_path / "a.csv"), table[table["area"].notna()].reset_index()
    assert found["LABEL"].tolist() == [f"t0,1:{i}" for i in kept["label"]]
    assert found["ID"].tolist() == list(range(len(kept)))
    for key, name, factor in (
        ("AREA", "area", 0.25),
        ("POSITION_X", "x", 0.5),
        ("RADIUS", "radius", 0.5),
        ("PERIMETER", "perimeter", 0.5),
        ("CIRCULARITY", "circularity", 1),
        ("MEAN_INTENSITY_CH1", "intensity_mean", 1),
        ("ELLIPSE_THETA", "ellipse_theta", 1),
        ("QUALITY", "num_pixels", 1),
    ):
        np.testing.assert_allclose(found[key], kept[name] * factor, err_msg=key)
    assert (found["POSITION_T"] == 90).all()
    assert (found["FRAME"] == 3).all()
    assert found["TRACK_ID"].isna().all()
    assert (found["ELLIPSE_ASPECTRATIO"].dropna() >= 1).all()


def test_a_table_of_the_report_will_do(tmp_path: Path) -> None:
    """Without intensities and frames, with units in it, several images, and lost objects."""
    tables = [
        measure(crowd(k), pixel_size_um=0.5).assign(
            image=f"i{k}", group="g", method="m", track=pd.array([k] * 1, dtype="Int64")[0]
        )
        for k in range(3)
    ]
    table = pd.concat(tables, ignore_index=True)
    table.loc[0, ["x", "y", "area", "perimeter", "radius"]] = np.nan
    count = write_trackmate_objects(table, tmp_path / "a.csv", extra=("method",))
    found = read(tmp_path / "a.csv")
    assert len(found) == count == len(table) - 1
    assert list(found) == [k for k in KEYS if "CH1" not in k] + ["METHOD"]
    assert found["FRAME"].tolist() == [int(i[1]) for i in table["image"][1:]]
    assert found["TRACK_ID"].tolist() == found["FRAME"].tolist()
    np.testing.assert_allclose(found["ELLIPSE_MAJOR"], table["axis_major_length"][1:] / 2)
    np.testing.assert_allclose(found["AREA"], table["area"][1:])
    with pytest.raises(ValueError, match="radius"):
        write_trackmate_objects(table.drop(columns="radius"), tmp_path / "b.csv")
    with pytest.raises(ValueError, match="pixel_size_um"):
        write_trackmate_objects(table, tmp_path / "b.csv", pixel_size_um=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"], "nothing half-written"


def test_the_ellipse_of_moments_points_as_the_fitted_one() -> None:
    from analysis.formats.trackmate import Scale, spot_rows

    y, x = np.mgrid[:60, :60]
    for angle in (-1.0, 0.2, 0.9):
        along = (x - 30) * np.cos(angle) + (y - 30) * np.sin(angle)
        across = (y - 30) * np.cos(angle) - (x - 30) * np.sin(angle)
        labels = ((along / 22) ** 2 + (across / 9) ** 2 <= 1).astype(int)
        table = measure(labels)
        fitted = measure_intensities(labels, labels, table)
        a = spot_rows(table, SPOTS, Scale()).iloc[0]
        b = spot_rows(pd.concat([table, fitted], axis=1), SPOTS, Scale()).iloc[0]
        for rows in (a, b):
            assert rows["ELLIPSE_THETA"] == pytest.approx(angle, abs=0.03)
            assert rows["ELLIPSE_MAJOR"] == pytest.approx(22, rel=0.04)
            assert rows["ELLIPSE_MINOR"] == pytest.approx(9, rel=0.06)


def test_a_cell_that_fills_the_image() -> None:
    assert separated(np.ones((5, 6), int)).all()
    both = separated(np.array([[1, 1, 1, 2]]))
    assert both.tolist() == [[True, True, False, True]]
