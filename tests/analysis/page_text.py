"""What a reader of the report reads: the page's text, and the text drawn in its figures."""

from __future__ import annotations

import html
import re
from pathlib import Path

FORBIDDEN = (
    r"\bHolm\b",
    r"bootstrap",
    r"significan",
    r"told (apart|from)",
    r"surviv",
    r"among the best",
    r"\bis (the )?best\b",
    r"\bbest \d* ?of\b",
    r"\bworse\b",
    r"by chance\b",
    r"real difference",
    r"\*",
)
"""Claims that the page must not make, and the words that they are made with."""


def visible(page: Path) -> str:
    """Give the page's text without markup, styles, scripts and the viewer's pixels."""
    text = re.sub(r"(?s)<(style|script).*?</\1>", " ", page.read_text(encoding="utf-8"))
    text = re.sub(r"(?s)<!--.*?-->", " ", text)
    text = re.sub(r"</?a\b[^>]*>", "", text)  # a word that is a link is no word of its own
    texts = re.findall(r'(?:alt|title|aria-label)="([^"]*)"', text)
    return " ".join(html.unescape(" ".join([re.sub(r"<[^>]*>", " ", text), *texts])).split())


def drawn(page: Path) -> dict[str, list[str]]:
    """Give what is written in each figure of the page, read from its SVG beside the page.

    Matplotlib draws letters as paths and leaves their text in a comment before them.
    """
    found = {}
    for name in re.findall(r'<figure id="(\w+)">', page.read_text(encoding="utf-8")):
        svg = (page.parent / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        texts = re.findall(r"<!-- (.*?) -->", svg, re.DOTALL)
        texts += re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
        found[name] = [html.unescape(text) for text in texts]
        letters = len(re.findall(r'<g id="text_\d+"', svg))
        assert 0 < letters <= len(texts), f"{name}: {letters} texts drawn, {len(texts)} read"
    return found


def claims(text: str, allowed: str | None = None) -> list[str]:
    """Give what in `text` is forbidden, with the words around it; `allowed` apart."""
    rest = text.replace(allowed, " ") if allowed else text
    return [
        rest[max(0, m.start() - 40) : m.end() + 40]
        for pattern in FORBIDDEN
        for m in re.finditer(pattern, rest, re.IGNORECASE)
    ]
