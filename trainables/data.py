"""Data sets: a folder of images and label images, checked before anything is trained.

Command line: ``python -m trainables.data check DATA`` prints what a data set holds, and every
reason why it cannot be used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trainables.config import Normalization
from trainables.imagefiles import read_image, read_labels
from trainables.pixelcheck import Pixels, duplicates, inspect_pair, sequence_note
from trainables.splits import (
    SPLITS,
    DataOptions,
    Metadata,
    make_split,
    natural_key,
    read_metadata,
    some,
)

SUFFIXES = (".tif", ".tiff", ".png")


class DataError(ValueError):
    """A data set that cannot be used; the message lists every offending file."""


@dataclass(frozen=True)
class Item:
    """One image with its labels."""

    stem: str
    image: Path
    mask: Path
    group: str


@dataclass(frozen=True)
class DataSet:
    """An index of a checked data set; pixels are read when asked for."""

    root: Path
    items: tuple[Item, ...]
    split: Mapping[str, tuple[str, ...]]
    """Stems of each of `SPLITS`, in natural order."""
    pixel_size_um: float | None
    fingerprint: str
    """Hash of all files' contents, groups and split."""
    options: DataOptions = DataOptions()
    notes: tuple[str, ...] = ()
    """What the user should know, one line each; none of it stops a run."""
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of each image by stem, where pixels were looked at (`open_dataset`)."""

    _by_stem: dict[str, Item] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_stem.update({item.stem: item for item in self.items})

    def subset(self, name: str) -> list[Item]:
        """Return the items of one of `SPLITS`."""
        return [self._by_stem[stem] for stem in self.split[name]]

    def load(
        self, item: Item, normalization: Normalization
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Read one image, normalised, and its label image.

        Returns
        -------
        image : (H, W) float32 array in [-0.5, 1.5]
        labels : (H, W) int32 array, 0 = background
        """
        return normalize(read_image(item.image), normalization), read_labels(item.mask).labels


def normalize(image: NDArray[Any], normalization: Normalization) -> NDArray[np.float32]:
    """Scale an image's intensities by its own percentiles.

    Parameters
    ----------
    image : (H, W) array
        Any integer or float type.
    normalization : Normalization
        Which percentiles become 0 and 1.

    Returns
    -------
    (H, W) float32 array in [-0.5, 1.5]
        All 0 for an image without contrast.
    """
    low, high = np.percentile(image, [normalization.low, normalization.high])
    if high <= low:
        low, high = float(image.min()), float(image.max())
    if high <= low:
        return np.zeros(image.shape, np.float32)
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, -0.5, 1.5)


def _listing(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Map stems to files; report what has a wrong suffix or a stem twice."""
    if not folder.is_dir():
        problems.append(f"{folder.name}/: no such folder in {folder.parent}")
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
            continue
        name = f"{folder.name}/{path.name}"
        if path.suffix.lower() not in SUFFIXES:
            problems.append(f"{name}: not a TIFF or PNG file; convert it or take it away")
        elif not path.is_file():
            problems.append(f"{name}: not a file, or a link to a file that is not there")
        elif path.stem in found:
            problems.append(f"{name}: same stem as {found[path.stem].name}; keep one of them")
        else:
            found[path.stem] = path
    if not found:
        problems.append(f"{folder.name}/: holds no TIFF or PNG file")
    return found


def _fingerprint(
    root: Path, items: Sequence[Item], split: Mapping[str, Sequence[str]], meta: Metadata
) -> str:
    digest = hashlib.sha256()
    for item in items:
        for path in (item.image, item.mask):
            with open(path, "rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
            digest.update(f"{path.name}\0{content}\0{item.group}\n".encode())
    rest = {"split": {k: list(v) for k, v in split.items()}, "um": meta.pixel_size_um}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def index_dataset(
    root: Path | str, options: DataOptions = DataOptions(), *, divide: bool = True
) -> DataSet:
    """List a data set and its split, with its fingerprint, without looking at pixels.

    Parameters
    ----------
    root : path
        Folder with ``images/``, ``masks/`` and an optional ``dataset.yaml``.
    options : DataOptions
        How to split.
    divide : bool
        False: images that are only to be measured; all are test images.

    Returns
    -------
    DataSet

    Raises
    ------
    DataError
        For everything that file names and dataset.yaml alone show to be wrong.
    """
    problems: list[str] = []
    dataset = _index(Path(root).absolute(), options, problems, divide=divide)
    _raise(dataset.root, problems)
    return dataset


def _index(
    root: Path, options: DataOptions, problems: list[str], *, divide: bool = True
) -> DataSet:
    if not root.is_dir():
        raise DataError(f"data set {root}: no such folder")
    meta = read_metadata(root, problems)
    images, masks = _listing(root / "images", problems), _listing(root / "masks", problems)
    if images and masks:
        for stem in sorted(set(images) - set(masks), key=natural_key):
            problems.append(f"images/{images[stem].name}: orphan, no mask masks/{stem}.*")
        for stem in sorted(set(masks) - set(images), key=natural_key):
            problems.append(f"masks/{masks[stem].name}: orphan, no image images/{stem}.*")
    stems = sorted(set(images) & set(masks), key=natural_key)
    before = len(problems)
    split: dict[str, tuple[str, ...]] = {**dict.fromkeys(SPLITS, ()), "test": tuple(stems)}
    if stems and divide:
        split = make_split(stems, meta, options, problems)
    if stems and divide and len(problems) == before:
        problems += [
            f"split {name} is empty: none of its groups has an image"
            for name in SPLITS
            if not split[name]
        ]
    items = tuple(Item(s, images[s], masks[s], meta.groups.get(s, s)) for s in stems)
    unused = [s for s in stems if not any(s in split[name] for name in SPLITS)]
    try:
        fingerprint = _fingerprint(root, items, split, meta)
    except OSError as error:
        fingerprint = ""
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")
    notes = []
    if unused and not problems:
        notes.append(f"{len(unused)} images belong to no split and are not used: {some(unused)}")
    return DataSet(
        root=root,
        items=items,
        split=split,
        pixel_size_um=meta.pixel_size_um,
        fingerprint=fingerprint,
        options=options,
        notes=tuple(notes),
    )


def _raise(root: Path, problems: list[str]) -> None:
    if len(problems) == 1:
        raise DataError(f"data set {root}: {problems[0]}")
    if problems:
        raise DataError(
            f"data set {root} cannot be used, {len(problems)} problems:\n  " + "\n  ".join(problems)
        )


def open_dataset(root: Path | str, options: DataOptions = DataOptions()) -> DataSet:
    """List a data set, read every file once, and refuse what cannot be right.

    Parameters
    ----------
    root : path
        Folder with ``images/``, ``masks/`` and an optional ``dataset.yaml``.
    options : DataOptions
        How to split.

    Returns
    -------
    DataSet
        With notes on what was found but does not stop a run.

    Raises
    ------
    DataError
        One message that lists all offending files.
    """
    problems: list[str] = []
    dataset = _index(Path(root).absolute(), options, problems)
    pixels: dict[str, Pixels] = {}
    for item in dataset.items:
        one = inspect_pair(item.stem, item.image, item.mask, problems)
        if one is not None:
            pixels[item.stem] = one
    notes = list(dataset.notes)
    notes += duplicates(pixels, dataset.split, problems)
    binary = [stem for stem, one in pixels.items() if one.binary]
    if binary:
        notes.append(
            f"{len(binary)} masks are binary: their connected components (8 neighbours) are taken "
            f"as cells: {some(binary)}"
        )
    if not problems:
        for name in SPLITS:
            if not any(pixels[stem].has_cells for stem in dataset.split[name]):
                problems.append(f"split {name}: no mask holds any cell")
    if all(item.group == item.stem for item in dataset.items) and options.split == "groups":
        notes += sequence_note(pixels)
    _raise(dataset.root, problems)
    shapes = {stem: (one.shape[0], one.shape[1]) for stem, one in pixels.items()}
    return replace(dataset, notes=tuple(notes), shapes=shapes)


def _check(arguments: argparse.Namespace) -> int:
    options = DataOptions(split=arguments.split, split_seed=arguments.split_seed)
    dataset = open_dataset(arguments.data, options)
    print(f"{dataset.root}: {len(dataset.items)} images can be used")
    for name in SPLITS:
        groups = sorted({item.group for item in dataset.subset(name)}, key=natural_key)
        print(f"  {name}: {len(dataset.split[name])} images, groups {some(groups)}")
    size = dataset.pixel_size_um
    print(f"  pixel size: {f'{size} um' if size else 'not given (dataset.yaml: pixel_size_um)'}")
    print(f"  fingerprint: {dataset.fingerprint[:12]}")
    for note in dataset.notes:
        print(f"  note: {note}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainables.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what a data set holds and what is wrong")
    check.add_argument("data", help="folder with images/ and masks/")
    check.add_argument("--split", choices=["groups", "time_blocks"], default="groups")
    check.add_argument("--split-seed", type=int, default=0)
    check.set_defaults(run=_check)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (DataError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@lru_cache(maxsize=4)
def cached_index(root: str, options: DataOptions) -> DataSet:
    """Like `index_dataset`, remembered by a worker process that runs many trials."""
    return index_dataset(root, options)


if __name__ == "__main__":
    sys.exit(main())
