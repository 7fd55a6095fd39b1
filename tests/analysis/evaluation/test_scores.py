"""Scores per object: by hand, against stardist's, and per unit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from stardist.matching import matching, matching_dataset

from analysis.evaluation.scores import (
    METRICS,
    ImageScores,
    image_scores,
    match,
    pooled,
    unit_members,
)
from analysis.evaluation.selection import select, unit_scores


def scores_of(*pairs: tuple[NDArray[np.integer], NDArray[np.integer]]) -> dict[str, float]:
    return dict(zip(METRICS, pooled([image_scores(t, p) for t, p in pairs])))


def squares() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    true, pred = np.zeros((2, 30, 40), np.int32)
    true[2:12, 2:12] = 5
    true[2:12, 20:30] = 9
    true[16:26, 2:12] = 12
    pred[2:12, 2:12] = 1  # the same
    pred[2:12, 22:32] = 2  # shifted by 2: 80 / 120
    pred[20:28, 30:38] = 3  # not there
    return true, pred


def test_scores_by_hand() -> None:
    true, pred = squares()
    found = scores_of((true, pred))
    assert found["precision_50"] == pytest.approx(2 / 3)
    assert found["recall_50"] == pytest.approx(2 / 3)
    assert found["f1_50"] == pytest.approx(2 / 3)
    assert found["ap_50"] == pytest.approx(2 / 4)
    assert found["ap_60"] == pytest.approx(2 / 4)
    assert found["ap_70"] == found["ap_90"] == pytest.approx(1 / 5)
    assert found["ap_mean"] == pytest.approx((2 * 0.5 + 3 * 0.2) / 5)
    assert found["pq"] == pytest.approx((1 + 2 / 3) / (2 + 0.5 + 0.5))
    assert found["seg"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["iou"] == pytest.approx(180 / (300 + 264 - 180))
    # 36 outline pixels of a square of 10, moved by 2 along x. In either direction 10 of one side
    # are 2 away; of the other side 2 are 1 away and 6 are 2 away; 2 beside the corners are 1 away
    assert found["hd95"] == pytest.approx((0 + 2) / 2)
    assert found["masd"] == pytest.approx((0 + (10 * 2 + 2 * 1 + 6 * 2 + 2 * 1) / 36) / 2)


def test_pairs_carry_the_labels_of_their_images() -> None:
    true, pred = squares()
    pairs = match(true, pred)
    assert sorted(zip(pairs.true.tolist(), pairs.pred.tolist())) == [(5, 1), (9, 2)]
    assert sorted(pairs.iou) == pytest.approx([2 / 3, 1])
    assert len(match(true, pred, threshold=0.7).true) == 1


def test_seg_counts_an_object_only_when_more_than_half_is_covered() -> None:
    true, pred = np.zeros((2, 10, 20), np.int32)
    true[0:2, 0:10] = 1
    pred[0:2, 0:5] = 1  # exactly half
    assert scores_of((true, pred))["seg"] == 0
    pred[0, 5] = 1
    assert scores_of((true, pred))["seg"] == pytest.approx(11 / 20)


def test_images_without_cells() -> None:
    nothing, some = np.zeros((8, 8), np.int32), np.ones((8, 8), np.int32)
    empty = scores_of((nothing, nothing))
    assert all(np.isnan(v) for v in empty.values())
    assert scores_of((nothing, some))["precision_50"] == 0
    assert np.isnan(scores_of((nothing, some))["recall_50"])
    assert scores_of((some, nothing))["recall_50"] == 0
    assert scores_of((some, nothing), (nothing, nothing))["f1_50"] == 0
    assert scores_of((some, some))["ap_mean"] == 1


def test_labels_may_be_any_numbers() -> None:
    true, pred = squares()
    odd = np.where(true > 0, true.astype(np.int64) * 10**9, 0)
    assert scores_of((odd, pred)) == scores_of((true, pred))
    assert 5 * 10**9 in match(odd, pred).true


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        image_scores(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="shape"):
        match(np.zeros((2, 2), int), np.zeros((2, 3), int))


label_images = arrays(np.int32, (9, 11), elements=st.integers(0, 4))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(label_images, label_images), min_size=1, max_size=3))
def test_counts_are_those_of_stardist(
    pairs: list[tuple[NDArray[np.int32], NDArray[np.int32]]],
) -> None:
    found = scores_of(*pairs)
    for name, threshold in (("50", 0.5), ("70", 0.7), ("90", 0.9)):
        theirs = matching_dataset(
            [t for t, _ in pairs], [p for _, p in pairs], thresh=threshold, show_progress=False
        )
        if theirs.n_true + theirs.n_pred == 0:
            assert np.isnan(found[f"ap_{name}"])
            continue
        assert found[f"ap_{name}"] == pytest.approx(theirs.accuracy)
        if threshold == 0.5:
            assert found["f1_50"] == pytest.approx(theirs.f1)
            assert found["pq"] == pytest.approx(theirs.panoptic_quality)
            if theirs.n_pred:
                assert found["precision_50"] == pytest.approx(theirs.precision)
            if theirs.n_true:
                assert found["recall_50"] == pytest.approx(theirs.recall)
    assert len(match(*pairs[0]).true) == matching(*pairs[0]).tp


def image(tp: float, total: float) -> ImageScores:
    n = len(METRICS) - 1
    return ImageScores(np.full(n, tp), np.full(n, total), 1, 1)


def test_pooling_sums_before_it_divides_and_counts_by_weight() -> None:
    images = [image(1, 1), image(0, 9)]
    assert pooled(images)[0] == pytest.approx(0.1)
    weighted = pooled(images, np.array([[1, 1], [9, 1], [1, 0]]))
    assert weighted[:, 0] == pytest.approx([0.1, 0.5, 1])


def test_scores_of_single_units() -> None:
    images = [image(1, 1), image(0, 9), image(1, 2)]
    names, members = unit_members(["b", "b", "a"])
    assert names.tolist() == ["a", "b"]
    assert pooled(images, members)[:, 0] == pytest.approx([0.5, 0.1])


def test_standing_is_a_mean_over_seeds_with_the_outermost_units() -> None:
    nothing = image(0, 0)
    methods = {
        "one": [[image(4, 10), image(9, 10), nothing]],
        "two": [[image(1, 10), image(2, 10), nothing], [image(3, 10), image(6, 10), nothing]],
    }
    scores = unit_scores(methods, ["x", "y", "z"])
    two = scores[(scores["method"] == "two") & (scores["unit"] == "y")]
    assert two["score"].tolist() == pytest.approx([0.2, 0.6])
    found = select(scores)
    assert list(found) == ["one", "two"]
    one, two_seeds = found["one"], found["two"]
    assert (one.score, one.lowest, one.highest) == pytest.approx((0.65, 0.4, 0.9))
    assert (two_seeds.score, two_seeds.lowest, two_seeds.highest) == pytest.approx((0.3, 0.2, 0.4))
    assert one.units == 2  # of z there is nothing to say
    assert two_seeds.tied  # two units show nothing
    assert np.isnan([one.low, one.high]).all()
    unknown = select(unit_scores({"none": [[nothing]]}, ["x"]))["none"]
    assert np.isnan([unknown.score, unknown.lowest, unknown.highest]).all()
    assert unknown.units == 0


def test_inventing_cells_is_worse_than_showing_none() -> None:
    nothing, invented = image(0, 0), image(0, 3)
    methods = {"careful": [[image(4, 10), nothing]], "inventive": [[image(4, 10), invented]]}
    found = unit_scores(methods, ["x", "y"]).set_index(["method", "unit"])["score"]
    assert found.to_dict() == {
        ("careful", "x"): 0.4,
        ("careful", "y"): 1.0,
        ("inventive", "x"): 0.4,
        ("inventive", "y"): 0.0,
    }
    none = unit_scores({"careful": [[image(4, 10), nothing]]}, ["x", "y"])
    assert none["score"].isna().tolist() == [False, True]


def test_standing_of_enough_units_has_an_interval_and_a_tied_set() -> None:
    good, bad = (9, 8, 9, 7, 8, 9, 8), (3, 2, 4, 2, 3, 3, 1)
    scores = unit_scores(
        {
            "bad": [[image(n, 10) for n in bad]],
            "good": [[image(n, 10) for n in good]],
            "also good": [[image(n, 10) for n in reversed(good)]],
        },
        [f"u{n}" for n in range(7)],
    )
    found = select(scores)
    assert {name: one.tied for name, one in found.items()} == {
        "good": True,
        "also good": True,
        "bad": False,
    }
    shares = np.array(good) / 10
    low, high = stats.t.interval(0.95, 6, shares.mean(), stats.sem(shares))
    assert (found["good"].low, found["good"].high) == pytest.approx((low, high))
