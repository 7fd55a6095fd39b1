"""What a report's numbers have to be, from their published definitions: numpy and scipy only.

Nothing here imports what it checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, optimize, spatial, stats
from skimage.measure import regionprops

Labels = NDArray[np.int32]
Array = NDArray[np.float64]
TENTHS = (5, 6, 7, 8, 9)
FEATURES = ("area", "perimeter", "circularity", "solidity", "radius", "shape_index")
TESTED = FEATURES[:4]
POWERS = {"area": 2, "perimeter": 1, "radius": 1}
SIDES = ("missed", "invented", "merged", "split", "boundary")


class Overlap(NamedTuple):
    """Pixels of the true cells, of the found ones, and of each pair."""

    true: NDArray[np.int64]
    found: NDArray[np.int64]
    both: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        """(n, m) pixels that at least one of a pair has."""
        return self.true[:, None] + self.found - self.both


def overlap(true: Labels, found: Labels) -> Overlap:
    """Count pixels; cells are numbered 1, 2, ... without gaps."""
    n, m = int(true.max()), int(found.max())
    both = np.bincount((true * (m + 1) + found).ravel(), minlength=(n + 1) * (m + 1))
    table = both.reshape(n + 1, m + 1)
    return Overlap(table.sum(1)[1:], table.sum(0)[1:], table[1:, 1:])


def paired(one: Overlap, tenths: int) -> list[tuple[int, int]]:
    """Pair cells, one to one, whose IoU is at least so many tenths: exactly, with integers."""
    allowed = 10 * one.both >= tenths * one.union
    gain = allowed.astype(float) + one.both / (one.union * 1e3)
    rows, columns = optimize.linear_sum_assignment(gain, maximize=True)
    return [(i, j) for i, j in zip(rows.tolist(), columns.tolist()) if allowed[i, j]]


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=0))


def distances(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[float, float]:
    """Give MASD and HD95 of two cells."""
    apart = spatial.distance.cdist(_edge(true), _edge(found))
    there, back = apart.min(1), apart.min(0)
    ends = (np.percentile(there, 95), np.percentile(back, 95))
    return float(there.mean() + back.mean()) / 2, float(max(ends))


def fractions(true: Labels, found: Labels) -> dict[str, tuple[float, float]]:
    """Give numerator and denominator of each score of an image."""
    one = overlap(true, found)
    n, m = len(one.true), len(one.found)
    half = paired(one, 5)
    tp = len(half)
    own: dict[str, tuple[float, float]] = {
        "precision_50": (tp, m),
        "recall_50": (tp, n),
        "f1_50": (2 * tp, n + m),
    }
    for tenths in TENTHS:
        right = len(paired(one, tenths))
        own[f"ap_{10 * tenths}"] = (right, n + m - right)
    ious = [one.both[i, j] / one.union[i, j] for i, j in half]
    own["pq"] = (float(sum(ious)), (n + m) / 2)
    covering = one.both > 0.5 * one.true[:, None]
    own["seg"] = (float((one.both / one.union)[covering].sum()), n)
    apart = [distances(true == i + 1, found == j + 1) for i, j in half]
    for place, name in enumerate(("masd", "hd95")):
        own[name] = (sum(pair[place] for pair in apart), tp)
    own["iou"] = (int(((true > 0) & (found > 0)).sum()), int(((true > 0) | (found > 0)).sum()))
    return own


def scores(images: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Pool the scores of images: numerators and denominators are summed."""
    found = {}
    for name in images[0]:
        above, below = (sum(image[name][k] for image in images) for k in (0, 1))
        found[name] = above / below if below else math.nan
    found["ap_mean"] = sum(found[f"ap_{10 * t}"] for t in TENTHS) / len(TENTHS)
    return found


def t_interval(values: Sequence[float] | Array) -> tuple[float, float]:
    """Give Student's 95 % interval of a mean."""
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    return float(low), float(high)


def flipped_interval(values: Array) -> tuple[float, float]:
    """Give the means that the test by all swaps of signs does not reject at 5 %."""
    flips = np.array(list(itertools.product([1, -1], repeat=len(values))))

    def kept(mean: float) -> bool:
        moved = flips * (values - mean)
        t = np.abs(moved.mean(1)) / np.maximum(moved.std(1, ddof=1), 1e-12)
        return bool((t >= t[0] * (1 - 1e-9)).mean() > 0.05)

    ends = []
    for side in (-1, 1):
        steps = np.linspace(0, float(np.ptp(values)), 2001)
        last = max(step for step in steps.tolist() if kept(float(values.mean()) + side * step))
        ends.append(float(values.mean()) + side * (last + steps[1] / 2))
    return ends[0], ends[1]


# what became of cells


def causes(true: Labels, found: Labels) -> tuple[list[str], list[str]]:
    """Name what became of each true and each found cell; pairs are 'boundary', right or not."""
    one = overlap(true, found)
    smaller = np.minimum(one.true[:, None], one.found)
    together = 2 * one.both > smaller
    n, m = together.shape
    part = list(range(n + m))
    for i, j in np.argwhere(together).tolist():  # cells that are connected get the same number
        old, new = part[n + j], part[i]
        part = [new if p == old else p for p in part]
    names = []
    for cell in range(n + m):
        own = together[cell] if cell < n else together[:, cell - n]
        if not own.any():
            names.append("missed" if cell < n else "invented")
            continue
        trues = [i for i in range(n) if part[i] == part[cell]]
        founds = [j for j in range(m) if part[n + j] == part[cell]]
        if any(together[:, j].sum() > 1 for j in founds):
            names.append("merged")
        else:
            names.append("split" if any(together[i].sum() > 1 for i in trues) else "boundary")
    return names[:n], names[n:]


def budget(images: Sequence[tuple[Labels, Labels]]) -> dict[str, Any]:
    """Give mean AP, what each cause takes of it, and what setting it right would give."""
    lost, gain, ap = (dict[str, list[float]]((name, []) for name in SIDES) for _ in range(3))
    counts = [(overlap(*pair), *causes(*pair)) for pair in images]
    for tenths in TENTHS:
        n = m = tp = 0
        own = {name: [0, 0, 0] for name in SIDES}
        for one, of_true, of_found in counts:
            n, m = n + len(of_true), m + len(of_found)
            right = paired(one, tenths)
            tp += len(right)
            for name in SIDES:
                own[name][0] += of_true.count(name)
                own[name][1] += of_found.count(name)
                own[name][2] += sum(of_true[i] == name for i, _ in right)
        every = n + m - tp
        for name, (a, b, hits) in own.items():
            lost[name].append((a - hits + b - hits) / every if every else math.nan)
            then, all_then = tp - hits + a, n + (m - b + a) - (tp - hits + a)
            rate = tp / every if every else math.nan
            gain[name].append((then / all_then if all_then else 1.0) - rate)
            ap[name].append(rate)
    return {
        "ap": float(np.mean(ap["missed"])),
        "lost": [float(np.mean(lost[name])) for name in SIDES],
        "gain": [float(np.mean(gain[name])) for name in SIDES],
    }


# cells


def border(labels: Labels) -> set[int]:
    """Give the labels at the border of an image."""
    rim = np.ones(labels.shape, bool)
    rim[1:-1, 1:-1] = False
    return set(np.unique(labels[rim]).tolist()) - {0}


def measured(labels: Labels) -> pd.DataFrame:
    """Measure cells as scikit-image does, in pixels."""
    rows = []
    for cell in regionprops(labels):
        area, length = float(cell.area), float(cell.perimeter)
        row = {"label": cell.label, "area": area, "perimeter": length}
        row["circularity"] = 4 * math.pi * area / length**2
        row |= {"solidity": float(cell.solidity), "radius": math.sqrt(area / math.pi)}
        rows.append(row | {"shape_index": length / math.sqrt(area)})
    return pd.DataFrame(rows, columns=["label", *FEATURES])


def cells(true: Labels, found: Labels | None) -> pd.DataFrame:
    """Measure the cells of a method (None: the true ones), and say which true cell each one is.

    Returns
    -------
    DataFrame
        The features, own (the true cell that it overlaps most, 0 for invented ones), matched (the
        true cell with an IoU of at least 0.5, or 0) and left_out.
    """
    if found is None:
        table = measured(true)
        at_border = table["label"].isin(border(true))
        return table.assign(own=table["label"], matched=table["label"], left_out=at_border)
    table, one = measured(found), overlap(true, found)
    of_found = causes(true, found)[1]
    most = one.both.argmax(0) + 1 if len(one.true) else np.zeros(len(one.found), int)
    table["own"] = [0 if name == "invented" else int(k) for name, k in zip(of_found, most)]
    match = {j: i + 1 for i, j in paired(one, 5)}
    table["matched"] = [match.get(j, 0) for j in range(len(table))]
    rim, true_rim = border(found), border(true)
    table["left_out"] = [
        (own in true_rim) if own else (label in rim)
        for own, label in zip(table["own"], table["label"])
    ]
    return table


# units


class Sides(NamedTuple):
    """Means of the units on both sides of a comparison, by name of the unit."""

    paired: bool
    a: dict[str, float]
    b: dict[str, float]

    @property
    def enough(self) -> bool:
        """Whether there are units enough to test."""
        return min(len(self.a), len(self.b)) >= (6 if self.paired else 4)

    @property
    def difference(self) -> float:
        """Mean over units of a minus that of b."""
        return float(np.mean(list(self.a.values())) - np.mean(list(self.b.values())))

    @property
    def error(self) -> tuple[float, float]:
        """Its standard error and degrees of freedom: paired, or Welch's."""
        if self.paired:
            each = [self.a[unit] - self.b[unit] for unit in self.a]
            return float(stats.sem(each)), len(each) - 1
        parts = [np.var(list(one.values()), ddof=1) / len(one) for one in (self.a, self.b)]
        freedom = sum(parts) ** 2 / sum(
            part**2 / (len(one) - 1) for part, one in zip(parts, (self.a, self.b))
        )
        return math.sqrt(sum(parts)), float(freedom)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        error, freedom = self.error
        reach = float(stats.t.isf(0.025, freedom)) * error
        return self.difference - reach, self.difference + reach


def sides(a: pd.DataFrame, b: pd.DataFrame, feature: str, unit: str) -> Sides:
    """Average the cells of each unit; groups are the units where the two sets share none."""
    if not set(a["group"]) & set(b["group"]):
        unit = "group"
    means: list[dict[str, float]] = [
        {str(name): float(value) for name, value in one.groupby(unit)[feature].mean().items()}
        for one in (a, b)
    ]
    shared = set(means[0]) & set(means[1])
    if shared == set(means[0]) | set(means[1]) or len(shared) >= 6:
        of_a, of_b = ({name: one[name] for name in sorted(shared)} for one in means)
        return Sides(True, of_a, of_b)
    of_a, of_b = ({n: value for n, value in one.items() if n not in shared} for one in means)
    return Sides(False, of_a, of_b)


def _rearranged(family: Sequence[Sides]) -> Array:
    """Give the statistics of a family under each exchange of labels, the true one first."""
    names = sorted({unit for one in family for unit in one.a})
    columns = []
    if family[0].paired:
        flips = np.array(list(itertools.product([1, -1], repeat=len(names))))
        for one in family:
            own = flips[:, [names.index(unit) for unit in one.a]]
            moved = own * np.array([one.a[unit] - one.b[unit] for unit in one.a])
            spread = moved.std(1, ddof=1) / math.sqrt(len(one.a))
            columns.append(np.abs(moved.mean(1)) / np.maximum(spread, 1e-12))
        return np.stack(columns, 1)
    every = names + sorted({unit for one in family for unit in one.b})
    for one in family:
        both, column = {**one.a, **one.b}, []
        for chosen in itertools.combinations(every, len(names)):
            ours = {unit: both[unit] for unit in chosen}
            rest = {unit: both[unit] for unit in every if unit not in chosen}
            moved_units = Sides(False, ours, rest)
            column.append(abs(moved_units.difference) / moved_units.error[0])
        columns.append(np.array(column))
    return np.stack(columns, 1)


def step_down(family: Sequence[Sides]) -> list[float]:
    """Give the step-down max-T p of each difference (Ge, Dudoit and Speed 2003), by all exchanges
    of labels.
    """
    rows = _rearranged(family)
    observed, p, least = rows[0], [0.0] * len(family), 0.0
    order = np.argsort(-observed, kind="stable")
    for place, one in enumerate(order):
        largest = rows[:, order[place:]].max(1)
        least = max(least, float((largest >= observed[one] * (1 - 1e-9)).mean()))
        p[one] = least
    return p


def tost(one: Sides, margin: float) -> float:
    """Give the larger p of two one-sided t tests that the difference is within a margin."""
    error, freedom = one.error
    above = stats.t.sf((one.difference + margin) / error, freedom)
    below = stats.t.cdf((one.difference - margin) / error, freedom)
    return float(max(above, below))


def more_units(one: Sides, margin: float, p: float, size: int) -> int | None:
    """Count upwards the units with which one of the two tests would decide in 80 % of studies."""
    error, freedom = one.error
    alone = 2 * float(stats.t.sf(abs(one.difference) / error, freedom))
    level = 0.05 * min(1.0, max(1 / size, alone / p))
    now = min(len(one.a), len(one.b))
    for units in range(now + 1, now + 10_001):
        more = freedom * (units - 1) / (now - 1)
        reach, power = error * math.sqrt(now / units), stats.t.ppf(0.8, more)
        real = abs(one.difference) >= (stats.t.isf(level / 2, more) + power) * reach
        same = margin - abs(one.difference) >= (stats.t.isf(0.05, more) + power) * reach
        if real or same:
            return units - now
    return None


def cliffs_delta(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Count all pairs."""
    apart = np.subtract.outer(np.asarray(a, float), np.asarray(b, float))
    return float((np.sign(np.round(apart, 9))).mean())


def jackknife(estimate: float, without: Sequence[float]) -> tuple[float, float]:
    """Give Student's 95 % interval with the jackknife's variance over units."""
    n, own = len(without), np.asarray(without)
    error = math.sqrt((n - 1) / n * float(((own - own.mean()) ** 2).sum()))
    reach = float(stats.t.isf(0.025, n - 1)) * error
    return estimate - reach, estimate + reach


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """Compare columns true and pred, each unit having the same weight.

    Bias, SD of single differences, limits of agreement (Bland and Altman 1986), and concordance
    (Lin 1989).
    """
    counts = table.groupby("unit")["true"].transform("size").to_numpy(float)
    weights = 1 / counts / (1 / counts).sum()
    x, y = table["true"].to_numpy(float), table["pred"].to_numpy(float)
    apart, n = y - x, len(table)
    bias = float(weights @ apart)
    sd = math.sqrt(float(weights @ (apart - bias) ** 2) * n / (n - 1))
    mx, my = weights @ x, weights @ y
    vx, vy = weights @ (x - mx) ** 2, weights @ (y - my) ** 2
    together, apart_in_all = weights @ ((x - mx) * (y - my)), vx + vy + (mx - my) ** 2
    return {
        "bias": bias,
        "sd": sd,
        "loa_low": bias - 1.96 * sd,
        "loa_high": bias + 1.96 * sd,
        "ccc": float(2 * together / apart_in_all) if apart_in_all else math.nan,
        "n": n,
        "units": table["unit"].nunique(),
        "relative_bias": bias / float(mx),
    }


# methods
