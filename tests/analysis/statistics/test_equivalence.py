"""Equivalent, different, undecided: by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.equivalence import (
    DIFFERENT,
    EQUIVALENT,
    UNDECIDED,
    equivalence_p,
    family_level,
    further_units,
    verdict,
)
from tests.analysis.statistics.test_families import paired, unpaired


def test_two_one_sided_tests_by_hand() -> None:
    each = np.array([0.1, 0.3, -0.2, 0.4, 0.2, 0.1, 0.3])
    low = stats.ttest_1samp(each, -0.5, alternative="greater").pvalue
    high = stats.ttest_1samp(each, 0.5, alternative="less").pvalue
    assert equivalence_p(paired(each), 0.5) == pytest.approx(max(low, high))
    a, b = each + 1, np.array([1.1, 0.9, 1.2, 0.8])
    low = stats.ttest_ind(a, b - 0.6, equal_var=False, alternative="greater").pvalue
    high = stats.ttest_ind(a, b + 0.6, equal_var=False, alternative="less").pvalue
    assert equivalence_p(unpaired(a, b), 0.6) == pytest.approx(max(low, high))


def test_without_units_or_margin_nothing_is_known() -> None:
    assert math.isnan(equivalence_p(paired([0.1] * 5), 1.0))
    assert math.isnan(equivalence_p(unpaired([0.1] * 3, [0.2] * 9), 1.0))
    for margin in (0.0, math.nan):
        assert math.isnan(equivalence_p(paired([0.1] * 6), margin))
    assert equivalence_p(paired([0.1] * 6), 1.0) == 0
    assert equivalence_p(paired([2.0] * 6), 1.0) == 1


def test_verdicts() -> None:
    assert verdict(0.05, 0.9) == DIFFERENT
    assert verdict(0.051, 0.9) == UNDECIDED
    assert verdict(0.9, 0.05) == EQUIVALENT
    assert verdict(0.001, 0.001) == EQUIVALENT  # real, and of no consequence
    assert verdict(math.nan, math.nan) == ""
    assert verdict(0.01, math.nan) == DIFFERENT


def test_so_many_further_units_usually_decide() -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(0, 1, 8)
    each = 0.1 + (each - each.mean()) / each.std(ddof=1)
    more = further_units(paired(each), 0.6)
    assert more is not None
    studies = rng.normal(0.1, 1, (2000, 8 + more))
    decided = 0
    for study in studies:
        pair = paired(study)
        low, high = pair.interval()
        decided += equivalence_p(pair, 0.6) <= 0.05 or low > 0 or high < 0
    assert 0.75 <= decided / 2000 <= 0.88
    assert further_units(paired(each[:5]), 0.6) is None
    # exactly on the margin, only a difference can be shown
    assert (further_units(paired(each + 0.5), 0.6) or 0) > 0
    assert further_units(paired(each - each.mean()), 1e-9) is None


def test_a_stricter_family_needs_more_units() -> None:
    each = np.array([0.9, 1.4, -0.3, 1.2, 0.4, 0.8, 1.1, -0.2])
    alone = float(stats.ttest_1samp(each, 0).pvalue)
    assert family_level(paired(each), alone, 8) == pytest.approx(0.05)
    assert family_level(paired(each), 4 * alone, 8) == pytest.approx(0.05 / 4)
    assert family_level(paired(each), 1.0, 8) == pytest.approx(0.05 / 8)
    assert family_level(paired([1.0] * 6), 0.5, 8) == 0.05
    few, more = (further_units(paired(each), 0.1, level=level) for level in (0.05, 0.05 / 8))
    assert few is not None
    assert more is not None
    assert few < more


def test_a_difference_as_large_as_the_margin_is_rarely_equivalent() -> None:
    rng = np.random.default_rng(1)
    for mean, least, most in ((1.0, 0.0, 0.065), (0.5, 0.8, 1.0)):
        found = [equivalence_p(paired(each), 1.0) for each in rng.normal(mean, 0.5, (1000, 12))]
        assert least <= (np.array(found) <= 0.05).mean() <= most
