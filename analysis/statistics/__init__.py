"""Which differences are real: between methods, between populations, and with the truth."""

from analysis.statistics.intervals import mean_interval
from analysis.statistics.pairs import agreement, compare
from analysis.statistics.tied import tied_set

__all__ = ["agreement", "compare", "mean_interval", "tied_set"]
