"""Whether new images look like those that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.segment.folder import BROKEN, part_of
from analysis.segment.inputs import Frame
from trainables.config import TrialConfig
from trainables.data.appearance import DETAIL, LEVELS, RELATIVE, describe

BEYOND = 0.5
"""An image is unlike the training images if it lies outside their range by this part of it."""
LEAST_RANGE = {
    **dict.fromkeys(RELATIVE, 0.1),
    **dict.fromkeys(DETAIL, 1.0),
    "diameter": 0.5,
}
"""Smallest widths of the ranges, which are narrow by chance if there are few images; for DETAIL and
the diameter in powers of two. Measured: docs/segment.md."""
MOST_IMAGES = 12
"""Number of new images to check, evenly spread."""
_ADVICE = "check the outlines before you use the numbers"
_RELATIVE_TEXT = {
    "low_grey": "percentile 10 of intensity",
    "middle_grey": "the median intensity",
    "high_grey": "percentile 90 of intensity",
}
_SIZES = {"detail_2px": "1 to 2", "detail_4px": "2 to 4", "detail_8px": "4 to 8"}


class Difference(NamedTuple):
    """How most of the new images differ from the training images."""

    quantity: str
    value: float
    """Median over the new images."""
    low: float
    high: float
    """Range of the training images."""
    images: int
    """Number of new images that differ in this or another quantity."""
    looked_at: int


def difference(
    record: Mapping[str, Any] | None, looks: Sequence[Mapping[str, float]], config: TrialConfig
) -> Difference | None:
    """Find the quantity in which at least half of the new images differ from the training images.

    Parameters
    ----------
    record : mapping or None
        The result of `trainables.data.appearance.appearance_of`; None if unknown.
    looks : sequence of mapping
        The results of `trainables.data.appearance.describe`.
    config : TrialConfig
        The network's; if it scales each image by itself, exposure does not matter.

    Returns
    -------
    Difference or None
        The quantity that lies farthest outside the training images' range.
    """
    if not record or not looks or not record.get("images"):
        return None
    levels = LEVELS if config.normalization.mode == "dataset" else ()
    names = [name for name in (*RELATIVE, *DETAIL, *levels) if name in record["low"]]
    low = np.array([record["low"][name] for name in names])
    high = np.array([record["high"][name] for name in names])
    whole = record["high"]["bright"] - record["low"]["dark"]
    least = np.array([LEAST_RANGE.get(name, 0.2 * whole) for name in names])
    values = np.array([[look[name] for name in names] for look in looks])
    beyond = np.maximum(low - values, values - high) / np.maximum(high - low, least)
    unlike = (beyond > BEYOND).any(axis=1)
    if 2 * unlike.sum() < len(looks):
        return None
    worst = int(np.argmax(np.median(beyond[unlike], axis=0)))
    return Difference(
        names[worst],
        float(np.median(values[unlike, worst])),
        float(low[worst]),
        float(high[worst]),
        int(unlike.sum()),
        len(looks),
    )


def likeness_warning(
    record: Mapping[str, Any] | None, frames: Sequence[Frame], config: TrialConfig
) -> str | None:
    """Return a one-line warning if images look unlike the training images: how, and how much.

    Parameters
    ----------
    record, config
        See `difference`.
    frames : sequence of Frame
        At most `MOST_IMAGES` of them are read.
    """
    if not record:
        return None
    looks = []
    for frame in frames[:: max(1, -(-len(frames) // MOST_IMAGES))]:
        try:
            look = describe(frame.read())
        except (*BROKEN, OSError):
            continue  # reported when it is segmented
        if look is not None:
            looks.append(look)
    found = difference(record, looks, config)
    if found is None:
        return None
    images = (
        "the image looks"
        if found.looked_at == 1
        else (f"{found.images} of {found.looked_at} checked images look")
    )
    return f"{images} different from the model's training images: {_explain(found)}; {_ADVICE}"


def _explain(found: Difference) -> str:
    name = found.quantity
    if name in RELATIVE:
        return (
            f"{_RELATIVE_TEXT[name]} lies {found.value:.0%} of the way from dark to bright "
            f"(training images: {found.low:.0%} to {found.high:.0%}); another kind of microscopy, "
            "inverted contrast or another density of cells can cause this"
        )
    if name in LEVELS:
        return (
            f"the {name} pixels are at {found.value:.1%} of the highest intensity (training "
            f"images: {found.low:.1%} to {found.high:.1%}), and the model scales all images alike "
            "(normalization=dataset); another exposure or camera can cause this"
        )
    weaker = found.value < found.low
    factor = 2 ** (found.low - found.value if weaker else found.value - found.high)
    what = (
        "sharpness (variance of the Laplacian over variance) is"
        if name == "focus"
        else (f"structures of {_SIZES[name]} pixels, relative to larger ones, are")
    )
    return (
        f"{what} {factor:.1f} times {'weaker' if weaker else 'stronger'} than in any training "
        "image; another magnification, focus or noise level can cause this"
    )


def size_warning(
    record: Mapping[str, Any] | None, out: Path, frames: Sequence[Frame]
) -> str | None:
    """Return a one-line warning if the cells found differ in size from the training images' cells.

    Parameters
    ----------
    record
        See `difference`.
    out : Path
        Folder with the tables of the cells found.
    frames : sequence of Frame
        Images whose tables exist.
    """
    if not record or "diameter" not in record:
        return None
    sizes = []
    for frame in frames[:: max(1, len(frames) // (4 * MOST_IMAGES))]:
        try:
            pixels = pq.read_table(part_of(out, frame), columns=["num_pixels"])["num_pixels"]
        except (OSError, pa.ArrowInvalid):
            continue
        if len(pixels):
            sizes.append(2 * float(np.sqrt(np.median(pixels.to_numpy()) / np.pi)))
    if not sizes:
        return None
    low, _, high = np.log2(record["diameter"])
    margin = BEYOND * max(high - low, LEAST_RANGE["diameter"])
    found = np.log2(np.median(sizes))
    if low - margin <= found <= high + margin:
        return None
    return (
        f"the cells found are typically {2**found:.0f} pixels across, but those in the model's "
        f"training images {2**low:.0f} to {2**high:.0f}; another magnification or wrong outlines "
        f"can cause this; {_ADVICE}, or scale the images to the training images' pixel size"
    )
