"""What a data set knows about its true cells besides their outlines."""

from __future__ import annotations

from typing import Any

import pandas as pd

from trainables.data.dataset import DataError, DataSet
from trainables.data.objects_csv import read_objects


class CellAnnotations:
    """Track and population of a data set's true cells, as its objects.csv lists them.

    Parameters
    ----------
    dataset : DataSet

    Raises
    ------
    trainables.data.DataError
        When the table is damaged.
    """

    def __init__(self, dataset: DataSet) -> None:
        problems: list[str] = []
        self.cells = read_objects(dataset.root, problems)
        if problems:
            raise DataError(f"data set {dataset.root}: {problems[0]}")

    def get(self, image: str, label: Any) -> tuple[Any, Any]:
        """Return the track and population of a true cell; NA where they are not known."""
        cell = None if label is pd.NA or label is None else self.cells.get((image, int(label)))
        if cell is None:
            return pd.NA, pd.NA
        return pd.NA if cell.track is None else cell.track, cell.population or pd.NA
