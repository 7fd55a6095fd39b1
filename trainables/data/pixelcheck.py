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

from trainables.data.imagefiles import ImageFileError, read_image, read_labels
from trainables.data.maskcheck import Pieces, count_pieces
from trainables.data.splits import SPLITS, some
from trainables.data.timegap import STILL


@dataclass(frozen=True)
class Pixels:
    """What the checks need of one image, without keeping its pixels."""

    shape: tuple[int, ...]
    digest: str
    thumbnail: NDArray[np.float32]
    has_cells: bool
    binary: bool
    bits: int
    """Of the image's type: 8 or 16."""
    pieces: Pieces
    flat: bool = False
    """Whether all pixels are equal."""


SMALLEST_SIDE = 8
"""Of an image, in pixels: smaller ones hold no cell with background around it."""


def thumbnail(image: NDArray[Any]) -> NDArray[np.float32]:
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
    if min(pixels.shape) < SMALLEST_SIDE:
        problems.append(
            f"images/{image.name}: {_size(pixels.shape)} pixels; each side needs at least "
            f"{SMALLEST_SIDE}"
        )
        return None
    flat, has_cells = bool(pixels.min() == pixels.max()), bool(labels.labels.any())
    if flat and has_cells:
        problems.append(
            f"images/{image.name}: all pixels are {pixels.flat[0]}, so nothing can be seen of the "
            f"cells in masks/{mask.name}; export the image anew"
        )
        return None
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Pixels(
        pixels.shape, digest, thumbnail(pixels), has_cells, labels.was_binary,
        8 * pixels.dtype.itemsize, count_pieces(labels.labels), flat,
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


def flat_note(pixels: Mapping[str, Pixels]) -> list[str]:
    """Say which images show nothing, and hold no cell either."""
    flat = [stem for stem, one in pixels.items() if one.flat]
    if not flat:
        return []
    return [f"{len(flat)} images show nothing (all their pixels are equal): {some(flat)}"]


def sequence_note(pixels: Mapping[str, Pixels], group_of: Mapping[str, str]) -> list[str]:
    """Warn when neighbours in name order that are in different groups look like consecutive
    frames of one field.

    Parameters
    ----------
    pixels : mapping
        Stem to pixels, in natural order.
    group_of : mapping
        Stem to group.
    """
    pairs = [
        (a, b, float(np.mean(pixels[a].thumbnail * pixels[b].thumbnail)))
        for a, b in itertools.pairwise(pixels)
        if group_of[a] != group_of[b] and pixels[a].shape == pixels[b].shape
    ]
    correlations = [correlation for *_, correlation in pairs]
    if len(correlations) < 2 or np.median(correlations) <= STILL:
        return []
    count = len({stem for a, b, _ in pairs for stem in (a, b)})
    return [
        f"{count} images look like consecutive frames of one field, a single group "
        f"(neighbours correlate at {np.median(correlations):.2f}), but are taken as independent: "
        "test figures will be too good. Give their groups in dataset.yaml, or split this "
        "time-lapse in blocks of time with --set split=time_blocks"
    ]


PAPER_CROP = 224
"""Side of the paper's cut-outs, in pixels."""
CROPS_ADVICE = "--set normalization=dataset"


def size_notes(pixels: Mapping[str, Pixels], split: Mapping[str, Sequence[str]]) -> list[str]:
    """Warn when training images are cut-outs, or much smaller than those for evaluation.

    Each image is scaled by its own percentiles: those of a cut-out of cells are not those of
    the whole frame that it was cut from.
    """
    largest = {name: max((pixels[s].shape for s in split[name]), key=np.prod) for name in SPLITS}
    trained = largest["train"]
    evaluated = max(largest["val"], largest["test"], key=np.prod)
    consequence = (
        "Intensities are scaled by each image's own percentiles, and those of a cut-out differ "
        f"from those of a whole frame: if you will segment whole frames, train with {CROPS_ADVICE}"
    )
    if np.prod(evaluated) >= 4 * np.prod(trained):
        return [
            f"training images are much smaller ({_size(trained)} pixels at most) than those for "
            f"validation and testing (up to {_size(evaluated)}). {consequence}"
        ]
    if max(trained) <= 1.5 * PAPER_CROP:
        return [
            f"the training images are as small as cut-outs ({_size(trained)} pixels at most; a "
            f"training crop has {PAPER_CROP}x{PAPER_CROP} unless set). {consequence}"
        ]
    return []


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def bits_note(pixels: Mapping[str, Pixels]) -> list[str]:
    """Warn of images of 8 and of 16 bit in one data set."""
    by_bits = {bits: [s for s, one in pixels.items() if one.bits == bits] for bits in (8, 16)}
    if not all(by_bits.values()):
        return []
    return [
        f"images of 8 bit ({some(by_bits[8], 3)}) and of 16 bit ({some(by_bits[16], 3)}) in one "
        "data set: each is scaled by its own percentiles, normalization=dataset is not possible"
    ]
