"""Data sets: a folder of images and label images, checked before anything is trained.

Command line: ``python -m trainables.data check DATA`` prints what a data set contains, or every
reason why it cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trainables import cli
from trainables.config import Normalization
from trainables.data.folds import folds_notes, make_folds, split_of_fold
from trainables.data.imagefiles import ImageFileError, read_image, read_labels
from trainables.data.normalization import Intensities, intensities_of, normalize
from trainables.data.objects_csv import read_objects, unknown_images
from trainables.data.listing import SUFFIXES as SUFFIXES
from trainables.data.listing import case_note, list_files, orphans
from trainables.data.maskcheck import pieces_note, wrong_masks
from trainables.data.pixelcheck import (
    Pixels,
    bits_note,
    duplicates,
    flat_note,
    inspect_pair,
    sequence_note,
    size_notes,
    thumbnail,
)
from trainables.data.splits import (
    SPLITS,
    DataOptions,
    Metadata,
    few_groups_note,
    group_name,
    make_split,
    natural_key,
    read_metadata,
    some,
    time_sequences,
    unused_notes,
)
from trainables.data.timegap import Gap, choose_gap


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
    """Stems of each of `SPLITS`, in natural order; with folds those of `fold`, or of the first."""
    pixel_size_um: float | None
    fingerprint: str
    """Hash of all files' contents, groups and split, without pixel size and frame interval."""
    options: DataOptions = DataOptions()
    """They include the gap that was chosen between blocks of time."""
    notes: tuple[str, ...] = ()
    """What the user should know, one line each; none of it stops a run."""
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of each image by stem, empty unless pixels were read (`open_dataset`)."""
    frame_interval_s: float | None = None
    old_fingerprint: str = ""
    """The fingerprint as earlier versions computed it, with the pixel size."""
    bits: tuple[int, ...] = ()
    """Bits per pixel of the images: 8, 16 or both; empty unless pixels were read."""
    hashes: Mapping[Path, str] = field(default_factory=dict, repr=False, compare=False)
    """SHA-256 of every file, in hexadecimal digits."""
    folds: tuple[tuple[str, ...], ...] = ()
    """Stems that each fold validates; empty without folds."""
    fold: int | None = None
    """Which of them `split` belongs to, counted from 1; None: not chosen yet, or no folds."""

    _by_stem: dict[str, Item] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_stem.update({item.stem: item for item in self.items})

    def subset(self, name: str) -> list[Item]:
        """Return the items of one of `SPLITS`."""
        return [self._by_stem[stem] for stem in self.split[name]]

    def of_fold(self, fold: int | None) -> DataSet:
        """Return the data set as one fold divides it.

        Parameters
        ----------
        fold : int or None
            `TrialConfig.fold`: 1 to the number of folds; None for data without folds.

        Raises
        ------
        DataError
            When the data set has no such fold, or has folds and none is given.
        """
        if fold is None and not self.folds:
            return self
        if fold is None or not 1 <= fold <= len(self.folds):
            there = f"{len(self.folds)} folds" if self.folds else "no folds"
            raise DataError(f"data set {self.root}: it is divided into {there}, not fold {fold}")
        return replace(self, fold=fold, split=split_of_fold(self.folds, self.split["test"], fold))

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Stems of the parts that share no group: those of `SPLITS`, or of the folds and the test.

        Of the folds' parts, each is for validation once, and for training otherwise.
        """
        if not self.folds:
            return {name: self.split[name] for name in SPLITS}
        folds = {f"fold {number}": stems for number, stems in enumerate(self.folds, 1)}
        return {**folds, "test": self.split["test"]}

    @property
    def validated(self) -> list[Item]:
        """Items that are for validation, in any fold."""
        if not self.folds:
            return self.subset("val")
        stems = {stem for fold in self.folds for stem in fold}
        return [item for item in self.items if item.stem in stems]

    @property
    def trained(self) -> list[Item]:
        """Items that are for training, in any fold."""
        return self.validated if self.folds else self.subset("train")

    def load(
        self, item: Item, normalization: Normalization
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Read one image, normalised, and its label image.

        Returns
        -------
        image : (H, W) float32 array in [-0.5, 1.5]
        labels : (H, W) int32 array, 0 = background

        Raises
        ------
        DataError
            When `normalization` asks for one scale for all images and they do not have one.
        """
        image, scale = read_image(item.image), self.intensities(normalization)
        try:
            scaled = normalize(image, normalization, scale)
        except ValueError as error:
            raise DataError(f"data set {self.root}: images/{item.image.name}: {error}") from error
        return scaled, read_labels(item.mask).labels

    def intensities(self, normalization: Normalization) -> Intensities | None:
        """Return the raw intensities that become 0 and 1 in all images; None if each has its own.

        Computed from all pixels of the training images together, once per process.
        """
        if normalization.mode == "image":
            return None
        paths = tuple(item.image for item in self.subset("train"))
        try:
            return intensities_of(paths, normalization.low, normalization.high, self.fingerprint)
        except ValueError as error:
            raise DataError(f"data set {self.root}: {error}") from error


def largest_shape(shapes: Iterable[tuple[int, ...]]) -> list[int]:
    """Return the (H, W) of the image with the most pixels."""
    return [int(side) for side in max(shapes, key=np.prod)]


def _hash_files(items: Sequence[Item], known: DataSet | None) -> dict[Path, str]:
    """Return the SHA-256 of every file: of `known`, or of what it holds now."""
    found = {} if known is None else dict(known.hashes)
    for path in (path for item in items for path in (item.image, item.mask)):
        if path not in found:
            with open(path, "rb") as handle:
                found[path] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def _fingerprints(
    items: Sequence[Item],
    hashes: Mapping[Path, str],
    parts: Mapping[str, Sequence[str]],
    meta: Metadata,
) -> tuple[str, str]:
    """Return the fingerprint, and that of earlier versions, which held the pixel size."""
    digest = hashlib.sha256()
    for item in items:
        group = meta.groups.get(item.stem, item.stem)
        for path in (item.image, item.mask):
            digest.update(f"{path.name}\0{hashes[path]}\0{group}\n".encode())
    old = digest.copy()
    for one, size in ((digest, None), (old, meta.pixel_size_um)):
        rest = {"split": {k: list(v) for k, v in parts.items()}, "um": size}
        one.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest(), old.hexdigest()


def index_dataset(
    root: Path | str,
    options: DataOptions = DataOptions(),
    *,
    divide: bool = True,
    known: DataSet | None = None,
) -> DataSet:
    """List the images, the split and the fingerprint of a data set without reading pixels.

    (Blocks of time without ``gap_frames`` are the exception: the gap is chosen from the frames.
    The result's options contain it, and with these options no pixels are needed.)

    Parameters
    ----------
    root : path
        Folder with ``images/``, ``masks/`` and an optional ``dataset.yaml``.
    options : DataOptions
        How to split.
    divide : bool
        False: the images are only to be measured, so all of them are test images.
    known : DataSet, optional
        The same folder as it was listed a moment ago: its files are not hashed again.

    Returns
    -------
    DataSet

    Raises
    ------
    DataError
        For all errors that file names and dataset.yaml show.
    """
    problems: list[str] = []
    dataset, _ = _index(Path(root).absolute(), options, problems, divide=divide, known=known)
    _raise(dataset.root, problems)
    return dataset


def _gap(
    stems: Sequence[str], images: Mapping[str, Path], meta: Metadata, seen: Mapping[str, Pixels]
) -> Gap:
    """Choose the gap between blocks of time from thumbnails of the frames."""
    frames = {}
    for group, members in time_sequences(stems, meta).items():
        try:
            frames[group] = [
                seen[s].thumbnail if s in seen else thumbnail(read_image(images[s]))
                for s in members
            ]
        except (ImageFileError, OSError):
            continue  # what is wrong with it is said elsewhere
    return choose_gap(frames)


def _divide(
    items: Sequence[Item], meta: Metadata, options: DataOptions, problems: list[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[tuple[str, ...], ...]]:
    """Return the split (with folds that of the first one) and the stems of each fold."""
    before = len(problems)
    split = make_split([item.stem for item in items], meta, options, problems)
    if len(problems) > before:
        return split, ()
    needed = ("test",) if options.folds else SPLITS
    problems += [
        f"split {name} is empty: none of its groups has an image"
        for name in needed
        if not split[name]
    ]
    if options.folds is None or len(problems) > before:
        return split, ()
    folds = make_folds(split, {item.stem: item.group for item in items}, options, problems)
    return (split_of_fold(folds, split["test"], 1) if folds else split), folds


def _index(
    root: Path,
    options: DataOptions,
    problems: list[str],
    *,
    divide: bool = True,
    look: bool = False,
    known: DataSet | None = None,
) -> tuple[DataSet, dict[str, Pixels]]:
    """List a data set and divide it; `look`: at all pixels, too."""
    if not root.is_dir():
        raise DataError(f"data set {root}: no such folder")
    meta = read_metadata(root, problems)
    images, masks = (list_files(root / name, problems) for name in ("images", "masks"))
    if images and masks:
        problems += orphans(images, masks)
    stems = sorted(set(images) & set(masks), key=natural_key)
    pixels: dict[str, Pixels] = {}
    for stem in stems if look else ():
        one = inspect_pair(stem, images[stem], masks[stem], problems)
        if one is not None:
            pixels[stem] = one
    gap = None
    if divide and options.split == "time_blocks" and options.gap_frames is None:
        gap = _gap(stems, images, meta, pixels)
        options = options.model_copy(update={"gap_frames": gap.frames})
    items = tuple(Item(s, images[s], masks[s], group_name(s, meta, options)) for s in stems)
    split: dict[str, tuple[str, ...]] = {**dict.fromkeys(SPLITS, ()), "test": tuple(stems)}
    folds: tuple[tuple[str, ...], ...] = ()
    if stems and divide:
        split, folds = _divide(items, meta, options, problems)
    dataset = DataSet(
        root=root,
        items=items,
        split=split,
        pixel_size_um=meta.pixel_size_um,
        fingerprint="",
        options=options,
        frame_interval_s=meta.frame_interval_s,
        folds=folds,
    )
    if problems:  # of data that cannot be used, nobody asks for a fingerprint
        return dataset, pixels
    notes = (*folds_notes(meta, options), *unused_notes(split, stems, meta, options, gap))
    try:
        hashes = _hash_files(items, known)
    except OSError as error:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")
        return dataset, pixels
    new, old = _fingerprints(items, hashes, dataset.parts, meta)
    named = replace(dataset, fingerprint=new, old_fingerprint=old, hashes=hashes, notes=notes)
    return named, pixels


def _raise(root: Path, problems: list[str]) -> None:
    if len(problems) == 1:
        raise DataError(f"data set {root}: {problems[0]}")
    if problems:
        raise DataError(
            f"data set {root} cannot be used, {len(problems)} problems:\n  " + "\n  ".join(problems)
        )


def open_dataset(
    root: Path | str, options: DataOptions = DataOptions(), *, known: DataSet | None = None
) -> DataSet:
    """List a data set, read every file once, and refuse a data set that cannot be right.

    Parameters
    ----------
    root : path
        Folder with ``images/``, ``masks/`` and an optional ``dataset.yaml``.
    options : DataOptions
        How to split.
    known : DataSet, optional
        As for `index_dataset`.

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
    dataset, pixels = _index(Path(root).absolute(), options, problems, look=True, known=known)
    notes = list(dataset.notes) + case_note(pixels)
    notes += duplicates(pixels, dataset.parts, problems)
    binary = [stem for stem, one in pixels.items() if one.binary]
    if binary:
        notes.append(
            "some masks are binary: in these, each connected component (8 neighbours) is taken as "
            f"one cell: {some(binary)}"
        )
    pieces = {stem: one.pieces for stem, one in pixels.items() if not one.binary}
    cells = read_objects(dataset.root, problems)
    notes += unknown_images(cells, {item.stem for item in dataset.items})
    problems += wrong_masks({item.stem: item.mask.name for item in dataset.items}, pieces)
    notes += pieces_note(pieces) + flat_note(pixels)
    if not problems:
        for name, stems in dataset.parts.items():
            if not any(pixels[stem].has_cells for stem in stems):
                where = name if dataset.folds and name != "test" else f"split {name}"
                problems.append(f"{where}: no mask contains a cell")
    if options.split == "groups":
        notes += sequence_note(pixels, {item.stem: item.group for item in dataset.items})
    if not problems:
        roles = {"train": dataset.trained, "val": dataset.validated, "test": dataset.subset("test")}
        shown = {name: [item.stem for item in items] for name, items in roles.items()}
        notes += bits_note(pixels) + size_notes(pixels, shown)
    _raise(dataset.root, problems)
    bits = tuple(sorted({one.bits for one in pixels.values()}))
    shapes = {stem: (one.shape[0], one.shape[1]) for stem, one in pixels.items()}
    return replace(dataset, notes=tuple(notes), bits=bits, shapes=shapes)


def _check(arguments: argparse.Namespace, command: str) -> int:
    try:
        options = DataOptions(
            split=arguments.split,
            split_seed=arguments.split_seed,
            gap_frames=arguments.gap_frames,
            folds=arguments.folds,
        )
    except ValidationError as error:
        one = error.errors()[0]
        where = "".join(f"{part}: " for part in one["loc"])
        raise DataError(where + one["msg"].removeprefix("Value error, ")) from error
    dataset = open_dataset(arguments.data, options)
    print(f"{dataset.root}: {len(dataset.items)} images can be used")
    group_of = {item.stem: item.group for item in dataset.items}
    for name, stems in dataset.parts.items():
        groups = sorted({group_of[stem] for stem in stems}, key=natural_key)
        print(f"  {name}: {len(stems)} images, groups {some(groups)}")
    size = dataset.pixel_size_um
    print(f"  pixel size: {f'{size} um' if size else 'not given (dataset.yaml: pixel_size_um)'}")
    print(f"  fingerprint: {dataset.fingerprint[:12]}")
    for note in (*dataset.notes, *few_groups_note(dataset.items, dataset.split, options)):
        print(f"  note: {note}")
    return cli.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = cli.Parser(prog="python -m trainables.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="show what a data set contains and what is wrong with it")
    check.add_argument("data", help="folder with images/ and masks/")
    check.add_argument(
        "--split",
        choices=["groups", "time_blocks"],
        default="groups",
        help="split whole groups (default), or cut each group into blocks of time",
    )
    check.add_argument(
        "--split-seed", type=int, default=0, help="seed for drawing the groups (default 0)"
    )
    check.add_argument(
        "--folds", type=int, help="deal the groups that are not for testing into this many folds"
    )
    check.add_argument("--gap-frames", type=int, help="frames to leave out between two time blocks")
    return cli.run(parser, _check, argv, refused=(DataError,))


def cached_index(root: str, options: DataOptions) -> DataSet:
    """Like `index_dataset`, but cached, for a worker process that runs many trials.

    Files that were written since are hashed again, as their sizes or times have changed.
    """
    return _cached_index(root, options, _files(Path(root)))


def _files(root: Path) -> frozenset[tuple[str, int, int]]:
    """Return path, size and time of change (ns) of all files that make a data set."""
    paths = [root / "dataset.yaml"]
    for name in ("images", "masks"):
        with contextlib.suppress(OSError):  # said by who lists them
            paths += (root / name).iterdir()
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            there = path.stat()
            found.add((str(path), there.st_size, there.st_mtime_ns))
    return frozenset(found)


@lru_cache(maxsize=4)
def _cached_index(
    root: str, options: DataOptions, files: frozenset[tuple[str, int, int]]
) -> DataSet:
    return index_dataset(root, options)
