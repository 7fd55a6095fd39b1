"""How often each test finds a difference where there is none, and where there is one.

    python benchmarks/false_positives.py [--simulations 2000] [--icc 0.5]

Cells of one unit resemble each other: their values are a unit's own offset plus a cell's own, of
which the first makes up the intra-class correlation. Units are 8 to 20, of 5 to 60 cells each.
Unpaired: every unit belongs to one group. Paired: every unit holds cells of both; half of the
unit's offset is shared by its two groups, half is each group's own.

A second table has a fixed number of units, and how often the 95 % interval of the difference misses
the true one, which is 0.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from analysis.statistics.pairs import compare


def simulate(
    rng: np.random.Generator, icc: float, paired: bool, effect: float = 0.0, units: int = 0
) -> pd.DataFrame:
    """Draw one study: columns group, unit, value; `effect` is in SDs of a cell's value."""
    rows = []
    units = units or int(rng.integers(8, 21))
    for unit in range(units):
        shared = rng.normal(0, np.sqrt(icc / 2))
        for group in ("a", "b") if paired else ("ab"[unit % 2],):
            cells = int(rng.integers(5, 61))
            offset = shared + rng.normal(0, np.sqrt(icc / 2))
            values = offset + rng.normal(0, np.sqrt(1 - icc), cells) + effect * (group == "b")
            rows += [(group, unit, value) for value in values]
    return pd.DataFrame(rows, columns=["group", "unit", "value"])


def rates(
    simulations: int, icc: float, paired: bool, effect: float = 0.0, units: int = 0, seed: int = 0
) -> tuple[float, float, float]:
    """Return how often p_unit and p_mann_whitney are at most 0.05, and an interval excludes 0."""
    rng = np.random.default_rng(seed)
    found = np.zeros(3)
    for _ in range(simulations):
        table = simulate(rng, icc, paired, effect, units)
        row = compare(table, feature="value", by="group", unit="unit", resamples=1999).iloc[0]
        excluded = not row["unit_difference_low"] <= 0 <= row["unit_difference_high"]
        found += row["p_unit"] <= 0.05, row["p_mann_whitney"] <= 0.05, excluded
    ours, naive, missed = found / simulations
    return float(ours), float(naive), float(missed)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--icc", type=float, default=0.5)
    options = parser.parse_args()
    print("| design | true difference (SD) | over units | Mann-Whitney over cells |")
    print("|---|---|---|---|")
    for paired in (False, True):
        for effect in (0.0, 1.0):
            ours, naive, _ = rates(options.simulations, options.icc, paired, effect)
            name = "paired" if paired else "unpaired"
            print(f"| {name} | {effect:g} | {ours:.1%} | {naive:.1%} |", flush=True)
    print("\n| design | units | p_unit <= 0.05 | interval misses the truth |\n|---|---|---|---|")
    for paired in (False, True):
        for units in (6, 8, 12, 20):
            ours, _, missed = rates(options.simulations, options.icc, paired, units=units)
            name = "paired" if paired else "unpaired"
            print(f"| {name} | {units} | {ours:.1%} | {missed:.1%} |", flush=True)


if __name__ == "__main__":
    main()
