"""Which images of a data set are frames of one film, and which frame each of them is."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from trainables.data.dataset import DataSet

LARGEST = 2**31
"""Numbers in file names from here on are dates or serial numbers, not frames; TrackMate's frames
have 32 bits."""


def frames_of(dataset: DataSet) -> pd.DataFrame:
    """Return the film and the frame number of every image, as `analysis.segment` groups them.

    The images of a group are one film. Without groups, all images are one film if dataset.yaml has
    a frame interval or the images were split into blocks of time. Other images, and an image that
    is alone in its group, are of no film.

    If the names of a film's images differ in a single number, that is the frame number: frames of
    a film that were left out then still count. Otherwise it is the image's place in the natural
    order of names, from 0, among all images of the film, whatever their split.

    Parameters
    ----------
    dataset : DataSet

    Returns
    -------
    DataFrame
        One row per image: image (its stem), sequence (its group; 'all images' without groups) and
        frame (Int64; NA for an image of no film).
    """
    grouped = any(item.group != item.stem for item in dataset.items)
    film = dataset.frame_interval_s is not None or dataset.options.split == "time_blocks"
    whole = film and not grouped
    table = pd.DataFrame(
        {
            "image": [item.stem for item in dataset.items],
            "sequence": ["all images" if whole else item.group for item in dataset.items],
        }
    )
    table["frame"] = pd.array([pd.NA] * len(table), dtype="Int64")
    for _, images in table.groupby("sequence")["image"]:  # in natural order, as in the data set
        if len(images) > 1:
            table.loc[images.index, "frame"] = _numbers(images.tolist())
    return table


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the frame numbers of a film's images, in their order.

    >>> _numbers(["s1_t010", "s1_t020"]), _numbers(["a", "b"])
    ([10, 20], [0, 1])
    """
    parts = [re.split(r"([0-9]+)", name) for name in names]
    if len({len(part) for part in parts}) == 1:
        columns = list(zip(*parts))
        differ = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        if len(differ) == 1 and differ[0] % 2:  # the odd places hold the digits
            numbers = [int(text) for text in columns[differ[0]]]
            if len(set(numbers)) == len(numbers) and max(numbers) < LARGEST:
                return numbers
    return list(range(len(names)))
