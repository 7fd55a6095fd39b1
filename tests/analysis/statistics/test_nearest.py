"""Which biases may be as near to 0 as the nearest one: by hand, and against planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.statistics.nearest import as_near


def drawn(
    seed: int, biases: list[float], units: int, shared: float
) -> dict[str, NDArray[np.float64]]:
    """Draw values with SD 1 over units, of which `shared` is the variance that all have alike."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, np.sqrt(shared), units)
    own = rng.normal(0, np.sqrt(1 - shared), (len(biases), units))
    return {chr(97 + i): bias + common + own[i] for i, bias in enumerate(biases)}


def test_by_hand() -> None:
    near = np.array([0.1, -0.1, 0.2, -0.2, 0.1, -0.04])  # its mean is 0.01
    far = np.array([-1.0, -1.1, -0.9, -1.2, -0.8, -1.0])
    # t of 1 - 0.01 and of 1 + 0.01 is about 10; Tukey's 5 % for two methods and 5 degrees is 2.57
    assert as_near({"far": far, "near": near}) == ["near"]
    assert as_near({"far": far, "near": near}, alpha=1e-6) == ["far", "near"]
    assert as_near({"far": far[:5], "near": near[:5]}) == ["far", "near"]
    assert as_near({"one": far}) == ["one"]
    assert as_near({"a": near, "same": near.copy(), "opposite": -near}) == ["a", "same", "opposite"]
    assert as_near({"none": np.zeros(6), "always": np.full(6, 0.1)}) == ["none"]


@pytest.mark.parametrize(
    ("biases", "units"), [([2.0, -2.0, 2.0], 6), ([0.5, -0.5, 0.5, -0.5], 12), ([0.3, -0.3, 5], 12)]
)
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_method_as_near_as_the_nearest_is_rarely_left_out(
    biases: list[float], units: int, shared: float
) -> None:
    equal = {chr(97 + i) for i, bias in enumerate(biases) if abs(bias) < 5}
    lost = [not equal <= set(as_near(drawn(s, biases, units, shared))) for s in range(200)]
    assert np.mean(lost) <= 0.09  # 5 %, and three standard errors less


def test_a_method_that_is_further_away_is_left_out() -> None:
    found = [as_near(drawn(s, [0.0, 3.0, -3.0], 8, 0.5)) for s in range(40)]
    assert np.mean([one == ["a"] for one in found]) > 0.8
