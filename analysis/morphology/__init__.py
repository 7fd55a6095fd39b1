"""Measure cells: area, perimeter, circularity, solidity, radius, shape index, centroid."""

from analysis.morphology.features import CONVENTIONS, EXTRAS, FEATURES, measure, outlines

__all__ = ["CONVENTIONS", "EXTRAS", "FEATURES", "measure", "outlines"]
