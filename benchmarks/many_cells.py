"""How long a report's comparisons take, and how much memory, by the number of cells.

    python benchmarks/many_cells.py [--cells 1000000]

A truth and five methods have the same number of cells, in images of 500 cells and 30 groups, with
two populations.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from analysis.evidence import TRUTH
from analysis.study.comparisons import agreements, comparisons, unit_biases

METHODS = (TRUTH, *(f"method {n}" for n in range(1, 6)))


def cells(count: int) -> pd.DataFrame:
    """Draw an object table."""
    rng = np.random.default_rng(0)
    image, label = np.arange(count // 6) // 500, np.arange(count // 6) % 500 + 1
    size = rng.normal(9, 1.2, len(label))
    tables = []
    for method in METHODS:
        radius = np.abs(size + rng.normal(0, 0.2, len(label)))
        area, perimeter = np.pi * radius**2, 2.1 * np.pi * radius
        noise = rng.normal(0, 0.01, (2, len(label)))
        columns = {
            "method": method,
            "trial_id": method,
            "split": "test",
            "image": np.char.add("i", image.astype(str)),
            "group": np.char.add("g", (image // 8 % 30).astype(str)),
            "label": label,
            "matched_label": pd.array(label, dtype="Int64"),
            "track": pd.array([pd.NA] * len(label), dtype="Int64"),
            "population": pd.array(np.where(label % 2, "large", "small"), dtype="string"),
            "area": area,
            "perimeter": perimeter,
            "circularity": 4 * np.pi * area / perimeter**2 + noise[0],
            "solidity": 0.95 + noise[1],
            "radius": radius,
            "shape_index": perimeter / np.sqrt(area),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    """Print the times."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    table = cells(parser.parse_args().cells)
    print(f"{len(table):,} cells")
    steps = {
        "comparisons": lambda: comparisons(table, recommended=METHODS[1]),
        "agreements": lambda: agreements(table),
        "biases of units": lambda: unit_biases(table),
    }
    for name, step in steps.items():
        began = time.monotonic()
        rows = len(step())
        print(f"{name}: {rows} rows, {time.monotonic() - began:.1f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
