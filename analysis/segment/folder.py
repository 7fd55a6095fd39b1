"""Segment one image after another: which files each one gets, and which ones are done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from analysis.segment.inputs import Frame, InputError
from analysis.segment.tracks import MAX_GAP
from trainables.data.imagefiles import ImageFileError
from trainables.records.files import write_json, write_with
from trainables.records.manifest import library_versions
from trainables.tiling import WHOLE, Inference, chosen_inference

if TYPE_CHECKING:
    from analysis.segment.model import Choice, Segmenter

SETTINGS = "settings.json"
FORMAT = 1
FOLDERS = ("labels", "binary", "overlays", "rois", "parts", "tracked")
FUSED = "fused"
"""Folder of the label images before fused cells were split."""
BROKEN = (ImageFileError, ValueError, LookupError, ArithmeticError)
"""Errors of a single image, which do not stop the others."""
_OPTIONS = {
    "overlays": "--no-overlays",
    "rois": "--no-rois",
    "frame_interval_s": "--frame-interval",
    "split": "--no-split",
}
_TRACKING = ("max_distance", "max_gap", "split")
"""Options without effect unless cells are tracked."""


@dataclass(frozen=True)
class Options:
    """Options for all images."""

    convention: str = "trackmate"
    pixel_size_um: float | None = None
    frame_interval_s: float | None = None
    flips: bool = False
    tile: str = "auto"
    """``auto`` (as the model's checkpoint says), ``whole``, or the side of tiles in pixels."""
    overlays: bool = True
    rois: bool = True
    track: bool = False
    max_distance: float | None = None
    """In pixels; None means that it is estimated from the cells."""
    max_gap: int = MAX_GAP
    split: bool = True
    """Whether fused cells are split when cells are tracked."""


def segment_frame(out: Path, frame: Frame, options: Options, segmenter: Segmenter) -> int:
    """Segment one image, measure its cells, and write all its files.

    The table in ``parts`` is written last, so an image that has one is done.

    Parameters
    ----------
    out : Path
    frame : Frame
    options : Options
    segmenter : Segmenter

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    ImageFileError
        When the image cannot be read.
    OSError
        When something cannot be written.
    """
    image = frame.read()
    labels = segmenter(image)
    for path in originals(out, frame):
        path.unlink(missing_ok=True)
    return write_cells(out, frame, options, image, labels, segmenter.predictor.normalize)


def write_cells(
    out: Path,
    frame: Frame,
    options: Options,
    image: NDArray[Any],
    labels: NDArray[np.int32],
    normalize: Callable[[NDArray[Any]], NDArray[np.float32]],
) -> int:
    """Measure the cells of one image, and write all its files, the table in ``parts`` last.

    Parameters
    ----------
    out : Path
    frame : Frame
    options : Options
    image : (H, W) array
        Raw intensities.
    labels : (H, W) int32 array
        Label image.
    normalize : callable
        Scales raw intensities for the overlay.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    OSError
        When something cannot be written.
    """
    from analysis.formats.imagej import write_binary, write_labels, write_rois
    from analysis.formats.overlay import write_overlay
    from analysis.morphology.border import border_labels
    from analysis.morphology.features import measure
    from analysis.morphology.intensities import measure_intensities

    features = measure(labels, convention=options.convention, pixel_size_um=options.pixel_size_um)
    table = pd.concat([features, measure_intensities(image, labels, features)], axis=1)
    table.insert(0, "image", frame.name)
    table.insert(1, "sequence", frame.sequence)
    table.insert(2, "frame", frame.number)
    table["at_border"] = table["label"].isin(border_labels(labels))
    write_labels(labels, out / "labels" / f"{frame.name}.tif")
    write_binary(labels, out / "binary" / f"{frame.name}.png")
    if options.overlays:
        write_overlay(normalize(image), labels, out / "overlays" / f"{frame.name}.png")
    if options.rois:
        position = frame.time if frame.page is None else frame.page
        write_rois(labels, out / "rois" / f"{frame.name}.zip", position=position)
    write_with(part_of(out, frame), lambda path: table.to_parquet(path, index=False))
    return len(table)


def part_of(out: Path, frame: Frame) -> Path:
    """Return the path of the table of an image's cells."""
    return out / "parts" / f"{frame.name}.parquet"


def originals(out: Path, frame: Frame) -> tuple[Path, Path]:
    """Return the paths of the label image and the table that an image had before it was split.

    They exist only for images in which fused cells were split; the label image is written last.
    """
    folder = out / FUSED
    return folder / f"{frame.name}.tif", folder / f"{frame.name}.parquet"


def is_done(out: Path, frame: Frame, options: Options) -> bool:
    """Say whether all files of an image were written and still exist."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [out / "labels" / f"{frame.name}.tif", out / "binary" / f"{frame.name}.png"]
    if options.overlays:
        wanted.append(out / "overlays" / f"{frame.name}.png")
    if options.rois:
        wanted.append(out / "rois" / f"{frame.name}.zip")
    if not all(path.is_file() for path in wanted):
        return False
    try:
        pq.read_metadata(part_of(out, frame))
    except (OSError, pa.ArrowInvalid):
        return False
    return True


def tables_are_there(out: Path, frames: Sequence[Frame], options: Options) -> bool:
    """Say whether the tables of all images together exist."""
    wanted = [out / "objects.csv", out / "objects_plain.csv"]
    if options.track:
        wanted += [out / "tracks.csv", *(out / "tracked" / f"{f.name}.tif" for f in frames)]
    return all(path.is_file() for path in wanted)


def segment_here(
    out: Path,
    frames: Sequence[Frame],
    options: Options,
    choice: Choice,
    *,
    device: str = "auto",
    tick: Callable[[Frame], None] = lambda frame: None,
) -> dict[str, str]:
    """Segment images in this process, one at a time.

    Parameters
    ----------
    out : Path
    frames : sequence of Frame
        The images that are not done yet.
    options : Options
    choice : Choice
        The model.
    device : str
        See `Segmenter`.
    tick : callable
        Called after every image.

    Returns
    -------
    dict
        Reason by name, for every image that could not be segmented.
    """
    unreadable: dict[str, str] = {}
    if not frames:
        return unreadable
    from analysis.segment.model import Segmenter

    with Segmenter(choice, tile=options.tile, flips=options.flips, device=device) as segmenter:
        for frame in frames:
            try:
                segment_frame(out, frame, options, segmenter)
            except BROKEN as error:
                unreadable[frame.name] = f"{frame.path}: {error}"
            tick(frame)
    return unreadable


def request_of(choice: Choice, frames: Sequence[Frame], options: Options) -> dict[str, Any]:
    """Return everything that determines the results; a folder contains those of one request."""
    return {
        "model": {
            "weights": choice.weights,
            "parameters": choice.parameters,
            "give_back_gap": choice.give_back_gap,
        },
        "inference": chosen_inference(choice.inference, options.tile).state(),
        # `inference` already contains what `tile` means
        "options": {k: v for k, v in asdict(options).items() if k != "tile"},
        "images": [
            {"name": f.name, "sequence": f.sequence, "number": f.number, **f.identity()}
            for f in frames
        ],
    }


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Lock a folder so that no other process writes into it.

    Raises
    ------
    InputError
        When another process has locked it.
    """
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another process is writing into this folder; wait for it, or choose another "
            "--out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_folder(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings stored in a folder; None if it has none yet.

    Raises
    ------
    InputError
        When the folder contains other files, or the results of another request.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if not (out / SETTINGS).is_file():
        if any(path.name != ".lock" and not _is_half_written(path) for path in out.iterdir()):
            raise InputError(f"{out} already contains other files; give a new folder with --out")
        return None
    try:
        settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
        before = settings["request"]
        if settings["format"] != FORMAT:
            raise ValueError(f"format {settings['format']}, but this version reads {FORMAT}")
        difference = _difference(before, request, out)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out / SETTINGS} cannot be read ({error!r}); choose another --out"
        ) from error
    if difference and any((out / "parts").glob("*.parquet")):
        raise InputError(
            f"{out} already contains results of another request ({difference}); choose another "
            "--out"
        )
    return None if difference else dict(settings)


def _is_half_written(path: Path) -> bool:
    """Whether a file may be left over from a killed process; `remove_half_written` removes it."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _difference(before: dict[str, Any], now: dict[str, Any], out: Path) -> str:
    now = json.loads(json.dumps(now))
    if before["model"]["weights"] != now["model"]["weights"]:
        return f"made with another model, whose weights are {before['model']['weights'][:12]}"
    if before["model"] != now["model"]:
        return "made with other parameters of the same model: was it calibrated since?"
    there = Inference(**before.get("inference", WHOLE.state()))
    here = Inference(**now["inference"])
    if there != here:
        return f"--tile was {there}, is now {here}"
    for name, value in now["options"].items():
        if name in _TRACKING and not now["options"]["track"]:
            continue
        if before["options"].get(name) != value:
            option = _OPTIONS.get(name, f"--{name.removesuffix('_s').replace('_', '-')}")
            values = [before["options"].get(name), value]
            if option.startswith("--no-"):
                values = [not value for value in values]
            return f"{option} was {values[0]}, is now {values[1]}"
    return _other_images(before["images"], now["images"], out)


def _other_images(there: list[dict[str, Any]], here: list[dict[str, Any]], out: Path) -> str:
    if len(there) != len(here):
        return f"it had {len(there)} images, now there are {len(here)}"
    for one, other in zip(_in_order(there), _in_order(here)):
        if one != other:
            changed = {k: v for k, v in one.items() if other[k] != v}
            part = out / "parts" / f"{one['name']}.parquet"
            if changed.keys() <= {"bytes", "modified"} and not part.is_file():
                continue  # repaired before it was ever used
            if "sequence" in changed and "path" not in changed:
                return f"image {other['name']} belonged to sequence {one['sequence']}"
            what = "has changed since" if "path" not in changed else f"was {one['path']}"
            return f"image {other['name']} {what}"
    return ""


def _in_order(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # earlier versions kept paths and order as they were given
    there = [{**one, "path": str(Path(one["path"]).resolve())} for one in images]
    return sorted(there, key=lambda one: (one["path"], one["page"] or 0))


def write_settings(
    out: Path, request: dict[str, Any], choice: Choice, command: str, **more: Any
) -> None:
    """Write `SETTINGS`: the request, and everything needed to repeat it."""
    from analysis.instances.methods import way_of

    content = {
        "format": FORMAT,
        "command": command,
        "model": {
            "checkpoint": str(choice.checkpoint),
            "chosen": choice.why,
            "candidate": choice.config.candidate,
            "way": way_of(choice.config),
            "parameters": choice.parameters,
            "calibrated": choice.calibrated,
            "pixel_size_um": choice.pixel_size_um,
        },
        **more,
        "versions": library_versions("scikit-image", "laptrack", "roifile"),
        "request": request,
    }
    write_json(out / SETTINGS, content)


def remove_half_written(out: Path) -> None:
    """Remove half-written files of a killed process."""
    for folder in (out, *(out / name for name in (*FOLDERS, FUSED))):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
