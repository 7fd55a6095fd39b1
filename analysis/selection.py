"""Which methods cannot be told from the best: by validation images and seeds, never by test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.resampling import FEWEST_UNITS
from analysis.scores import METRICS, ImageScores, pooled

LEVEL = 0.95


@dataclass(frozen=True)
class Selected:
    """One method's standing on validation."""

    score: float
    """Mean over seeds of the mean average precision."""
    low: float
    high: float
    """95 % interval over units and seeds; NaN with fewer than six units."""
    among_best: bool
    """Whether the best method's lead over it is within chance; True for all where no interval
    can be given."""


def select(
    methods: Mapping[str, Sequence[Sequence[ImageScores]]],
    units: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Selected]:
    """Mark the methods that cannot be told from the best.

    Parameters
    ----------
    methods : mapping of str to sequences
        Of each method, for each of its seeds, the scores of all validation images.
    units : sequence of str
        The independent unit of each image.
    resamples, seed : int

    Returns
    -------
    dict of str to Selected

    Notes
    -----
    Units are resampled, the same for all methods, since all saw the same images; and within each
    method its seeds. A method is told from the best when the lower end of the interval of the
    best's lead over it lies above 0. Intervals hold for all methods together: their half-width is
    the 95 % quantile over resamples of the largest standardised deviation of any lead (a max-t
    bootstrap, Westfall and Young 1993).
    """
    names = list(methods)
    column = METRICS.index("ap_mean")
    observed = np.array([
        np.nanmean([pooled(images)[column] for images in methods[name]]) for name in names
    ])  # fmt: skip
    groups, index = np.unique(np.asarray(units, str), return_inverse=True)
    if len(groups) < FEWEST_UNITS:
        return {n: Selected(float(v), np.nan, np.nan, True) for n, v in zip(names, observed)}
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples)
    weights = counts[:, index].astype(float)
    drawn = np.stack([
        _seeds_mean(np.stack([pooled(images, weights)[:, column] for images in methods[n]]), rng)
        for n in names
    ], axis=1)  # fmt: skip
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    best = int(np.nanargmax(observed))
    lead = observed[best] - observed
    spread = drawn[:, [best]] - drawn - lead
    error = spread.std(axis=0, ddof=1)
    known = error > 0
    largest = (np.abs(spread[:, known]) / error[known]).max(axis=1) if known.any() else np.zeros(1)
    width = np.quantile(largest, LEVEL) * error
    # where a lead never varies, it is none or is certain
    among = np.where(known, lead - width <= 0, lead <= 0)
    return {
        name: Selected(float(observed[i]), float(low[i]), float(high[i]), bool(among[i]))
        for i, name in enumerate(names)
    }


def _seeds_mean(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean over seeds drawn anew for each resample: (seeds, resamples) to one each."""
    seeds, resamples = values.shape
    if seeds == 1:
        return values[0]
    chosen = rng.integers(seeds, size=(seeds, resamples))
    return np.asarray(np.take_along_axis(values, chosen, axis=0).mean(axis=0))
