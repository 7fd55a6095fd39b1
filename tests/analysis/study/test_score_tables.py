"""The table of scores: distances in pixels, and in micrometres where the pixel size is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.evaluation.calibration import Calibration
from analysis.evaluation.scores import METRICS, image_scores
from analysis.report.tables import HEADINGS, wide_scores
from analysis.runfolder import Candidate
from analysis.study.tables import score_tables
from analysis.study.trials import AnalysedTrial, Variant
from trainables.config import TrialConfig

VARIANT = Variant("m", "calibrated")


def moved(by: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give a square of 5 pixels, and the same square so many columns further."""
    true, pred = np.zeros((2, 9, 12), np.int32)
    true[1:6, 1:6], pred[1:6, 1 + by : 6 + by] = 1, 1
    return true, pred


def analysed() -> AnalysedTrial:
    candidate = Candidate("m", TrialConfig(architecture="Unet", encoder="resnet18"), ("t",), 0.5)
    calibration = Calibration({}, {}, 0.0, 0.0, 1, [], {}, [], {}, {})
    trial = AnalysedTrial(candidate, "t", calibration, [VARIANT])
    for scored, by in ((trial.validation, 0), (trial.measured, 1)):
        scored.images, scored.groups = ["i"], ["g"]
        scored.scores[VARIANT] = [image_scores(*moved(by))]
    return trial


@pytest.mark.parametrize("which", ["scores", "units"])
def test_distances_are_also_in_micrometres_where_the_pixel_size_is_known(which: str) -> None:
    tables = score_tables([analysed()], "group", "other", {"val": None, "other": 0.4})
    table = dict(zip(("scores", "units"), tables))[which]
    values = table.set_index(["split", "metric"])["value"]
    # squares of 5, one column apart: 8 of 16 outline pixels are 1 away
    assert values["other", "masd"] == pytest.approx(0.5)
    assert values["other", "masd_um"] == pytest.approx(0.2)
    assert (values["other", "hd95"], values["other", "hd95_um"]) == pytest.approx((1, 0.4))
    assert set(table.loc[table["split"] == "val", "metric"]) == set(METRICS)


def test_the_page_shows_one_unit_of_length() -> None:
    sizes: Mapping[str, float | None]
    for sizes, shown in (
        ({"val": 0.3, "test": 0.3}, ["masd_um", "hd95_um"]),
        ({"val": 0.3, "test": None}, ["masd", "hd95"]),
        ({}, ["masd", "hd95"]),
    ):
        scores, _ = score_tables([analysed()], "group", "test", sizes)
        table = wide_scores(scores)
        assert [name for name in table if "masd" in str(name) or "hd95" in str(name)] == shown
        assert all("µm" in HEADINGS[name] for name in shown) == shown[0].endswith("um")
    assert wide_scores(pd.DataFrame()).empty
