"""How many other trials ran beside a trial."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sweep.neighbours import trials_beside


def attempt(start: float, end: float | None, node: str = "n", gpus: tuple[str, ...] = ()) -> Any:
    found: dict[str, Any] = {"node": node, "gpus": [*gpus], "pid": 1, "started": start}
    return found if end is None else found | {"ended": end}


def record(*attempts: Any) -> dict[str, Any]:
    return {"attempts": [*attempts]}


def test_by_hand() -> None:
    found = trials_beside(
        {
            "alone": record(attempt(0, 10, "other")),
            "a": record(attempt(0, 10)),
            "b": record(attempt(5, 25)),
            "c": record(attempt(20, 30)),
            "killed": record(attempt(0, None)),
            "waiting": {},
        }
    )
    assert found == {"alone": 0, "a": 0.5, "b": pytest.approx(10 / 20), "c": 0.5}


def test_only_the_same_gpu_counts() -> None:
    found = trials_beside(
        {
            "a": record(attempt(0, 10, gpus=("0",))),
            "b": record(attempt(0, 10, gpus=("0",))),
            "c": record(attempt(0, 10, gpus=("1",))),
            "d": record(attempt(0, 10, gpus=("0",), node="m")),
            "cpu": record(attempt(0, 10)),
            "both": record(attempt(0, 5, gpus=("0", "1"))),
        }
    )
    assert found == {"a": 1.5, "b": 1.5, "c": 0.5, "d": 0, "cpu": 0, "both": 2}


def test_attempts_of_a_trial_count_together() -> None:
    """Nine hours alone, one hour beside another one; the attempt that was killed is not known."""
    found = trials_beside(
        {
            "a": record(attempt(0, 9), attempt(9, None), attempt(20, 21)),
            "b": record(attempt(20, 21)),
        }
    )
    assert found == {"a": pytest.approx(0.1), "b": 1}


def test_records_of_earlier_versions_have_no_gpus() -> None:
    old = {"attempts": [{"node": "n", "pid": 1, "started": 0.0, "ended": 2.0}]}
    assert trials_beside({"a": old, "b": old}) == {"a": 1, "b": 1}


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20), st.sampled_from("mn")),
        max_size=8,
    )
)
def test_as_counted_second_by_second(spans: list[tuple[int, int, str]]) -> None:
    records = {
        f"t{k}": record(attempt(start, start + long, node))
        for k, (start, long, node) in enumerate(spans)
    }
    found = trials_beside(records)
    for k, (start, long, node) in enumerate(spans):
        others = sum(
            other_start <= second < other_start + other_long
            for second in range(start, start + long)
            for other, (other_start, other_long, there) in enumerate(spans)
            if other != k and there == node
        )
        assert found[f"t{k}"] == pytest.approx(others / long)
