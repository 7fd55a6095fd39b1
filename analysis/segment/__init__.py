"""Segment new images: ``python -m analysis.segment``, or `segment(array, model)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.segment.cli import main
    from analysis.segment.model import Segmenter, segment

__all__ = ["Segmenter", "main", "segment"]


def __getattr__(name: str) -> Any:
    """Import on first use, because `analysis.run` reads images with this package but no network."""
    if name == "main":
        from analysis.segment.cli import main

        return main
    if name in ("Segmenter", "segment"):
        from analysis.segment import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
