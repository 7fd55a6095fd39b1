"""The tables of a report as its reader sees them, and the numbers in texts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from analysis.report.tables import Table

NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


@dataclass
class Shown:
    """One cell of a table: its text, and the value that the page sorts by."""

    text: str = ""
    sort: str = ""

    def holds(self, value: float) -> bool:
        """Whether the text is this number, rounded, and the page sorts by the number itself."""
        if math.isnan(value):
            return self.text == ""
        numbers = NUMBER.findall(self.text)
        exact = abs(float(self.sort) - value) <= 1e-6 * max(1e-3, abs(value))
        return len(numbers) == 1 and rounded(numbers[0], value) and exact


@dataclass
class Grid:
    """One table."""

    headings: list[str] = field(default_factory=list)
    rows: list[list[Shown]] = field(default_factory=list)

    def place(self, pattern: str) -> int:
        """Find the one column whose heading matches."""
        found = [n for n, text in enumerate(self.headings) if re.search(pattern, text)]
        assert len(found) == 1, (pattern, self.headings)
        return found[0]

    def column(self, pattern: str) -> list[Shown]:
        """Give the cells of the column whose heading matches."""
        place = self.place(pattern)
        return [row[place] for row in self.rows]

    def texts(self, *patterns: str) -> list[tuple[str, ...]]:
        """Give the texts of some columns, row by row."""
        places = [self.place(pattern) for pattern in patterns]
        return [tuple(row[place].text for place in places) for row in self.rows]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Grid] = {}
        self.open: Grid | None = None
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self.open = self.tables[given.get("id") or "parameters"] = Grid()
        elif self.open is not None and tag in ("th", "td", "tr"):
            self.inside = tag
            if tag == "tr":
                self.open.rows.append([])
            elif tag == "th":
                self.open.headings.append("")
            else:
                self.open.rows[-1].append(Shown(sort=given.get("data-sort") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and self.open is not None:
            self.open.rows = [row for row in self.open.rows if row]
            self.open = None
        if tag in ("th", "td", "tr"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.open is not None and self.inside == "th":
            self.open.headings[-1] += data.strip()
        elif self.open is not None and self.inside == "td":
            self.open.rows[-1][-1].text += data.strip()


def read_tables(page: Path) -> dict[str, Grid]:
    """Read all tables of a page, by their ids."""
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.tables


def as_shown(table: Table) -> Grid:
    """Give a table as the page would show it."""
    rows = [[Shown(cell.text, str(cell.sort)) for cell in row] for row in table.rows]
    return Grid([heading for heading, _ in table.headings], rows)


def rounded(text: str, value: float) -> bool:
    """Whether a number as it is written is this value, rounded to as many decimals."""
    plain = text.replace(",", "")
    digits, _, power = plain.partition("e")
    decimals = len(digits.partition(".")[2]) - int(power or 0)
    return abs(float(plain) - value) <= 0.5 * 10.0**-decimals * (1 + 1e-6) + 1e-12


def numbers(text: str) -> list[str]:
    """Give the numbers in a text, as they are written."""
    return NUMBER.findall(text)


def said(text: str, pattern: str) -> list[str]:
    """Give the groups of the one place of a text that a pattern fits."""
    found = list(re.finditer(pattern, text))
    assert len(found) == 1, (pattern, text)
    return list(found[0].groups())
