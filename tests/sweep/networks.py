"""The 2-class trials of the demo: a space of one's own, by path."""

from search_spaces import COMMON_DIMENSIONS, SearchSpace, grid
from search_spaces.demo import DEMO
from trainables.config import ARCHITECTURES

SPACE = SearchSpace(
    trials=grid({"architecture": ARCHITECTURES}, **DEMO), dimensions=COMMON_DIMENSIONS
)
