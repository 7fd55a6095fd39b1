"""Folds: every group is for validation once, in the fold whose network does not train on it.

For data sets that are too small for a validation part of their own (grouped k-fold
cross-validation). The test images are the same in all folds, and no fold trains on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from trainables.data.splits import DataOptions, Metadata, natural_key

def deal(sizes: Mapping[str, int], folds: int, seed: int) -> list[list[str]]:
    """Deal groups into folds with similar numbers of images.

    Larger groups come first, groups of one size in an order drawn from the seed. Each goes to the
    fold that has the fewest images so far (of these to the one with the fewest groups), as in
    scikit-learn's ``GroupKFold``.

    Parameters
    ----------
    sizes : mapping of str to int
        Number of images (at least 1) of each group.
    folds : int
        Between 1 and the number of groups.
    seed : int

    Returns
    -------
    list of lists of str
        The groups of each fold; none is empty. The order of `sizes` does not matter.

    Raises
    ------
    ValueError
        When there are fewer groups than folds.

    Examples
    --------
    >>> [sorted(fold) for fold in deal({"a": 3, "b": 1, "c": 2}, 2, 0)]
    [['a'], ['b', 'c']]
    """
    if not 1 <= folds <= len(sizes):
        raise ValueError(f"{len(sizes)} groups cannot be dealt into {folds} folds")
    drawn = [str(g) for g in np.random.default_rng(seed).permutation(sorted(sizes))]
    dealt: list[list[str]] = [[] for _ in range(folds)]
    images = [0] * folds
    for group in sorted(drawn, key=lambda g: -sizes[g]):
        place = min(range(folds), key=lambda k: (images[k], len(dealt[k])))
        dealt[place].append(group)
        images[place] += sizes[group]
    return dealt


def make_folds(
    split: Mapping[str, Sequence[str]],
    group_of: Mapping[str, str],
    options: DataOptions,
    problems: list[str],
) -> tuple[tuple[str, ...], ...]:
    """Divide the images that are not for testing into folds.

    Parameters
    ----------
    split : mapping
        Stems of each of `trainables.data.splits.SPLITS`; those of train and val are dealt.
    group_of : mapping
        Group of each stem.
    options : DataOptions
        With `folds`.
    problems : list of str
        Receives a line where there are fewer groups than folds.

    Returns
    -------
    tuple of tuples of str
        The stems that each fold validates, in their own order; empty with a problem.
    """
    assert options.folds is not None
    pool = {*split["train"], *split["val"]}
    stems = [stem for stem in group_of if stem in pool]
    sizes = Counter(group_of[stem] for stem in stems)
    if len(sizes) < options.folds:
        tested = {group_of[stem] for stem in split["test"]}
        problems.append(
            f"folds={options.folds}, but only {len(sizes)} groups can be dealt into folds (of "
            f"{len(sizes) + len(tested)}; {len(tested)} for testing): {_advice(len(sizes))}"
        )
        return ()
    dealt = deal(sizes, options.folds, options.split_seed)
    return tuple(tuple(stem for stem in stems if group_of[stem] in fold) for fold in dealt)


def split_of_fold(
    folds: Sequence[Sequence[str]], test: Sequence[str], fold: int
) -> dict[str, tuple[str, ...]]:
    """Return the stems for training, validation and testing in one fold, counted from 1."""
    rest = (stem for k, stems in enumerate(folds, 1) for stem in stems if k != fold)
    train = tuple(sorted(rest, key=natural_key))
    return {"train": train, "val": tuple(folds[fold - 1]), "test": tuple(test)}


def _advice(groups: int) -> str:
    if groups < 2:
        return "add groups, or leave folds out"
    return f"give at most folds={groups}"


def folds_notes(meta: Metadata, options: DataOptions) -> list[str]:
    """Say what becomes of a split that dataset.yaml gives."""
    if options.folds is None or meta.split is None:
        return []
    return [
        f"folds={options.folds}: the groups under train and val in dataset.yaml are put together "
        f"and dealt into {options.folds} folds; those under test stay the test images"
    ]
