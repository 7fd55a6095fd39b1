"""How small a lead a study of so many units can show, and how many units a lead needs."""

from __future__ import annotations

import math
from collections.abc import Collection

import pandas as pd
from scipy import stats

from analysis.statistics.resampling import FEWEST_UNITS
from analysis.statistics.tied import Variances, trials_of

USUALLY = 0.8
MOST_UNITS = 1000
CLOSE = 2.0
"""If one method leads, those are compared that are at most this many times as far behind as the
second one."""


def contenders(scores: pd.DataFrame, tied: Collection[str]) -> pd.DataFrame:
    """Return the scores of the methods between which a further study would have to decide.

    Methods that are far behind often vary far more than the first ones. With them, `smallest_lead`
    would say that a study shows much less than it does.

    Parameters
    ----------
    scores : DataFrame
        As `analysis.statistics.tied_set` takes them.
    tied : collection of str
        The methods that may be the best.

    Returns
    -------
    DataFrame
        The rows of `scores` of the tied methods; of a single one and of those that are not much
        further behind it than the second one (`CLOSE`).
    """
    names = set(tied)
    if len(names) == 1:
        means = {str(name): float(one.mean()) for name, one in trials_of(scores).items()}
        behind = {name: means[min(names)] - mean for name, mean in means.items()}
        others = [gap for name, gap in behind.items() if name not in names]
        names |= {name for name, gap in behind.items() if gap <= CLOSE * min(others, default=0.0)}
    return scores[scores["method"].isin(names)]


def smallest_lead(scores: pd.DataFrame, *, alpha: float = 0.05, units: int = 0) -> float:
    """Return the lead over any one other method that a study usually shows, in 80 % of cases.

    Parameters
    ----------
    scores : DataFrame
        As `analysis.statistics.tied_set` takes them.
    alpha : float
    units : int
        Of the study that is thought of; 0: as many as there are.

    Returns
    -------
    float
        In units of the score. NaN with fewer than six units, or with fewer than two methods.

    Notes
    -----
    Methods are taken to vary alike: the critical difference is that of Tukey's studentised range,
    from the mean squares of `scores`, plus Student's quantile of the wanted power.
    """
    trials = list(trials_of(scores).values())
    if len(trials) < 2 or trials[0].shape[1] < FEWEST_UNITS:
        return math.nan
    found = Variances.of(trials)
    seeds = min(len(one) for one in trials)
    variance, freedom = found.of_mean(seeds, units)
    if max(len(one) for one in trials) == 1:
        freedom = (units or found.units) - 1  # each pair is studentised by its own units
    freedom = max(1.0, min(freedom, 1e4))
    critical = stats.studentized_range.ppf(1 - alpha, len(trials), freedom) / math.sqrt(2)
    reach = critical + stats.t.ppf(USUALLY, freedom)
    return float(reach * math.sqrt(2 * variance))


def units_needed(scores: pd.DataFrame, lead: float, *, alpha: float = 0.05) -> int | None:
    """Return the number of units with which a lead is usually shown.

    Returns
    -------
    int or None
        None where a thousand are not enough: as long as trainings of one method differ by more,
        further images say nothing about its lead.
    """
    trials = trials_of(scores)
    there = next(iter(trials.values())).shape[1] if trials else 0
    if not smallest_lead(scores, alpha=alpha) > lead:
        return there if there else None
    low, high = there, MOST_UNITS
    if not smallest_lead(scores, alpha=alpha, units=high) <= lead:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if smallest_lead(scores, alpha=alpha, units=middle) <= lead:
            high = middle
        else:
            low = middle
    return high
