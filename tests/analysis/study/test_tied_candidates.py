"""Which candidates may be the best by IoU: from the pixels of single validation images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.runfolder import Run
from analysis.study.tables import tied_candidates

NONE = pd.DataFrame()


def run_of(images: pd.DataFrame, candidates: list[str]) -> Run:
    board = pd.DataFrame(
        {
            "trial_id": [f"{name}-s{seed}" for name in candidates for seed in (0, 1)],
            "candidate": [name for name in candidates for _ in (0, 1)],
            "seed": [0, 1] * len(candidates),
            "status": "done",
        }
    )
    return Run(Path("r"), {}, board, pd.DataFrame({"candidate": candidates}), NONE, {}, images)


def pixels(shares: dict[str, float]) -> pd.DataFrame:
    """Give two images of each of eight groups; IoU varies by group and a little by image."""
    rows = []
    for name, share in shares.items():
        for seed in (0, 1):
            for number in range(16):
                inside = round(1000 * (share - 0.01 * (number // 2) - 0.002 * (number % 2)))
                inside += (number * 7 + seed * 3 + len(name)) % 5
                row = {"trial_id": f"{name}-s{seed}", "split": "val", "image": f"i{number}"}
                rows.append(
                    row | {"group": f"g{number // 2}", "intersection": inside, "union": 1000}
                )
    table = pd.DataFrame(rows)
    test = table.assign(split="test", intersection=0)
    return pd.concat([table, test], ignore_index=True)


def test_candidates_are_tied_over_groups_and_seeds() -> None:
    found = tied_candidates(
        run_of(pixels({"good": 0.9, "bad": 0.7, "same": 0.9}), ["bad", "good", "same"])
    )
    assert found["candidate"].tolist() == ["bad", "good", "same"]
    assert found["tied"].tolist() == [False, True, True]
    assert found["iou_mean"].tolist() == pytest.approx([0.666, 0.866, 0.866], abs=0.004)
    assert (found["iou_low"] < found["iou_mean"]).all()
    assert (found["iou_mean"] < found["iou_high"]).all()


def test_images_without_a_group_are_units_and_empty_ones_are_perfect() -> None:
    images = pixels({"one": 0.9}).assign(group=None)
    images.loc[images["image"] == "i3", ["intersection", "union"]] = 0, 0
    found = tied_candidates(run_of(images, ["one"]))
    val = images[(images["split"] == "val") & images["trial_id"].str.endswith("s0")]
    share = (val["intersection"] / val["union"]).fillna(1.0)
    assert found["iou_mean"][0] == pytest.approx(share.mean(), abs=0.002)


def test_without_single_images_the_table_stays_as_it_is() -> None:
    run = run_of(NONE, ["one"])
    pd.testing.assert_frame_equal(tied_candidates(run), run.candidates)


def test_a_trial_of_which_images_are_missing_says_nothing() -> None:
    """per_image.csv was cut short, or a column of it is gone."""
    images = pixels({"good": 0.9, "bad": 0.7, "same": 0.9})
    images = images[images["split"] == "val"].iloc[:-9]
    found = tied_candidates(run_of(images, ["bad", "good", "same"])).set_index("candidate")
    whole = tied_candidates(run_of(images, ["bad", "good"])).set_index("candidate")
    assert found.loc[["good"], "iou_mean"].tolist() == whole.loc[["good"], "iou_mean"].tolist()
    assert found.loc[["good", "bad"], "tied"].tolist() == [True, False]
    run = run_of(images.drop(columns="union"), ["good"])
    pd.testing.assert_frame_equal(tied_candidates(run), run.candidates)


@pytest.mark.parametrize("group", ["the image itself", "all images"])
def test_frames_of_a_single_time_lapse_are_one_unit(group: str) -> None:
    """Also those that an earlier version wrote as groups."""
    images = pixels({"good": 0.9, "bad": 0.7})
    images["group"] = images["image"] if group == "the image itself" else group
    run = run_of(images, ["good", "bad"])
    if group != "all images":
        assert tied_candidates(run)["tied"].tolist() == [True, False]
    film = replace(run, plan={"data": {"options": {"split": "time_blocks"}}})
    found = tied_candidates(film)
    assert found["iou_low"].isna().all()
    assert found["tied"].all()
