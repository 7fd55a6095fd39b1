from __future__ import annotations

import pytest

from sweep.budget import read_caps
from sweep.costs import Rented, cost_lines, hours_of_trials
from sweep.packing import PackedTrial


def test_without_a_price_nothing_is_said() -> None:
    assert cost_lines(Rented(4, 32, 1), 7200, read_caps(2, None, None)) == []


@pytest.mark.parametrize(
    ("hours", "cost", "ceiling"),
    [
        (None, None, "none: the sweep runs until all trials have ended; --max-hours or --max-cost"),
        (3.0, None, "30 for this call (4 GPUs for --max-hours 3), and the epochs that are then"),
        (3.0, 25.0, "25 for this call (--max-cost), and the epochs that are then"),
        (3.0, 35.0, "30 for this call (4 GPUs for --max-hours 3), and the epochs that are then"),
    ],
)
def test_costs_by_hand(hours: float | None, cost: float | None, ceiling: str) -> None:
    first, last = cost_lines(Rented(4, 32, 1), 7200, read_caps(hours, cost, "2.5/gpu"))
    # 4 GPUs x 2 h x 2.5
    assert first == (
        "cost: about 20 (4 GPUs for 2 h 0 min at 2.5 per GPU-hour); estimates have been up to 3 "
        "times too low, so perhaps 60"
    )
    assert last.startswith(f"ceiling: {ceiling}")


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("3/node", "cost: about 6.0 (1 node for 2 h 0 min at 3 per node-hour)"),
        ("0.1/core", "cost: about 6.4 (32 cores for 2 h 0 min at 0.1 per core-hour)"),
    ],
)
def test_other_units(price: str, said: str) -> None:
    assert cost_lines(Rented(0, 32, 1), 7200, read_caps(None, None, price))[0].startswith(said)


@pytest.mark.parametrize("price", ["1/node", "1/gpu"])
def test_what_is_not_known_is_not_priced(price: str) -> None:
    (line,) = cost_lines(Rented(0, 8, None), 3600, read_caps(None, None, price))
    assert line.startswith("cost: --plan does not know how many ")


def test_hours_are_those_of_shares() -> None:
    items = [PackedTrial("a", 7200, 0.5), PackedTrial("b", 3600)]
    assert hours_of_trials(items, 0) == "2.0 GPU-hours"
    assert hours_of_trials(items, 4) == "8.0 core-hours"
