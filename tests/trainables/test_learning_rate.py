"""The learning rate over a trial, by hand."""

from __future__ import annotations

import math

import pytest

from trainables.learning_rate import learning_rate_factor


def test_the_learning_rate_rises_then_falls_along_half_a_cosine() -> None:
    factor = learning_rate_factor("cosine", 105)
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert factor(30) == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)
    assert factor(55) == pytest.approx(0.505)
    assert factor(105) == pytest.approx(0.01)
    assert factor(500) == pytest.approx(0.01), "and stays there"
    assert [learning_rate_factor("cosine", 10)(k) for k in (0, 1, 10)] == pytest.approx(
        [1, 1, 0.01]
    )
    assert learning_rate_factor("cosine", 1)(1) == 1
    assert [learning_rate_factor("cosine", 2)(k) for k in (0, 1, 2)] == pytest.approx([1, 1, 0.01])


def test_a_constant_learning_rate() -> None:
    factor = learning_rate_factor("constant", 100)
    assert {factor(step) for step in (0, 3, 50, 1000)} == {1.0}
