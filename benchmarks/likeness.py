"""How often new images are said to look unlike a network's training images, and how often not.

``python benchmarks/likeness.py DATA...`` prints the table of docs/segment.md: of each data set
(with 6 images at least) 60 % of the images, drawn 100 times, are taken for training images; the
others, as they are, and in another contrast, magnification, focus or exposure, and the images of
all other data sets, for new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from analysis.segment.likeness import BEYOND, LEAST_RANGE, difference
from trainables.config import TrialConfig
from trainables.data.appearance import QUANTITIES, describe, typical_diameter
from trainables.data.imagefiles import read_image, read_labels

Image = NDArray[Any]
DRAWS = 100


def eight_bit(image: Image) -> Image:
    low, high = np.percentile(image, [0.1, 99.9])
    return np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def half(image: Image) -> Image:
    height, width = (side // 2 * 2 for side in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return blocks.mean((1, 3)).round().astype(image.dtype)


def blurred(image: Image) -> Image:
    return ndimage.gaussian_filter(image.astype(np.float32), 1.5).round().astype(image.dtype)


def double(image: Image) -> Image:
    return ndimage.zoom(image.astype(np.float32), 2, order=1).round().astype(image.dtype)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "the others": lambda image: image,
    "8 bit": eight_bit,
    "exposure x 0.6": lambda image: (0.6 * image).astype(image.dtype),
    "8 bit inverted": lambda image: 255 - eight_bit(image),
    "half size": half,
    "twice the size": double,
    "blurred by 1.5 px": blurred,
}


def _record(looks: list[dict[str, float]]) -> dict[str, Any]:
    low, high = ({q: f(look[q] for look in looks) for q in QUANTITIES} for f in (min, max))
    return {"images": len(looks), "low": low, "high": high}


def _size_is_said(training: NDArray[Any], new: NDArray[Any]) -> bool:
    low, high = np.log2(training.min()), np.log2(training.max())
    margin = BEYOND * max(high - low, LEAST_RANGE["diameter"])
    return not low - margin <= np.log2(np.median(new)) <= high + margin


def main(folders: list[str]) -> None:
    looks: dict[str, dict[str, list[dict[str, float]]]] = {}
    sizes: dict[str, NDArray[Any]] = {}
    for folder in map(Path, folders):
        files = sorted((folder / "images").iterdir())
        images = [read_image(file) for file in files]
        looks[folder.name] = {
            name: [look for image in images if (look := describe(change(image)))]
            for name, change in CHANGES.items()
        }
        masks = (read_labels(folder / "masks" / file.name).labels for file in files)
        sizes[folder.name] = np.array([d for mask in masks if (d := typical_diameter(mask))])
    config, rng = TrialConfig(), np.random.default_rng(0)
    for name, mine in looks.items():
        said: dict[str, list[tuple[bool, float]]] = {}
        for _ in range(DRAWS):
            order = rng.permutation(len(mine["the others"]))
            few = round(0.6 * len(order))
            record = _record([mine["the others"][i] for i in order[:few]])
            new = {kind: [of[i] for i in order[few:]] for kind, of in mine.items()}
            new |= {other: looks[other]["the others"] for other in looks if other != name}
            for kind, those in new.items():
                alone = [difference(record, [look], config) is not None for look in those]
                request = difference(record, those, config) is not None
                said.setdefault(kind, []).append((request, float(np.mean(alone))))
            d = sizes[name][order % len(sizes[name])]
            for kind, factor in (("cells", 1.0), ("cells at half size", 0.5)):
                apart = _size_is_said(d[:few], factor * d[few:])
                said.setdefault(kind, []).append((apart, float(apart)))
        print(f"trained on {name}: warned of requests, of single images")
        for kind, rates in said.items():
            request, alone = np.mean(rates, axis=0)
            print(f"  {kind:24s} {request:6.1%} {alone:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
