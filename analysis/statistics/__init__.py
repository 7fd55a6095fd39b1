"""Which differences are real: between methods, between populations, and with the truth."""

from analysis.statistics.pairs import agreement, compare, holm

__all__ = ["agreement", "compare", "holm"]
