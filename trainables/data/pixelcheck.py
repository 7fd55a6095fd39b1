"""Checks of a data set that need the pixels of its images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.copies import digest
from trainables.data.imagefiles import ImageFileError, read_image, read_labels
from trainables.data.maskcheck import Pieces, count_pieces
from trainables.data.splits import SPLITS, some
from trainables.data.timegap import STILL


@dataclass(frozen=True)
class Pixels:
    """What the checks need to know of one image, so that its pixels need not be kept."""

    shape: tuple[int, ...]
    digest: bytes
    thumbnail: NDArray[np.float32]
    has_cells: bool
    binary: bool
    bits: int
    """Bits per pixel of the image: 8 or 16."""
    pieces: Pieces
    flat: bool = False
    """Whether all pixels are equal."""


SMALLEST_SIDE = 8
"""Of an image, in pixels: smaller ones have no room for a cell with background around it."""


def thumbnail(image: NDArray[Any]) -> NDArray[np.float32]:
    """Reduce an image to about 128 px and subtract the local mean, because equal illumination alone
    does not show that two images are of one field.
    """
    from scipy.ndimage import uniform_filter

    step = max(1, round(max(image.shape) / 128))
    height, width = (n // step * step for n in image.shape)
    small = image[:height, :width].astype(np.float32)
    small = small.reshape(height // step, step, width // step, step).mean((1, 3))
    small = small - uniform_filter(small, 31, mode="reflect")
    scaled: NDArray[np.float32] = small / max(float(small.std()), 1e-12)
    return scaled


def inspect_pair(stem: str, image: Path, mask: Path, problems: list[str]) -> Pixels | None:
    """Read an image and its mask, and report everything that is wrong with them."""
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
            f"images/{image.name}: all pixels are {pixels.flat[0]}, so the cells in "
            f"masks/{mask.name} cannot be seen; export the image again"
        )
        return None
    return Pixels(
        pixels.shape, digest(pixels), thumbnail(pixels), has_cells, labels.was_binary,
        8 * pixels.dtype.itemsize, count_pieces(labels.labels), flat,
    )


def duplicates(
    pixels: Mapping[str, Pixels], parts: Mapping[str, Sequence[str]], problems: list[str]
) -> list[str]:
    """Report equal images in different parts (splits, folds) as problems, within one as notes."""
    side = {stem: name for name, stems in parts.items() for stem in stems}
    by_digest: dict[bytes, list[str]] = {}
    for stem, one in pixels.items():
        by_digest.setdefault(one.digest, []).append(stem)
    notes = []
    for stems in by_digest.values():
        if len(stems) < 2:
            continue
        listed = ", ".join(f"{s} ({side.get(s, 'unused')})" for s in stems)
        if len({side[s] for s in stems if s in side}) > 1:
            kind = "split" if set(parts) == set(SPLITS) else "part"
            problems.append(f"same image in more than one {kind}: {listed}; keep one copy")
        else:
            notes.append(f"same image more than once: {listed}")
    return notes


def flat_note(pixels: Mapping[str, Pixels]) -> list[str]:
    """Say which images without cells are blank."""
    flat = [stem for stem, one in pixels.items() if one.flat]
    if not flat:
        return []
    return [f"blank images (all their pixels are equal): {some(flat)}"]


def sequence_note(pixels: Mapping[str, Pixels], group_of: Mapping[str, str]) -> list[str]:
    """Warn if images that follow each other by name, but are in different groups, look like
    consecutive frames of one field.

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
        f"{count} images look like consecutive frames of one field (neighbours correlate at "
        f"{np.median(correlations):.2f}), but are treated as independent, so test scores will be "
        "too good. Put them into one group in dataset.yaml, or split this time-lapse into blocks "
        "of time with --set split=time_blocks"
    ]


PAPER_CROP = 224
"""Side of the paper's cut-outs, in pixels."""
CROPS_ADVICE = "--set normalization=dataset"


def size_notes(pixels: Mapping[str, Pixels], split: Mapping[str, Sequence[str]]) -> list[str]:
    """Warn when training images are cut-outs, or much smaller than those for evaluation.

    Each image is scaled by its own percentiles, which differ between a cut-out full of cells and
    the whole frame that it was cut from.
    """
    largest = {name: max((pixels[s].shape for s in split[name]), key=np.prod) for name in SPLITS}
    trained = largest["train"]
    evaluated = max(largest["val"], largest["test"], key=np.prod)
    consequence = (
        "Intensities are scaled by each image's own percentiles, which differ between cut-outs "
        f"and whole frames: to segment whole frames later, train with {CROPS_ADVICE}"
    )
    if np.prod(evaluated) >= 4 * np.prod(trained):
        return [
            f"training images (at most {_size(trained)} pixels) are much smaller than validation "
            f"and test images (up to {_size(evaluated)}). {consequence}"
        ]
    if max(trained) <= 1.5 * PAPER_CROP:
        return [
            f"the training images are as small as cut-outs (at most {_size(trained)} pixels; "
            f"training crops have {PAPER_CROP}x{PAPER_CROP} by default). {consequence}"
        ]
    return []


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def bits_note(pixels: Mapping[str, Pixels]) -> list[str]:
    """Warn if a data set has both 8-bit and 16-bit images."""
    by_bits = {bits: [s for s, one in pixels.items() if one.bits == bits] for bits in (8, 16)}
    if not all(by_bits.values()):
        return []
    return [
        f"the data set contains 8-bit images ({some(by_bits[8], 3)}) and 16-bit images "
        f"({some(by_bits[16], 3)}): each image is scaled by its own percentiles, and "
        "normalization=dataset is not possible"
    ]
