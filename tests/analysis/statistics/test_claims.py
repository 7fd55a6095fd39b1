"""A quick form of benchmarks/calibration_of_claims.py: rates far from the claims are noticed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "calibration_of_claims.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration_of_claims", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CLAIMS = load()
ROWS = {f"{row.kind}, {row.units} units": row for row in CLAIMS.rows()}
QUICK = (
    "7 equal methods, 6 units",
    "6 equal, 1 bad method, 6 units",
    "1 of 4 leads by 0.12, 12 units",
    "4 equal methods, 3 seeds, 6 units",
    "1 of 4 leads by 0.08, 3 seeds, 20 units",
    "mean, gamma(4), 6 units",
    "paired, gamma(4), 6 units",
    "unpaired, normal, 4 + 4 units",
    "treatments of wells, fields given as units, 4 + 4 units",
    "pooled mean AP, 6 units",
    "4 equal methods and a bad one against truth, gamma(4), 6 units",
    "3 equal populations and another, paired, normal, 12 units",
    "3 equal populations and another, unpaired, gamma(4), 6 each units",
    "equivalence of 1 x margin, normal, 12 units",
    "equivalence of 0.5 x margin, normal, 12 units",
)


def check(name: str, studies: int) -> None:
    """Whether a row's rates can be what is wanted: a study in 10,000 is further off by chance."""
    row = ROWS[name]
    for (rate, wanted), (value, *_) in zip(
        row.rates.items(), CLAIMS.measured(row, studies, seed=1)
    ):
        count = round(value * studies)
        if rate == "error" and wanted:
            assert stats.binom.sf(count - 1, studies, float(wanted.split()[1]) / 100) > 1e-4, value
        elif rate == "coverage" and wanted:
            low, high = (float(word) / 100 for word in wanted.split()[::2][:2])
            assert stats.binom.cdf(count, studies, low) > 1e-4, value
            assert stats.binom.sf(count - 1, studies, high) > 1e-4, value
        elif rate == "power":
            assert value > 0.5


@pytest.mark.parametrize("name", QUICK)
def test_claims_hold_in_a_hundred_studies(name: str) -> None:
    check(name, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if any(row.rates.values())])
def test_claims_hold_in_a_thousand_studies(name: str) -> None:
    check(name, 1000)
