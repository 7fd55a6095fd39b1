from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainables.metrics import dataset_iou, iou_from_counts, overlap_counts, per_image_iou


def images(*rows: str) -> NDArray[np.bool_]:
    """Each word is a 2x2 image, row by row: x is foreground."""
    return np.array([[c == "x" for c in row] for row in rows]).reshape(-1, 2, 2)


# pred, true, data-set IoU, per-image IoU, all by hand
TABLES = [
    (["xx.."], ["xx.."], 1.0, 1.0),
    (["xx.."], ["..xx"], 0.0, 0.0),
    (["xx.."], ["x.x."], 1 / 3, 1 / 3),
    (["...."], ["...."], 1.0, 1.0),
    (["...."], ["x..."], 0.0, 0.0),
    (["x..."], ["...."], 0.0, 0.0),
    (["xxxx", "x..."], ["xxxx", ".x.."], 4 / 6, 0.5),
    (["xx..", "...."], ["x...", "...."], 1 / 2, 0.75),
]


@pytest.mark.parametrize(("pred", "true", "dataset", "image"), TABLES)
def test_hand_computed(pred: list[str], true: list[str], dataset: float, image: float) -> None:
    assert dataset_iou(images(*pred), images(*true)) == pytest.approx(dataset)
    assert per_image_iou(images(*pred), images(*true)) == pytest.approx(image)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.3, 1))
@settings(max_examples=50, deadline=None)
def test_agrees_with_segmentation_models_pytorch(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    pred, true = (rng.random((2, count, 3, 4)) < share).astype(bool)
    assume((pred | true).any((1, 2)).all())  # smp does not define the IoU of nothing
    stats = smp.metrics.get_stats(
        torch.from_numpy(pred[:, None]).long(), torch.from_numpy(true[:, None]).long(), "binary"
    )
    score = smp.metrics.iou_score
    assert dataset_iou(pred, true) == pytest.approx(float(score(*stats, reduction="micro")))
    assert per_image_iou(pred, true) == pytest.approx(
        float(score(*stats, reduction="micro-imagewise"))
    )


def test_counts_of_images_of_different_size_add_up() -> None:
    assert overlap_counts(images("xx..")[0], images("x...")[0]) == (1, 2)
    assert iou_from_counts([(1, 2), (3, 4), (0, 0)]) == pytest.approx((4 / 6, (0.5 + 0.75 + 1) / 3))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="boolean"):
        dataset_iou(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        dataset_iou(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))
    with pytest.raises(ValueError, match="shape"):
        per_image_iou(np.zeros((1, 2, 2), bool), np.zeros((2, 2, 2), bool))
    with pytest.raises(ValueError, match="no images"):
        iou_from_counts([])
