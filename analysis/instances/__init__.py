"""Turn a network's output into a label image, in the paper's three ways."""

from analysis.instances.separate import (
    from_3class,
    from_star_convex,
    give_gap_back,
    watershed_2class,
)

__all__ = ["from_3class", "from_star_convex", "give_gap_back", "watershed_2class"]
