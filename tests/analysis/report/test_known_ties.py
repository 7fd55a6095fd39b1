"""With too few units, no table says which methods may be the best."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.report.shown_tables import known_ties


def test_ties_that_nothing_is_known_of_are_not_shown() -> None:
    table = pd.DataFrame({"method": ["a", "b"], "tied": [True, False], "val_low": [0.5, 0.4]})
    assert known_ties(table)["tied"].tolist() == [True, False]
    few = table.assign(val_low=np.nan, tied=True).rename(columns={"val_low": "iou_low"})
    assert known_ties(few)["tied"].isna().all()
    pd.testing.assert_frame_equal(known_ties(table[["method"]]), table[["method"]])
