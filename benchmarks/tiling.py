"""How much tiles differ from whole images, and whether seams are worse than the rest.

``python benchmarks/tiling.py OUT [--tile 512]``: predicts the test images of a
sweep with every finished trial, whole and in tiles. Prints for each network the mean absolute
difference of the foreground probability, the share of pixels that change sides of 0.5, and the
share of wrong pixels in the bands where tiles are blended and elsewhere: of the whole image's
prediction, and of the tiles'.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from analysis.evaluation.prediction import foreground_probability, predict_maps
from analysis.runfolder import open_data, read_run
from trainables.checkpoint import load
from trainables.data.imagefiles import read_image, read_labels
from trainables.tiling import overlap_of, positions


def bands(shape: tuple[int, int], side: int, overlap: int) -> np.ndarray:
    """Mark the pixels that two tiles share."""
    found = np.zeros(shape, bool)
    for axis in (0, 1):
        line = np.zeros(shape[axis], int)
        for start in positions(shape[axis], side, overlap):
            line[start : start + side] += 1
        found |= (line > 1)[:, None] if axis == 0 else (line > 1)[None]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tile", type=int, default=512)
    options = parser.parse_args()
    run = read_run(options.out.absolute())
    dataset, _ = open_data(run, None)
    count = len(dataset.subset("test"))
    overlap = overlap_of(options.tile)
    print(f"tiles of {options.tile} px sharing {overlap}, {count} images; in per cent")
    head = (
        "network",
        "difference",
        "changed",
        "wrong in bands: whole",
        "tiled",
        "elsewhere: whole",
    )
    print("| " + " | ".join([*head, "tiled"]) + " |")
    print("|---" * (len(head) + 1) + "|")
    for trial_id in run.done():
        predictor = load(run.checkpoint(trial_id))
        config, rows = predictor.config, []
        with closing(predictor):
            for item in dataset.subset("test"):
                image, truth = read_image(item.image), read_labels(item.mask).labels > 0
                found = [
                    foreground_probability(
                        config,
                        predict_maps(predictor, image, tile=tile),
                        image.shape,
                    )
                    for tile in ("whole", options.tile)
                ]
                shared = bands(truth.shape, options.tile, overlap)
                masks = [one >= 0.5 for one in found]
                wrong = [one != truth for one in masks]
                rows.append(
                    [
                        np.abs(found[0] - found[1]).mean(),
                        (masks[0] != masks[1]).mean(),
                        *(one[shared].mean() for one in wrong),
                        *(one[~shared].mean() for one in wrong),
                    ]
                )
        cells = [f"{100 * value:.2f}" for value in np.mean(rows, axis=0)]
        print(
            "| " + " | ".join([f"{config.task} {config.architecture}", *cells]) + " |", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
