"""Which cells an image may not show completely."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def border_labels(labels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the labels at the border of an image, whose cells it may not show completely.

    Parameters
    ----------
    labels : (H, W) integer array
        Label image; 0 is background.

    Returns
    -------
    (N,) integer array
        Ascending.

    Examples
    --------
    >>> border_labels(np.array([[0, 0, 3], [0, 1, 0], [2, 0, 0]])).tolist()
    [2, 3]
    """
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    found = np.unique(np.concatenate(sides))
    return found[found > 0]
