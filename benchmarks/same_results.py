"""Do two folders hold the same results? ``python benchmarks/same_results.py BEFORE AFTER``.

For run folders (and folders of cells that `analysis.segment` has written) of two versions of the
code: every table, every calibration, every label image, overlay and figure is compared to the last
digit. Ignored is only what differs between two runs of the same code: time, memory, paths,
commands, versions and the names that each run gives itself (W&B's ids, hashes of files that hold
the name of a temporary file). Prints one line for each table and each folder of images; exits with
1 when anything differs, with 2 when there is nothing to compare.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image

IGNORED = {
    "leaderboard.csv": {"train_seconds", "peak_memory_mb", "checkpoint", "wandb_id"},
    "history.csv": {"seconds"},
    "table1.csv": {"training_time"},
    "methods.csv": {"command"},
    "calibration.json": {"weights"},
    "settings.json": {"command", "data", "measured_data", "versions", "model"},
}
"""Columns (of JSON: fields) that no two runs have in common, by the file's name."""
SKIPPED = {"data", "tune", "wandb", "ledger"}
"""Folders of what a run was given, or works with; their content is in the tables."""
IMAGES = {".tif", ".png"}
WHOLE = {".svg", ".zip"}
"""Files that are compared byte by byte."""
MOST = 3
"""Differences that are printed of one table."""

Table = tuple[list[str], list[list[str]]]
"""Names of the columns, and the rows as text with every digit."""
Compare = Callable[[Path, Path], tuple[bool, str]]


def compared(before: Path, after: Path) -> list[tuple[bool, str]]:
    """Compare two folders: for each table or folder of files, whether it is equal, and one line."""
    names = sorted({*_files(before), *_files(after)})
    lines = []
    for name in names:
        if Path(name).suffix in (".csv", ".parquet", ".json"):
            lines.append(_pair(before / name, after / name, name, _tables))
    for folder in sorted({str(Path(name).parent) for name in names}):
        inside = [name for name in names if str(Path(name).parent) == folder]
        for kind, compare in ((IMAGES, _images), (WHOLE, _bytes)):
            files = [name for name in inside if Path(name).suffix in kind]
            if files:
                lines.append(_folder(before, after, folder, files, compare))
    return lines


def _files(root: Path) -> Iterable[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if not path.is_file() or name.parts[0] in SKIPPED or name.name.startswith("."):
            continue
        json_of_results = name.name in IGNORED or path.suffix != ".json"
        if path.suffix in {".csv", ".parquet", ".json", *IMAGES, *WHOLE} and json_of_results:
            yield name.as_posix()


def _pair(before: Path, after: Path, name: str, compare: Compare) -> tuple[bool, str]:
    for path, where in ((before, "before"), (after, "after")):
        if not path.is_file():
            return False, f"{name}: is missing {where}"
    equal, said = compare(before, after)
    return equal, f"{name}: {said}"


def _tables(before: Path, after: Path) -> tuple[bool, str]:
    columns, rows = _read(before)
    new_columns, new_rows = _read(after)
    if columns != new_columns:
        lost = [c for c in columns if c not in new_columns]
        more = [c for c in new_columns if c not in columns]
        return False, f"other columns: lost {lost}, new {more}" if lost or more else "other order"
    if len(rows) != len(new_rows):
        return False, f"{len(rows)} rows before, {len(new_rows)} after"
    found = [
        f"row {number}, {column}: {a} -> {b}"
        for number, (row, new) in enumerate(zip(rows, new_rows), 1)
        for column, a, b in zip(columns, row, new)
        if a != b
    ]
    if found:
        return False, f"{len(found)} values differ: {'; '.join(found[:MOST])}"
    return True, f"equal, {len(rows)} rows, {len(columns)} columns"


def _read(path: Path) -> Table:
    """Read a table as text, without the columns that are ignored."""
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        columns = [f"{name} ({kind})" for name, kind in frame.dtypes.items()]
        rows = [[repr(v) for v in row] for row in frame.itertuples(index=False, name=None)]
    elif path.suffix == ".json":
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        columns, rows = list(content), [[json.dumps(value) for value in content.values()]]
    else:
        with open(path, newline="", encoding="utf-8") as handle:
            columns, *rows = list(csv.reader(handle)) or [[]]
    ignored = IGNORED.get(path.name, set())
    missing = ["(no field)"] * len(columns)
    kept = [i for i, name in enumerate(columns) if name not in ignored]
    return [columns[i] for i in kept], [[(*row, *missing)[i] for i in kept] for row in rows]


def _folder(
    before: Path, after: Path, folder: str, names: Sequence[str], compare: Compare
) -> tuple[bool, str]:
    pairs = [_pair(before / name, after / name, Path(name).name, compare) for name in names]
    found = [said for equal, said in pairs if not equal]
    if found:
        shown = "; ".join(found[:MOST])
        return False, f"{folder}: {len(found)} of {len(names)} files differ: {shown}"
    return True, f"{folder}: equal, {len(names)} {'/'.join(sorted({n[-3:] for n in names}))} files"


def _images(before: Path, after: Path) -> tuple[bool, str]:
    a, b = _pixels(before), _pixels(after)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False, f"{a.shape} {a.dtype} -> {b.shape} {b.dtype}"
    count = int(np.count_nonzero(a != b))
    return not count, f"{count} values differ"


def _pixels(path: Path) -> NDArray[Any]:
    if path.suffix == ".tif":
        return np.asarray(tifffile.imread(path))
    with Image.open(path) as image:
        return np.asarray(image)


def _bytes(before: Path, after: Path) -> tuple[bool, str]:
    return before.read_bytes() == after.read_bytes(), "other bytes"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    arguments = parser.parse_args(argv)
    for folder in (arguments.before, arguments.after):
        if not folder.is_dir():
            print(f"error: {folder}: no such folder", file=sys.stderr)
            return 2
    lines = compared(arguments.before, arguments.after)
    if not lines:
        print(f"error: {arguments.before} holds no results", file=sys.stderr)
        return 2
    for _, line in lines:
        print(line)
    differ = sum(not equal for equal, _ in lines)
    print(f"{differ} of {len(lines)} differ" if differ else f"all {len(lines)} are equal")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
