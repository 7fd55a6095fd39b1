"""What the page shows of its tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.evidence import Evidence
from analysis.report.shown_tables import agreed, named_networks
from analysis.report.tables import make_tables
from tests.analysis.evidence_data import PIXEL, make_evidence


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(architectures=("Unet", "PAN"), encoders=("resnet152",))


def test_ranking_has_the_columns_that_fit(evidence: Evidence) -> None:
    (table,) = (table for table in make_tables(evidence) if table.name == "ranking")
    assert [heading for heading, _ in table.headings] == [
        "Fig. 10", "method", "may be the best", "mean AP, validation", "95 % interval",
        "mean AP, test", "F1 at 0.5, test", "PQ, test", "SEG, test", "IoU, test",
    ]  # fmt: skip
    low, high = evidence.methods.loc[0, ["val_low", "val_high"]]
    assert [cell.text for cell in table.rows[0]][:5] == [
        "A", evidence.methods.loc[0, "method"], "yes", "0.740", f"{low:.3f} to {high:.3f}",
    ]  # fmt: skip


def test_interval_of_too_few_units_is_empty() -> None:
    few = make_evidence(units=5, architectures=("Unet", "PAN"), encoders=("resnet152",))
    methods = few.methods.assign(val_low=np.nan, val_high=np.nan)
    (table,) = (t for t in make_tables(replace(few, methods=methods)) if t.name == "ranking")
    assert "95 % interval" not in [heading for heading, _ in table.headings]


def test_no_table_of_the_page_shows_keys(evidence: Evidence) -> None:
    board = evidence.leaderboard.groupby(["task", "architecture", "encoder"], as_index=False)
    candidates = board[["val_dataset_iou"]].mean()
    for table in make_tables(replace(evidence, candidates=candidates)):
        texts = {cell.text for row in table.rows for cell in row}
        assert not texts & {"semantic2", "semantic3", "UnetPlusPlus", "resnet152", "shape_index"}


def test_networks_are_named_once() -> None:
    row = {"trial_id": "a", "task": "semantic3", "architecture": "Unet", "encoder": "resnet18"}
    named = named_networks(pd.DataFrame([row | {"seed": 0}]))
    assert named.to_dict("records") == [
        {"trial_id": "a", "network": "U-Net, ResNet-18, 3-class", "seed": 0}
    ]
    assert named_networks(pd.DataFrame({"seed": [0]})).columns.tolist() == ["seed"]


def test_agreement_is_in_micrometres_where_known(evidence: Evidence) -> None:
    pixels, shown = evidence.agreement, agreed(evidence)
    for feature, scale in (("area", PIXEL**2), ("radius", PIXEL), ("solidity", 1.0)):
        rows = (pixels["feature"] == feature).to_numpy()
        for name in ("bias", "sd", "loa_low", "loa_high"):
            expected = pixels.loc[rows, name].to_numpy(float) * scale
            np.testing.assert_allclose(shown.loc[rows, name].to_numpy(float), expected)
    unknown = replace(evidence, settings=evidence.settings | {"pixel_size_um": None})
    assert agreed(unknown)["bias"].tolist() == evidence.agreement["bias"].tolist()
