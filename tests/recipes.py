"""What CONTRIBUTING.md tells its reader to write: whole files, and lines to add to others."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("sweep", "trainables", "search_spaces", "analysis")


def recipe(number: int) -> str:
    """Return the text of one recipe."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return text.split(f"\n## Recipe {number}: ")[1].split("\n## ")[0]


def files(text: str) -> dict[str, str]:
    """Return the whole files that a recipe shows, by path."""
    return dict(re.findall(r"```python\n# (\S+/\S+\.py)\n(.*?)```", text, re.DOTALL))


def edits(text: str) -> list[tuple[str, str, str]]:
    """Return path, lines that are there, and what they become, of all lines that it adds."""
    found = []
    for path, body in re.findall(r"```diff\n--- (\S+)\n(.*?)```", text, re.DOTALL):
        for part in body.split("@@\n"):
            lines = part.splitlines(keepends=True)
            assert {line[0] for line in lines} == {" ", "+"}, "recipes only add lines"
            before = "".join(line[1:] for line in lines if line[0] == " ")
            found.append((path, before, "".join(line[1:] for line in lines)))
    return found


def follow(text: str, root: Path) -> None:
    """Do what a recipe says, in a copy of the packages."""
    for name, content in files(text).items():
        assert not (root / name).exists()
        (root / name).write_text(content)
    for name, before, after in edits(text):
        there = (root / name).read_text()
        assert there.count(before) == 1, f"{name} has {there.count(before)} times: {before}"
        (root / name).write_text(there.replace(before, after))
