"""How small a lead a study can show: against studies that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.statistics import tied_set
from analysis.statistics.power import smallest_lead, units_needed
from tests.analysis.statistics.test_tied import drawn


@pytest.mark.parametrize(("units", "seeds"), [(6, 1), (20, 1), (12, 3)])
def test_the_smallest_lead_is_usually_found_and_half_of_it_is_not(units: int, seeds: int) -> None:
    retraining = 0.02 if seeds > 1 else 0.0
    leads = [
        smallest_lead(drawn(s, 3, units, seeds=seeds, retraining=retraining)) for s in range(40)
    ]
    lead = float(np.median(leads))
    found = []
    for share in (1.0, 0.4):
        sets = [
            # two methods, one of which leads; the third is far behind
            tied_set(
                drawn(100 + s, 3, units, seeds, retraining, (share * lead, 0.0, -0.5))
            ).set_index("method")["tied"]
            for s in range(80)
        ]
        found.append(np.mean([one["a"] and not one["b"] for one in sets]))
    assert 0.65 < found[0] < 0.98  # 80 %, more or less: one method is out of the way
    assert found[1] < 0.5


def test_more_units_show_less_unless_trainings_differ() -> None:
    scores = drawn(0, 4, 8)
    lead = smallest_lead(scores)
    needed = units_needed(scores, 0.02)
    assert needed is not None
    assert smallest_lead(scores, units=needed) <= 0.02 < smallest_lead(scores, units=needed - 1)
    assert units_needed(scores, lead) == 8
    # three trainings that are .05 apart never show a lead of .005
    assert units_needed(drawn(1, 4, 8, seeds=3, retraining=0.05), 0.005) is None


def test_too_few_units_or_methods_show_nothing() -> None:
    assert math.isnan(smallest_lead(drawn(0, 4, 5)))
    assert math.isnan(smallest_lead(drawn(0, 1, 8)))
    assert smallest_lead(drawn(0, 2, 6)) > 0
