"""How often 95 % intervals over the groups of all folds cover the true mean, and ties are missed.

    python benchmarks/folds.py [--studies 4000]

Networks of different folds share training images, so their scores are not independent (Nadeau and
Bengio 2003, doi:10.1023/A:1024068626366). Here real classifiers are trained on groups of pixels:
the class of a pixel depends on 12 features in a way that varies from group to group, as does what
the features look like. One method is ridge regression on the first six features, the other one on
the last six, which say as much. A group's score is the IoU of the pixels that are called
foreground. The true mean is that over all studies; the two methods are a tie.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics import mean_interval, tied_set
from trainables.data.folds import deal

FEATURES, PIXELS = 6, 60
"""Features that each method sees, and pixels of a group."""
RIDGE = 10.0
CASES = ((6, 3), (8, 4), (10, 5), (20, 5))
"""Groups that are not for testing, and folds."""

Rows = NDArray[np.float64]


class Groups(NamedTuple):
    """Pixels of several groups."""

    features: Rows
    """(groups, pixels, 2 FEATURES)."""
    foreground: NDArray[np.bool_]
    """(groups, pixels)."""


def draw(rng: np.random.Generator, groups: int) -> Groups:
    """Draw the pixels of some groups."""
    shift = 0.7 * rng.normal(size=(groups, 1, 2 * FEATURES))
    features = rng.normal(size=(groups, PIXELS, 2 * FEATURES)) + shift
    weights = np.tile(np.linspace(0.2, 1, FEATURES), 2)
    weights = weights + 0.35 * rng.normal(size=(groups, 2 * FEATURES))
    signal = np.einsum("gpf,gf->gp", features, weights) / np.sqrt(2 * FEATURES)
    return Groups(features, signal + 0.5 * rng.normal(size=signal.shape) > 0)


def scores(data: Groups, folds: int) -> Rows:
    """Return the IoU of each group, by the classifier of the fold that did not see it."""
    found = np.empty(len(data.features))
    sizes = {str(group): 1 for group in range(len(found))}
    for fold in deal(sizes, folds, 0):
        out = np.isin(np.arange(len(found)), [int(group) for group in fold])
        x = data.features[~out].reshape(-1, FEATURES)
        y = 2.0 * data.foreground[~out].ravel() - 1
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(FEATURES), x.T @ y)
        said, true = data.features[out] @ weights > 0, data.foreground[out]
        found[out] = (said & true).sum(1) / np.maximum((said | true).sum(1), 1)
    return found


class Rates(NamedTuple):
    """What many studies of one kind give."""

    covered: float
    """Share of intervals that contain the mean over all studies."""
    ratio: float
    """SD of a study's mean over what its units' SD suggests."""
    missed: float
    """Share of studies in which one of two equal methods is called worse."""


def rates(studies: int, groups: int, folds: int, seed: int = 0) -> Rates:
    """Simulate studies of one size."""
    rng = np.random.default_rng(seed)
    means, errors, missed = [], [], 0
    intervals = []
    for _ in range(studies):
        data = draw(rng, groups)
        both = [
            scores(data._replace(features=part), folds)
            for part in (data.features[..., :FEATURES], data.features[..., FEATURES:])
        ]
        means.append(both[0].mean())
        errors.append(both[0].var(ddof=1) / groups)
        intervals.append(mean_interval(both[0]))
        table = pd.DataFrame(
            [
                (method, unit, 0, score)
                for method, values in zip("ab", both)
                for unit, score in enumerate(values)
            ],
            columns=["method", "unit", "seed", "score"],
        )
        missed += not tied_set(table)["tied"].all()
    truth = float(np.mean(means))
    covered = float(np.mean([low <= truth <= high for low, high in intervals]))
    ratio = float(np.std(means) / np.sqrt(np.mean(errors)))
    return Rates(covered, ratio, missed / studies)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    print(f"{studies} studies a row; in brackets: standard error of a rate of 5 %")
    print(f"({100 * np.sqrt(0.05 * 0.95 / studies):.1f} %)")
    print("| groups | folds | intervals that cover | SE, true / estimated | ties missed |")
    print("|---|---|---|---|---|")
    for groups, folds in CASES:
        one = rates(studies, groups, folds)
        print(
            f"| {groups} | {folds} | {100 * one.covered:.1f} % | {one.ratio:.2f} | "
            f"{100 * one.missed:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
