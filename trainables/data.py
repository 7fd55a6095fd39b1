"""Data sets: a folder of images and label images, checked before anything is trained.

Command line: ``python -m trainables.data check DATA`` prints what a data set holds, and every
reason why it cannot be used.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainables.config import Normalization
from trainables.imagefiles import ImageFileError, read_image, read_labels

SPLITS = ("train", "val", "test")
SUFFIXES = (".tif", ".tiff", ".png")


class DataError(ValueError):
    """A data set that cannot be used; the message lists every offending file."""


class DataOptions(BaseModel):
    """How the images of a data set are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["groups", "time_blocks"] = "groups"
    """``groups``: whole groups go to one side; ``time_blocks``: each group is cut in three
    consecutive blocks of frames, in the natural order of names."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the drawing of groups; not used where dataset.yaml gives the split."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for validation; at least one."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for testing; at least one."""


class _Metadata(BaseModel):
    """Contents of dataset.yaml."""

    model_config = ConfigDict(extra="forbid")

    pixel_size_um: Annotated[float, Field(gt=0)] | None = None
    groups: dict[str, str] = {}
    split: dict[Literal["train", "val", "test"], list[str]] | None = None


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


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which ``t2`` comes before ``t10``."""
    return [(0, int(p)) if p.isdigit() else (1, p) for p in re.split(r"(\d+)", text) if p]


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
        elif path.stem in found:
            problems.append(f"{name}: same stem as {found[path.stem].name}; keep one of them")
        else:
            found[path.stem] = path
    if not found:
        problems.append(f"{folder.name}/: holds no TIFF or PNG file")
    return found


def _metadata(root: Path, problems: list[str]) -> _Metadata:
    path = root / "dataset.yaml"
    if not path.exists():
        return _Metadata()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"dataset.yaml: not valid YAML: {' '.join(str(error).split())}")
        return _Metadata()
    if not isinstance(content, dict):
        problems.append("dataset.yaml: must be a mapping with pixel_size_um, groups, split")
        return _Metadata()
    if isinstance(content.get("groups"), dict):  # YAML reads names such as 007 as numbers
        content["groups"] = {str(k): str(v) for k, v in content["groups"].items()}
    if isinstance(content.get("split"), dict):
        content["split"] = {
            key: [str(v) for v in value] if isinstance(value, list) else value
            for key, value in content["split"].items()
        }
    try:
        return _Metadata.model_validate(content)
    except ValidationError as error:
        for one in error.errors():
            where = ".".join(str(part) for part in one["loc"])
            problems.append(f"dataset.yaml: {where}: {one['msg'].lower()}")
        return _Metadata()


def _draw_split(groups: Sequence[str], options: DataOptions) -> dict[str, list[str]]:
    order = [str(g) for g in np.random.default_rng(options.split_seed).permutation(sorted(groups))]
    n_val = max(1, round(options.val_fraction * len(order)))
    n_test = max(1, round(options.test_fraction * len(order)))
    return {
        "train": order[n_val + n_test :],
        "val": order[:n_val],
        "test": order[n_val : n_val + n_test],
    }


def _time_blocks(
    members: Mapping[str, list[str]], options: DataOptions
) -> tuple[dict[str, list[str]], list[str]]:
    """Cut each group's frames into three consecutive blocks."""
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    short = []
    for group, stems in members.items():
        n_val = max(1, round(options.val_fraction * len(stems)))
        n_test = max(1, round(options.test_fraction * len(stems)))
        n_train = len(stems) - n_val - n_test
        if n_train < 1:
            short.append(f"group {group}: {len(stems)} frames cannot be cut in three time blocks")
            continue
        split["train"] += stems[:n_train]
        split["val"] += stems[n_train : n_train + n_val]
        split["test"] += stems[n_train + n_val :]
    return split, short


_TIME_BLOCKS_HINT = (
    "divide further sequences or fields into groups of their own, or cut the sequence into "
    "blocks of time with --set split=time_blocks"
)


def _split(
    stems: Sequence[str], meta: _Metadata, options: DataOptions, problems: list[str]
) -> dict[str, tuple[str, ...]]:
    """Decide which stems are for training, validation and testing."""
    group_of = {stem: meta.groups.get(stem, stem) for stem in stems}
    unknown = sorted(set(meta.groups) - set(stems), key=natural_key)
    if unknown:
        problems.append(f"dataset.yaml: groups names images that are not there: {_some(unknown)}")
    members: dict[str, list[str]] = {}
    for stem in stems:
        members.setdefault(group_of[stem], []).append(stem)

    if options.split == "time_blocks":
        if not meta.groups:  # one field unless said otherwise
            members = {"all images": list(stems)}
        by_stem, short = _time_blocks(members, options)
        problems += short
        return {name: tuple(by_stem[name]) for name in SPLITS}
    if meta.split is None:
        if len(members) < 3:
            problems.append(
                f"{len(stems)} images form {len(members)} group(s) ({_some(list(members))}): a "
                "split into train, val and test needs at least 3 groups, since images of one "
                f"group are not independent; {_TIME_BLOCKS_HINT}"
            )
            return dict.fromkeys(SPLITS, ())
        by_group = _draw_split(list(members), options)
    else:
        by_group = {name: meta.split.get(name, []) for name in SPLITS}  # type: ignore[call-overload]
        problems += _split_problems(by_group, members)
    sides = {g: name for name in SPLITS for g in by_group[name]}
    return {
        name: tuple(stem for stem in stems if sides.get(group_of[stem]) == name) for name in SPLITS
    }


def _split_problems(by_group: Mapping[str, list[str]], members: Mapping[str, Any]) -> list[str]:
    problems = []
    seen: dict[str, str] = {}
    for name in SPLITS:
        if not by_group[name]:
            problems.append(f"dataset.yaml: split.{name} is empty; name at least one group")
        for group in by_group[name]:
            if group not in members:
                problems.append(f"dataset.yaml: split.{name} names a group without images: {group}")
            if seen.setdefault(group, name) != name:
                problems.append(
                    f"dataset.yaml: group {group} is on both sides of the split: "
                    f"{seen[group]} and {name}"
                )
    return problems


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class _Pixels:
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


def _inspect(stem: str, image: Path, mask: Path, problems: list[str]) -> _Pixels | None:
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
    return _Pixels(
        pixels.shape, digest, _thumbnail(pixels), bool(labels.labels.any()), labels.was_binary
    )


def _duplicates(
    pixels: Mapping[str, _Pixels], split: Mapping[str, Sequence[str]], problems: list[str]
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


def _sequence_note(pixels: Mapping[str, _Pixels]) -> list[str]:
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


def _fingerprint(
    root: Path, items: Sequence[Item], split: Mapping[str, Sequence[str]], meta: _Metadata
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


def index_dataset(root: Path | str, options: DataOptions = DataOptions()) -> DataSet:
    """List a data set and its split, with its fingerprint, without looking at pixels.

    Parameters
    ----------
    root : path
        Folder with ``images/``, ``masks/`` and an optional ``dataset.yaml``.
    options : DataOptions
        How to split.

    Returns
    -------
    DataSet

    Raises
    ------
    DataError
        For everything that file names and dataset.yaml alone show to be wrong.
    """
    problems: list[str] = []
    dataset = _index(Path(root).absolute(), options, problems)
    _raise(dataset.root, problems)
    return dataset


def _index(root: Path, options: DataOptions, problems: list[str]) -> DataSet:
    if not root.is_dir():
        raise DataError(f"data set {root}: no such folder")
    meta = _metadata(root, problems)
    images, masks = _listing(root / "images", problems), _listing(root / "masks", problems)
    if images and masks:
        for stem in sorted(set(images) - set(masks), key=natural_key):
            problems.append(f"images/{images[stem].name}: orphan, no mask masks/{stem}.*")
        for stem in sorted(set(masks) - set(images), key=natural_key):
            problems.append(f"masks/{masks[stem].name}: orphan, no image images/{stem}.*")
    stems = sorted(set(images) & set(masks), key=natural_key)
    before = len(problems)
    split = _split(stems, meta, options, problems) if stems else dict.fromkeys(SPLITS, ())
    if stems and len(problems) == before:
        problems += [
            f"split {name} is empty: none of its groups has an image"
            for name in SPLITS
            if not split[name]
        ]
    items = tuple(Item(s, images[s], masks[s], meta.groups.get(s, s)) for s in stems)
    unused = [s for s in stems if not any(s in split[name] for name in SPLITS)]
    notes = []
    if unused and not problems:
        notes.append(f"{len(unused)} images belong to no split and are not used: {_some(unused)}")
    return DataSet(
        root=root,
        items=items,
        split=split,
        pixel_size_um=meta.pixel_size_um,
        fingerprint=_fingerprint(root, items, split, meta),
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
    pixels: dict[str, _Pixels] = {}
    for item in dataset.items:
        one = _inspect(item.stem, item.image, item.mask, problems)
        if one is not None:
            pixels[item.stem] = one
    notes = list(dataset.notes)
    notes += _duplicates(pixels, dataset.split, problems)
    binary = [stem for stem, one in pixels.items() if one.binary]
    if binary:
        notes.append(
            f"{len(binary)} masks are binary: their connected components (8 neighbours) are taken "
            f"as cells: {_some(binary)}"
        )
    if not problems:
        for name in SPLITS:
            if not any(pixels[stem].has_cells for stem in dataset.split[name]):
                problems.append(f"split {name}: no mask holds any cell")
    if all(item.group == item.stem for item in dataset.items) and options.split == "groups":
        notes += _sequence_note(pixels)
    _raise(dataset.root, problems)
    return replace(dataset, notes=tuple(notes))


def _check(arguments: argparse.Namespace) -> int:
    options = DataOptions(split=arguments.split, split_seed=arguments.split_seed)
    dataset = open_dataset(arguments.data, options)
    print(f"{dataset.root}: {len(dataset.items)} images can be used")
    for name in SPLITS:
        groups = sorted({item.group for item in dataset.subset(name)}, key=natural_key)
        print(f"  {name}: {len(dataset.split[name])} images, groups {_some(groups)}")
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
