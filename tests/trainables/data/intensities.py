"""That a checkpoint scales images as its training set was, for the tests of both kinds of network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainables import checkpoint
from trainables.config import Normalization
from trainables.data.appearance import appearance_of
from trainables.data.dataset import DataSet
from trainables.data.imagefiles import read_image
from trainables.errors import CheckpointError

DATASET = Normalization(mode="dataset")


def assert_intensities_are_kept(folder: Path, dataset: DataSet, shape: tuple[int, int]) -> None:
    """Look at a checkpoint that was trained with `DATASET`, and spoil it.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    dataset : DataSet
        What it was trained on: images of 16 bit.
    shape : (int, int)
        Height and width of the largest training image.
    """
    manifest = json.loads((folder / "checkpoint.json").read_text())
    intensities = dataset.intensities(DATASET)
    assert intensities is not None
    assert {k: manifest["input"][k] for k in ("low", "high", "bits")} == intensities._asdict()
    assert tuple(manifest["data"]["image_shape"]) == shape
    appearance = appearance_of(dataset)
    assert appearance["low"]["typical"] <= appearance["high"]["typical"] < 1
    assert manifest["data"]["appearance"] == appearance
    item = dataset.subset("test")[0]
    image = read_image(item.image)
    predictor = checkpoint.load(folder)
    try:
        whole, scaled = predictor.probability(image), predictor.normalize(image)
        np.testing.assert_array_equal(scaled, dataset.load(item, DATASET)[0])
        # a part is scaled as the whole was: that is the purpose
        part = image[16:48, :64]
        np.testing.assert_array_equal(predictor.normalize(part), scaled[16:48, :64])
        assert whole.shape == image.shape
        with pytest.raises(ValueError, match="image has 8 bit, but the training images had 16"):
            predictor.probability((image // 16).astype(np.uint8))
    finally:
        predictor.close()
    del manifest["input"]["low"]
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="it has no intensities"):
        checkpoint.load(folder)
