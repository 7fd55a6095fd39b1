"""``objects.csv``: what is known about the cells of a data set besides their masks."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.data.splits import some

OBJECTS = "objects.csv"


@dataclass(frozen=True)
class KnownCell:
    """One row of objects.csv."""

    track: int | None
    population: str


def read_objects(root: Path, problems: list[str]) -> dict[tuple[str, int], KnownCell]:
    """Read objects.csv, if there is one; add what is wrong with it to `problems`.

    Parameters
    ----------
    root : Path
        Folder of the data set.
    problems : list of str
        Gets at most one line: after one error the rest of the table is not trusted.

    Returns
    -------
    dict
        Maps image stem and label to what is known of the cell.
    """
    path = root / OBJECTS
    if not os.path.lexists(path):
        return {}
    cells: dict[tuple[str, int], KnownCell] = {}
    csv.field_size_limit(2**31 - 1)  # outlines are long
    try:
        # utf-8-sig: spreadsheets put a mark before the first column's name
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True)
            _check_columns(reader.fieldnames)
            for row in reader:
                _take(row, reader.line_num, cells)
    except UnicodeDecodeError:
        problems.append(f"{OBJECTS}: not UTF-8 text; save it as CSV in UTF-8")
    except csv.Error as error:
        problems.append(f"{OBJECTS}: line {reader.line_num}: {error}; was it cut short?")
    except ValueError as error:
        problems.append(f"{OBJECTS}: {error}")
    except OSError as error:
        problems.append(f"{OBJECTS}: cannot be read ({error.strerror})")
    return cells


def _check_columns(names: object) -> None:
    columns = list(names) if isinstance(names, list | tuple) else []
    if not columns:
        raise ValueError("is empty; add the header line image,label,track,population or remove the file")
    missing = [name for name in ("image", "label") if name not in columns]
    if missing:
        have = ", ".join(str(name) for name in columns[:8])
        raise ValueError(
            f"has no column {' and '.join(missing)} (it has {have}; are commas between columns?)"
        )


def _take(row: dict[str, str], line: int, cells: dict[tuple[str, int], KnownCell]) -> None:
    """Add one row; raise ValueError where it cannot be."""
    if not any(value for name, value in row.items() if name is not None):
        return  # spreadsheets leave empty lines
    if any("\0" in (value or "") for value in (row.get("image"), row.get("label"))):
        raise ValueError(f"line {line} contains NUL bytes; was it cut short?")
    if None in row or None in row.values():
        raise ValueError(f"line {line} has more or fewer fields than the first; was it cut short?")
    label = _whole("label", row["label"], line)
    if label is None:
        raise ValueError(f"line {line} has no label")
    key = row["image"], label
    cell = KnownCell(_whole("track", row.get("track") or "", line), row.get("population") or "")
    if cells.setdefault(key, cell) != cell:
        raise ValueError(
            f"line {line}: label {key[1]} of image {key[0]} appears twice with different values"
        )


def _whole(name: str, text: str, line: int) -> int | None:
    """Read a whole number; None where there is none."""
    if not text.strip():
        return None
    try:
        number = float(text)  # tables of other programs write 3.0
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"line {line}: {name} {text!r} is not a whole number")
    return int(number)


def unknown_images(cells: Mapping[tuple[str, int], KnownCell], stems: Collection[str]) -> list[str]:
    """Say which images that objects.csv names do not exist."""
    unknown = list(dict.fromkeys(image for image, _ in cells if image not in stems))
    if not unknown:
        return []
    return [
        f"{OBJECTS} names images that do not exist (write names without .tif): {some(unknown)}"
    ]
