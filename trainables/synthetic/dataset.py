"""Built-in data: brightfield lymphocytes with exact labels, outlines and tracks.

``python -m trainables.synthetic OUT --sequences S --frames F --seed N`` writes a data set that
looks like the images of Vasinkova et al. 2024 (doi 10.1177/11779322241272387) and whose truth is
known. Imports no torch.

The folder holds

``images/``, ``masks/``
    16-bit TIFF files with stems such as ``s00_t000`` (sequence and frame). In a mask, a cell's
    label is its track number.
``dataset.yaml``
    Pixel size and, as group of every image, its sequence.
``objects.csv``
    One row per label: image (stem), label, track (numbered within a sequence), population
    (``small`` or ``large``) and outline: JSON ``[[x,y],[x,y],...]`` in pixels, pixel centres at
    integers, x to the right and y down, not closed by repetition, reaching past the border where
    the cell does. The pixels whose centres lie inside an outline are exactly those of its label.
``synthetic.json``
    The arguments, and the version of the generator.

Equal arguments give equal bytes, as long as processor and libraries round in the same way.
Sequences and frames do not depend on their number: a larger data set contains the smaller one.
Centres of cells stay in the frame: no track starts late, ends early or has a gap.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray

from trainables import cli
from trainables.records.files import sync_folder
from trainables.synthetic.cells import (
    POPULATIONS,
    Cell,
    Frame,
    default_cells,
    outline_from_text,
    outline_text,
    rasterize,
    simulate,
)
from trainables.synthetic.optics import render_frame

__all__ = [
    "POPULATIONS",
    "Cell",
    "Frame",
    "generate",
    "main",
    "outline_from_text",
    "outline_text",
    "rasterize",
    "render_frame",
    "simulate",
]

PIXEL_SIZE_UM = 0.323
"""Side of a pixel: that of a 6.45 um camera pixel behind a 20x objective, rounded."""

_VERSION = 1  # raise it with every change to what a given seed looks like
_LIMITS = {
    "sequences": (1, 1000),
    "frames": (1, 10000),
    "seed": (0, 2**63 - 1),
    "height": (64, 16384),
    "width": (64, 16384),
    "cells": (1, 65535),
}


def _check(parameters: dict[str, Any]) -> None:
    for name, (low, high) in _LIMITS.items():
        value = parameters[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}")
    # Beyond this density, cells no longer find room beside each other.
    most = max(1, parameters["height"] * parameters["width"] // 1500)
    if parameters["cells"] > most:
        raise ValueError(
            f"{parameters['cells']} cells do not fit into {parameters['width']} x "
            f"{parameters['height']} pixels: ask for {most} or fewer"
        )


def _already_there(out: Path, parameters: dict[str, Any]) -> bool:
    """Whether `out` is this very data set; raises when it is anything else in the way."""
    if not os.path.lexists(out):
        return False
    if not out.is_dir():
        raise FileExistsError(f"{out} is not a folder: choose another OUT")
    if not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / "synthetic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == parameters:
        return True
    if isinstance(found, dict) and found.get("generator") == parameters["generator"]:
        different = [k for k in parameters if found.get(k) != parameters[k]]
        raise FileExistsError(
            f"{out} contains synthetic data made with other arguments ({', '.join(different)} "
            "differ): choose another OUT or remove it"
        )
    raise FileExistsError(f"{out} exists and is not empty: choose another OUT")


def _write_image(path: Path, image: NDArray[np.uint16]) -> None:
    # No metadata beyond the pixel size: dates and version strings would make bytes differ.
    tifffile.imwrite(
        path,
        image,
        compression="zlib",
        predictor=True,
        photometric="minisblack",
        metadata=None,
        software=False,
        resolution=(1e4 / PIXEL_SIZE_UM, 1e4 / PIXEL_SIZE_UM),
        resolutionunit="CENTIMETER",
    )


def _write_dataset(folder: Path, parameters: dict[str, Any]) -> None:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    groups: dict[str, str] = {}
    with open(folder / "objects.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["image", "label", "track", "population", "outline"])
        for sequence in range(parameters["sequences"]):
            for frame in simulate(
                frames=parameters["frames"],
                seed=parameters["seed"],
                sequence=sequence,
                height=parameters["height"],
                width=parameters["width"],
                cells=parameters["cells"],
            ):
                stem = f"s{sequence:02d}_t{frame.index:03d}"
                groups[stem] = f"s{sequence:02d}"
                image, labels = render_frame(frame)
                _write_image(folder / "images" / f"{stem}.tif", image)
                _write_image(folder / "masks" / f"{stem}.tif", labels)
                for cell in frame.cells:
                    outline = outline_text(cell.outline)
                    table.writerow([stem, cell.track, cell.track, cell.population, outline])
    description = {"pixel_size_um": PIXEL_SIZE_UM, "groups": groups}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    (folder / "synthetic.json").write_text(json.dumps(parameters, indent=1) + "\n")


def generate(
    out: str | os.PathLike[str],
    *,
    sequences: int,
    frames: int,
    seed: int,
    height: int = 904,
    width: int = 1224,
    cells: int | None = None,
) -> Path:
    """Write a synthetic data set; `out` is complete or absent at every moment.

    Parameters
    ----------
    out : path
        Folder to create. If it already contains the data set of exactly these arguments, nothing
        is done.
    sequences, frames : int
        Number of sequences, and of frames in each.
    seed : int
        Random seed, 0 or more.
    height, width : int
        Size of the images in pixels, at least 64.
    cells : int, optional
        Number of cells in every frame; None: 115 in 1224 x 904 and in proportion elsewhere.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ValueError
        When an argument is out of range.
    FileExistsError
        When `out` is not empty and contains anything else.
    """
    out = Path(out)
    parameters = _parameters(sequences, frames, seed, height, width, cells)
    if _already_there(out, parameters):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        _write_dataset(temporary, parameters)
        try:
            os.rename(temporary, out)
        except OSError:
            # Another process may have finished the same data set meanwhile.
            if not _already_there(out, parameters):
                raise
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _parameters(
    sequences: int, frames: int, seed: int, height: int, width: int, cells: int | None
) -> dict[str, Any]:
    """Return the validated content of `synthetic.json`."""
    parameters: dict[str, Any] = {
        "generator": "trainables.synthetic",
        "version": _VERSION,
        "sequences": sequences,
        "frames": frames,
        "seed": seed,
        "height": height,
        "width": width,
        "cells": 1 if cells is None else cells,
    }
    _check(parameters)
    if cells is None:
        parameters["cells"] = default_cells(height, width)
    return {k: v if isinstance(v, str) else int(v) for k, v in parameters.items()}


def _write(arguments: argparse.Namespace, command: str) -> int:
    options = vars(arguments)
    out = options.pop("out")
    existed = _already_there(out, _parameters(**options))
    generate(out, **options)
    count = options["sequences"] * options["frames"]
    if existed:
        print(f"{out} already contains these {count} images; nothing to do")
    else:
        print(f"wrote {count} images with labels, tracks and outlines to {out}")
    return cli.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = cli.Parser(
        prog="python -m trainables.synthetic",
        description="Write brightfield images of simulated lymphocytes with exact labels.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to create")
    parser.add_argument("--sequences", type=int, default=6, help="number of sequences (6)")
    parser.add_argument("--frames", type=int, default=4, help="frames in each sequence (4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; the same seed gives the same files (0)"
    )
    parser.add_argument("--height", type=int, default=904, help="pixels (904)")
    parser.add_argument("--width", type=int, default=1224, help="pixels (1224)")
    parser.add_argument("--cells", type=int, help="cells per frame (115 per 1224 x 904 pixels)")
    interrupted = "interrupted; no data set was made"
    return cli.run(parser, _write, argv, refused=(ValueError, OSError), interrupted=interrupted)
