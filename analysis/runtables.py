"""The tables of a run folder, read whole or refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that a sweep has written; an empty one where it is not there.

    Raises
    ------
    ValueError
        When it cannot be read, or is not whole: a copy that was cut short would otherwise pass for
        a sweep with fewer trials or epochs. The message says where.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark before it
    except FileNotFoundError:
        return pd.DataFrame()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text at byte {error.start}") from error
    except OSError as error:
        raise ValueError(str(error.strerror)) from error
    if not text.strip():
        return pd.DataFrame()
    _check_whole(text)
    return pd.read_csv(io.StringIO(text))


def _check_whole(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1} holds NUL bytes")
    if not text.endswith(("\n", "\r")):
        raise ValueError("its last line has no end: it was cut short")
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        names = next(rows)
        if len(set(names)) < len(names):
            raise ValueError("a column is there twice")
        for row in rows:
            if row and len(row) != len(names):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} fields instead of {len(names)}: it was "
                    "cut short"
                )
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}: it was cut short") from error
