"""Images to segment: files, folders and stacks, read one frame at a time."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from analysis.segment.skipped import Skipped, why_not
from trainables.data.dataset import SUFFIXES
from trainables.data.imagefiles import ImageFileError, check_size, read_image
from trainables.data.listing import shown, wrong_name
from trainables.data.splits import Metadata, natural_key, read_metadata

# Errors that decoders raise on damaged files; sizes and counts in a header may be anything.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


LONGEST_NAME = 200
"""Bytes; file systems allow 255, and temporary files need some of them."""


MOST_CHANNELS = 4
"""Most channels of a single image; a longer axis is taken for time."""


class InputError(ValueError):
    """Images that cannot be segmented; the message lists every offending file."""


@dataclass(frozen=True)
class Frame:
    """One image of a sequence."""

    name: str
    """Name of the files written for it; unique in a request."""
    path: Path
    page: int | None
    """Page of a stack; None for a file with a single image."""
    sequence: str
    number: int
    """Position in its sequence, from 0."""
    shape: tuple[int, int]
    timed: bool = False
    """Whether the sequence is known to be a time-lapse."""

    @property
    def time(self) -> int | None:
        """Position in time, in frames; None for an independent image."""
        return self.number if self.timed else None

    def read(self) -> NDArray[Any]:
        """Read the pixels: (H, W), 8 or 16 bit.

        Raises
        ------
        trainables.data.imagefiles.ImageFileError
            When the file cannot be read.
        """
        if self.page is None:
            return read_image(self.path)
        try:
            with tifffile.TiffFile(self.path) as tiff:
                plane = _plane(tiff, self.page)
        except _DAMAGED as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise ImageFileError(
                f"page {self.page} cannot be read ({reason}); is the file damaged?"
            ) from error
        if plane.shape != self.shape:
            raise ImageFileError(f"page {self.page} has shape {plane.shape}, not {self.shape}")
        return plane.astype(plane.dtype.newbyteorder("="), copy=False)

    def identity(self) -> dict[str, Any]:
        """Return what shows whether the file has changed, whatever path leads to it."""
        stat = self.path.stat()
        return {
            "path": str(self.path.resolve()),
            "page": self.page,
            "bytes": stat.st_size,
            "modified": stat.st_mtime_ns,
        }


def _plane(tiff: tifffile.TiffFile, page: int) -> NDArray[Any]:
    if len(tiff.pages) > 1:
        return np.asarray(tiff.pages[page].asarray())
    # stacks that ImageJ wrote hold one page and the rest as raw bytes: mapped, not read
    stack = tifffile.memmap(tiff.filehandle.path, mode="r")
    return np.array(stack.reshape(-1, *stack.shape[-2:])[page])


def list_frames(
    inputs: Sequence[Path], *, films: bool = False, skipped: Skipped | None = None
) -> list[Frame]:
    """List the frames of files, folders and stacks, without reading pixels.

    Parameters
    ----------
    inputs : sequence of Path
        TIFF and PNG files, TIFF stacks of shape (T, H, W), and folders of files, in any order.
        Every folder and every stack is a sequence, in the natural order of names; single files
        from one folder also form a sequence. In a data set (its folder, its ``images/`` or files
        there) the groups of dataset.yaml are the sequences, and an image without a group is a
        sequence of its own.
    films : bool
        Whether folders are time-lapses. Otherwise only stacks, groups of several images, and
        folders of a data set with a frame interval are known to be time-lapses.
    skipped : Skipped, optional
        Collects the files in folders that are not images.

    Returns
    -------
    list of Frame
        The same list for the same files, whatever their paths and order.

    Raises
    ------
    InputError
        When a file is not a greyscale image of 8 or 16 bit, or there is no image.
    """
    problems: list[str] = []
    skipped = Skipped() if skipped is None else skipped
    listing = _Listing(problems, films)
    seen: dict[Path, Path] = {}
    for path in _files(inputs, problems, skipped):
        first = seen.setdefault(path.resolve(), path)
        if first is not path:  # a link to it, or a file and its folder were given
            if first.name != path.name:
                skipped.add(path, f"the same file as {first.name}")
            continue
        if wrong := wrong_name(path.name):
            problems.append(f"{shown(str(path))}: {wrong}; rename the file")
            continue
        try:
            listing.add(path, *_describe(path))
        except (ImageFileError, OSError) as error:
            problems.append(f"{path}: {error}")
    if not problems and not listing.frames:
        problems.append("no image was given; name files or folders")
    if problems:
        raise InputError("; ".join(problems[:20]))
    return listing.sorted()


class _Listing:
    """The frames found so far, with names and sequences that no two of them share by chance."""

    def __init__(self, problems: list[str], films: bool) -> None:
        self.problems, self.groups = problems, _Groups(problems, films)
        self.frames: list[Frame] = []
        # of folders, stacks and groups, which may have equal names
        self.sequences: dict[tuple[Path, str], str] = {}
        self.counts: dict[str, int] = {}
        self.taken: set[str] = set()

    def add(self, path: Path, pages: int | None, shape: tuple[int, int]) -> None:
        """Add a file's frames; `pages` is None for a file that holds one image."""
        stack, folder = pages is not None, _folder(path)
        sequence = self._sequence(path, folder, stack)
        timed = stack or self.groups.timed(folder, path.stem)
        for page in range(pages or 1):
            number = self.counts.get(sequence, 0)
            self.counts[sequence] = number + 1
            name = _free(f"{path.stem}_t{page:04d}" if stack else path.stem, self.taken)
            self.taken.add(name)
            if len(name.encode()) > LONGEST_NAME:
                self.problems.append(
                    f"{path}: its name is longer than {LONGEST_NAME} bytes; rename it"
                )
                break
            place = page if stack else None
            self.frames.append(Frame(name, path, place, sequence, number, shape, timed))

    def _sequence(self, path: Path, folder: Path, stack: bool) -> str:
        group = "" if stack else self.groups.of(folder, path.stem)
        key = (path.resolve() if stack else folder, group)
        if key not in self.sequences:
            base = path.stem if stack else group or folder.name or "images"
            self.sequences[key] = _free(base, set(self.sequences.values()))
        return self.sequences[key]

    def sorted(self) -> list[Frame]:
        """Return whole sequences, in the order in which they were found."""
        order = {sequence: place for place, sequence in enumerate(self.counts)}
        frames = sorted(self.frames, key=lambda frame: order[frame.sequence])
        return [replace(f, timed=f.timed and self.counts[f.sequence] > 1) for f in frames]


class _Groups:
    """Which images of data sets belong together according to dataset.yaml."""

    def __init__(self, problems: list[str], films: bool) -> None:
        self._problems, self._films = problems, films
        self._known: dict[Path, Metadata] = {}

    def _metadata(self, folder: Path) -> Metadata:
        if folder not in self._known:
            found: list[str] = []
            known = Metadata()
            if folder.name == "images" and (folder.parent / "dataset.yaml").is_file():
                known = read_metadata(folder.parent, found)
            self._known[folder] = known
            self._problems += [f"{folder.parent}: {problem}" for problem in found]
        return self._known[folder]

    def of(self, folder: Path, stem: str) -> str:
        """Return an image's group: its own name if only others have a group, '' if none has."""
        groups = self._metadata(folder).groups
        return groups.get(stem, stem) if groups else ""

    def timed(self, folder: Path, stem: str) -> bool:
        """Say whether an image belongs to a time-lapse, unless it is alone in its sequence."""
        known = self._metadata(folder)
        return stem in known.groups or self._films or known.frame_interval_s is not None


def _free(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _folder(path: Path) -> Path:
    return path.absolute().parent.resolve()


def _images_in(folder: Path, skipped: Skipped) -> list[Path]:
    images = []
    for path in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            images.append(path)
        else:
            skipped.add_other(path)
    return images


def _of_folder(path: Path, problems: list[str], skipped: Skipped) -> list[Path]:
    others = Skipped()
    try:
        files = _images_in(path, others)
        if not files and (path / "images").is_dir():  # a data set
            others = Skipped()
            files = _images_in(path / "images", others)
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return []
    if not files:
        held = others.by_reason()
        what = "no TIFF or PNG file in this folder"
        problems.append(f"{path}: {what}" + (f", only {held}" if held else ""))
    skipped.update(others)
    return files


def _files(inputs: Sequence[Path], problems: list[str], skipped: Skipped) -> list[Path]:
    """Return all files in an order that does not depend on that of `inputs`."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files += _of_folder(path, problems, skipped)
        elif not path.exists():
            problems.append(f"{path}: no such file or folder")
        elif path.suffix.lower() not in SUFFIXES:
            problems.append(f"{path}: not a TIFF or PNG file; {why_not(path)}")
        else:
            files.append(path)
    return sorted(files, key=lambda p: (natural_key(str(_folder(p))), natural_key(p.name)))


def _describe(path: Path) -> tuple[int | None, tuple[int, int]]:
    """Return the number of pages of a stack (None for a single image) and their shape."""
    if path.suffix.lower() == ".png":
        image = read_image(path)
        return None, (image.shape[0], image.shape[1])
    try:
        with tifffile.TiffFile(path) as tiff:
            shape, axes, dtype = _content(tiff)
    except ImageFileError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageFileError(f"cannot be read ({reason}); is the file damaged?") from error
    for side, axis in zip(shape, axes):
        # programs that know no axes call the images of a sequence channels
        if (axis == "S" and side > 1) or (axis == "C" and 1 < side <= MOST_CHANNELS):
            raise ImageFileError(
                f"{side} channels or colours; save it in greyscale, with one channel (a time-lapse "
                "with axes TYX)"
            )
    shape = tuple(int(side) for side in shape if side != 1)
    if dtype is None or dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ImageFileError(f"pixels of type {dtype}; save it as unsigned 8 or 16 bit")
    check_size(shape[-2:])
    if len(shape) == 2:
        return None, (shape[0], shape[1])
    if len(shape) == 3:
        return shape[0], (shape[1], shape[2])
    raise ImageFileError(
        f"image of shape {shape}; save one image (H, W) or a stack (T, H, W), with one channel"
    )


def _content(tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], str, Any]:
    """Return shape, axes and type of a file's images; refuse files whose content would be lost."""
    first = tiff.series[0]
    page = tiff.pages.first
    if page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.PALETTE):
        raise ImageFileError("colour image; save it in greyscale, with one channel")
    promised = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
    held = int(np.prod(first.shape[:-2]))
    if promised > held:
        raise ImageFileError(
            f"contains {held} of its {promised} images; was it cut short? copy it again"
        )
    if len(tiff.series) == 1:
        return tuple(first.shape), first.axes, first.dtype
    # written page by page: each is a series of its own
    shapes = sorted({f"{s.shape} {s.dtype}" for s in tiff.series})
    if len(shapes) > 1 or len(first.shape) != 2:
        raise ImageFileError(
            f"contains images of different kinds ({', '.join(shapes)}); save each in its own file"
        )
    return (len(tiff.series), *first.shape), "I" + first.axes, first.dtype
