"""The window of Figure 8: chosen by the true cells, before any network is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from analysis.runfolder import Run
from analysis.study.annotations import CellAnnotations
from analysis.study.study import Study, StudyOptions, make_study
from analysis.study.truth import CROP_SIDE, densest, measure_truth
from trainables.config import Normalization
from trainables.data.dataset import index_dataset
from trainables.data.normalization import normalize

CELLS = {
    "i0": [],
    "i1": [],
    "i2": [(20, 30), (250, 330), (270, 330), (270, 300)],
    "i3": [(9, 9)],
    "i4": [],
}
"""Of each image: rows and columns where a cell of 12 x 12 pixels begins."""
SHAPE = (300, 370)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Images of which the first to be measured shows no cell, and the second many in one corner."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for stem, cells in CELLS.items():
        labels = np.zeros(SHAPE, np.uint16)
        for label, (row, column) in enumerate(cells, 1):
            labels[row : row + 12, column : column + 12] = label
        tifffile.imwrite(tmp_path / "masks" / f"{stem}.tif", labels)
        image = rng.integers(0, 1000, SHAPE).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / f"{stem}.tif", image)
    split = {"train": ["i0"], "val": ["i4"], "test": ["i1", "i2", "i3"]}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"split": split}))
    data, nothing = index_dataset(tmp_path), pd.DataFrame()
    run = Run(tmp_path, {}, nothing, nothing, nothing, {})
    return make_study(run, data, None, CellAnnotations(data), StudyOptions())


def test_window_is_of_the_first_image_with_cells_where_most_are(study: Study) -> None:
    window = measure_truth(study, lambda: None).window
    assert window is not None
    assert window.item.stem == window.crop.image == "i2"
    # in steps of 56, the only one that holds parts of the three cells of the corner
    assert window.crop.corner == (56, 112)
    rows, columns = window.slices
    assert (rows, columns) == (slice(56, 280), slice(112, 336))
    item = window.item
    image, truth = tifffile.imread(item.image), tifffile.imread(item.mask)
    np.testing.assert_array_equal(window.crop.truth, truth[rows, columns])
    whole = normalize(image, Normalization())  # not of the window alone
    np.testing.assert_array_equal(window.crop.pixels, whole[rows, columns])


def test_small_images_are_shown_as_far_as_they_reach() -> None:
    truth = np.zeros((100, 130), np.int32)
    truth[40:60, 110:125] = 1
    assert densest(truth, min(CROP_SIDE, *truth.shape)) == (slice(0, 100), slice(25, 125))
    assert densest(truth[:, :100], 100) == (slice(0, 100), slice(0, 100))


def test_without_any_cell_there_is_no_window(study: Study) -> None:
    for item in study.items:
        tifffile.imwrite(item.mask, np.zeros(SHAPE, np.uint16))
    found = measure_truth(study, lambda: None)
    assert found.window is None
    assert found.missing() == ["Images without any true cell: i1, i2, i3."]
