"""Images without masks that all methods segment (``--unlabelled``): listed and checked first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.segment.inputs import Frame, InputError, list_frames
from trainables.data.dataset import SUFFIXES
from trainables.data.imagefiles import ImageFileError
from trainables.data.splits import natural_key, read_metadata


@dataclass(frozen=True)
class ImageSequence:
    """Frames of one or several fields; `Frame.sequence` is the field."""

    path: Path
    frames: tuple[Frame, ...]
    pixel_size_um: float | None
    """From dataset.yaml beside the images; None if there is none."""


def read_sequence(path: Path) -> ImageSequence:
    """List images without masks, and read each of them once.

    Parameters
    ----------
    path : Path
        A folder of images (one field), a folder of such folders (a field each), a TIFF stack
        (T, H, W), or a data set, whose groups are the fields.

    Raises
    ------
    InputError
        When a file is not a greyscale image of 8 or 16 bit or is damaged, or there is none; the
        message names every such file.
    """
    frames = list_frames(_fields(path), films=True)
    problems = []
    for frame in frames:  # better now than after an hour
        try:
            frame.read()
        except (ImageFileError, OSError) as error:
            problems.append(f"{frame.path}: {error}")
    if problems:
        raise InputError("; ".join(problems[:20]))
    return ImageSequence(path, tuple(frames), _pixel_size(path))


def _fields(path: Path) -> list[Path]:
    """Return the folders with images in a folder that has none itself; otherwise the path."""
    if not path.is_dir() or _has_images(path) or (path / "images").is_dir():
        return [path]
    inside = sorted(path.iterdir(), key=lambda one: natural_key(one.name))
    return [one for one in inside if one.is_dir() and _has_images(one)] or [path]


def _has_images(folder: Path) -> bool:
    return any(
        one.suffix.lower() in SUFFIXES and one.is_file() and not one.name.startswith(".")
        for one in folder.iterdir()
    )


def _pixel_size(path: Path) -> float | None:
    for root in (path, path.parent):
        if (root / "images").is_dir() and (root / "dataset.yaml").is_file():
            problems: list[str] = []
            known = read_metadata(root, problems)
            if problems:
                raise InputError(f"{root}: {'; '.join(problems)}")
            return known.pixel_size_um
    return None
