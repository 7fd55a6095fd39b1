"""What only a look at the pixels shows to be wrong with a data set."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.imagefiles import ImageFileError, read_image, read_labels
from trainables.splits import SPLITS


@dataclass(frozen=True)
class Pixels:
    """What the checks need of one image, without keeping its pixels."""

    shape: tuple[int, ...]
    digest: str
    thumbnail: NDArray[np.float32]
    has_cells: bool
    binary: bool


def _thumbnail(image: NDArray[Any]) -> NDArray[np.float32]:
    """Reduce to about 128 px, less the local mean: what illumination alone has in common is no
    sign of one field.
    """
    from scipy.ndimage import uniform_filter

    step = max(1, round(max(image.shape) / 128))
    height, width = (n // step * step for n in image.shape)
    small = image[:height, :width].astype(np.float32)
    small = small.reshape(height // step, step, width // step, step).mean((1, 3))
    small = small - uniform_filter(small, 31, mode="reflect")
    return small / max(float(small.std()), 1e-12)


def inspect_pair(stem: str, image: Path, mask: Path, problems: list[str]) -> Pixels | None:
    """Read one pair and report everything that is wrong with it."""
    pixels = labels = None
    try:
        pixels = read_image(image)
    except ImageFileError as error:
        problems.append(f"images/{image.name}: {error}")
    try:
        labels = read_labels(mask)
    except ImageFileError as error:
        problems.append(f"masks/{mask.name}: {error}")
    if pixels is None or labels is None:
        return None
    if pixels.shape != labels.labels.shape:
        problems.append(
            f"{stem}: image is {pixels.shape[1]}x{pixels.shape[0]}, mask is "
            f"{labels.labels.shape[1]}x{labels.labels.shape[0]}; they must be equal"
        )
        return None
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Pixels(
        pixels.shape, digest, _thumbnail(pixels), bool(labels.labels.any()), labels.was_binary
    )


def duplicates(
    pixels: Mapping[str, Pixels], split: Mapping[str, Sequence[str]], problems: list[str]
) -> list[str]:
    """Report equal images across splits as problems; within one split as notes."""
    side = {stem: name for name in SPLITS for stem in split[name]}
    by_digest: dict[str, list[str]] = {}
    for stem, one in pixels.items():
        by_digest.setdefault(one.digest, []).append(stem)
    notes = []
    for stems in by_digest.values():
        if len(stems) < 2:
            continue
        listed = ", ".join(f"{s} ({side.get(s, 'unused')})" for s in stems)
        if len({side[s] for s in stems if s in side}) > 1:
            problems.append(f"same image in more than one split: {listed}; keep one copy")
        else:
            notes.append(f"same image more than once: {listed}")
    return notes


def sequence_note(pixels: Mapping[str, Pixels]) -> list[str]:
    """Warn when neighbours in name order look like consecutive frames of one field."""
    ordered = list(pixels.values())
    correlations = [
        float(np.mean(a.thumbnail * b.thumbnail))
        for a, b in itertools.pairwise(ordered)
        if a.thumbnail.shape == b.thumbnail.shape
    ]
    if len(correlations) < 2 or np.median(correlations) <= 0.8:
        return []
    return [
        f"the {len(ordered)} images look like consecutive frames of one field, a single group "
        f"(neighbours correlate at {np.median(correlations):.2f}), but are taken as independent: "
        "test figures will be too good. Give their groups in dataset.yaml, or split this "
        "time-lapse in blocks of time with --set split=time_blocks"
    ]
