"""Segment new images: ``python -m analysis.segment --model MODEL IMAGES... --out DIR``."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.places import PlaceError, folder, local, reached
from analysis.runfolder import AnalysisError
from analysis.segment.folder import (
    FOLDERS,
    Options,
    check_folder,
    held,
    is_done,
    remove_half_written,
    request_of,
    segment_here,
    tables_are_there,
    write_settings,
)
from analysis.segment.inputs import Frame, InputError, list_frames
from analysis.segment.likeness import likeness_warning, size_warning
from analysis.segment.model import Segmenter, choose_model, normalizer, segment
from analysis.segment.sizes import size_note
from analysis.segment.skipped import Skipped
from analysis.segment.tracks import MAX_GAP
from trainables.cli import DONE, FAILED, Parser, run
from trainables.errors import CheckpointError, OutOfMemory, TrainingError
from trainables.machine.cores import keep_to_quota
from trainables.tiling import Inference, chosen_inference

if TYPE_CHECKING:
    from analysis.segment.model import Choice

__all__ = ["Segmenter", "main", "segment"]

CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, not {text}")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {value}")
    return value


def _tile(text: str) -> str:
    try:
        chosen_inference(Inference(), text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


# Long: the list of the options.
def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m analysis.segment",
        description="Segment new images with a trained network; measure, export and track cells.",
    )
    add = parser.add_argument
    add(
        "images",
        metavar="IMAGES",
        nargs="+",
        type=local,
        help="TIFF and PNG files, TIFF stacks, or folders of them; each stack is a time-lapse; "
        "with --track or --frame-interval each folder is one too (or each group, in a data set "
        "whose dataset.yaml lists groups)",
    )
    add(
        "--model",
        required=True,
        type=folder,
        help="a checkpoint (runs/demo/checkpoints/TRIAL), or a sweep (runs/demo) to use its best "
        "network",
    )
    add("--out", required=True, type=local, metavar="DIR", help="folder for the results")
    add(
        "--pixel-size-um",
        type=_positive,
        metavar="UM",
        help="side of a pixel in micrometres (default: results are in pixels)",
    )
    add(
        "--frame-interval",
        type=_positive,
        metavar="S",
        help="seconds between the images of a time-lapse (default: times are in frames)",
    )
    add(
        "--convention",
        choices=CONVENTIONS,
        default="trackmate",
        help="measure cells as TrackMate, ImageJ or scikit-image does; trackmate_raw: without "
        "simplified outlines (default: trackmate)",
    )
    add("--track", action="store_true", help="track cells through each time-lapse")
    add(
        "--max-distance",
        type=_positive,
        metavar="PIXELS",
        help="how far a cell may move between two images (default: three times the 95th "
        "percentile of the steps between nearest cells)",
    )
    add(
        "--max-gap",
        type=_count,
        metavar="N",
        help=f"for how many images in a row a tracked cell may be missing (default: {MAX_GAP})",
    )
    add(
        "--no-split",
        action="store_true",
        help="with --track: leave objects whole that the image before shows as several cells",
    )
    add(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|whole|N",
        help="predict whole images, or tiles of N pixels (default: as in the model's validation)",
    )
    add("--flips", action="store_true", help="average over mirror images (four times slower)")
    add("--no-overlays", action="store_true", help="do not write pictures of the outlines")
    add("--no-rois", action="store_true", help="do not write ImageJ ROIs")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="processor to use (default: auto, a GPU if there is one)",
    )
    add("--address", help="Ray cluster that shares the work: auto, or host:port")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    if not arguments.track:
        for name in ("max_distance", "max_gap"):
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} works only with --track; add --track")
        if arguments.no_split:
            raise InputError("--no-split works only with --track; add --track")
    if arguments.address and arguments.device != "auto":
        raise InputError(
            "--device does not work with --address (a cluster uses its GPUs if it has any); remove "
            "one of them"
        )
    return Options(
        convention=arguments.convention,
        pixel_size_um=arguments.pixel_size_um,
        frame_interval_s=arguments.frame_interval,
        flips=arguments.flips,
        tile=arguments.tile,
        overlays=not arguments.no_overlays,
        rois=not arguments.no_rois,
        track=arguments.track,
        max_distance=arguments.max_distance,
        max_gap=MAX_GAP if arguments.max_gap is None else arguments.max_gap,
        split=not arguments.no_split,
    )


def _check(arguments: argparse.Namespace, frames: Sequence[Frame], out: Path) -> None:
    if arguments.track:
        counts: dict[str, int] = {}
        for frame in frames:
            counts[frame.sequence] = counts.get(frame.sequence, 0) + 1
        if max(counts.values()) < 2:
            raise InputError(
                "--track needs a time-lapse of at least two images: give a folder, a stack, or a "
                "data set with groups"
            )
    for path in arguments.images:
        if path.is_dir() and out.resolve() == path.resolve():
            raise InputError(f"{out} is the folder of the images; give another folder with --out")
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no GPU here; remove it to use the CPU")
    if arguments.address:
        from analysis.cluster import check_address

        check_address(arguments.address)


def _run(arguments: argparse.Namespace, command: str) -> int:
    out = arguments.out.absolute()
    options = _options(arguments)
    skipped = Skipped()
    films = options.track or options.frame_interval_s is not None
    frames = list_frames(arguments.images, films=films, skipped=skipped)
    _check(arguments, frames, out)
    choice = choose_model(reached(arguments.model))
    request = request_of(choice, frames, options)
    settings = check_folder(out, request)
    if skipped.files:
        print(f"note: {skipped.note()}")
    done = all(is_done(out, frame, options) for frame in frames)
    if settings and settings["finished"] and done and tables_are_there(out, frames, options):
        print(f"{out} is finished: {_summary(settings, len(frames))}")
        return DONE
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{out} cannot be created ({error.strerror}); choose another --out"
        ) from error
    with held(out):
        return _work(out, frames, options, choice, request, arguments, command)


def _work(
    out: Path,
    frames: Sequence[Frame],
    options: Options,
    choice: Choice,
    request: dict[str, Any],
    arguments: argparse.Namespace,
    command: str,
) -> int:
    began = time.monotonic()
    remove_half_written(out)
    write_settings(out, request, choice, command, finished=False)
    for name in FOLDERS:
        if getattr(options, {"tracked": "track"}.get(name, name), True):
            (out / name).mkdir(exist_ok=True)
    waiting = [frame for frame in frames if not is_done(out, frame, options)]
    _introduce(choice, options, frames, len(waiting))
    looks = likeness_warning(choice.appearance, frames, choice.config)
    _warn(looks)
    unreadable, found = _segment_and_assemble(out, frames, waiting, options, choice, arguments)
    ready = [frame for frame in frames if frame.name not in unreadable]
    sizes = size_warning(choice.appearance, out, ready)
    _warn(sizes)
    found["warnings"] = [line for line in (looks, sizes) if line]
    write_settings(
        out, request, choice, command, finished=not unreadable, **found, unreadable=unreadable
    )
    if options.track:
        from analysis.segment.films import tracking_notes

        print(*tracking_notes(found), sep="\n")
    print(f"{out}: {_summary(found, len(frames) - len(unreadable))}")
    print(f"this took {time.monotonic() - began:.0f} s")
    if not unreadable:
        return DONE
    print(
        f"error: {_reasons(unreadable, len(frames))}; all others are done; run the same command "
        "again to retry these",
        file=sys.stderr,
    )
    return FAILED


def _reasons(unreadable: dict[str, str], images: int) -> str:
    reasons = "; ".join(list(unreadable.values())[:20])
    return f"{len(unreadable)} of {images} images could not be segmented: {reasons}"


def _segment_and_assemble(
    out: Path,
    frames: Sequence[Frame],
    waiting: Sequence[Frame],
    options: Options,
    choice: Choice,
    arguments: argparse.Namespace,
) -> tuple[dict[str, str], dict[str, Any]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(soft_wrap=True)) as bar:
        done = len(frames) - len(waiting)
        number = bar.add_task("images", total=len(frames), completed=done)

        def tick(_: object = None) -> None:
            bar.advance(number)

        if arguments.address:
            from analysis.segment.cluster import segment_on_cluster

            unreadable = segment_on_cluster(
                arguments.address, out, waiting, options, choice, tick=tick, say=bar.console.print
            )
        else:
            unreadable = segment_here(
                out, waiting, options, choice, device=arguments.device, tick=tick
            )
        from analysis.segment.tables import assemble

        ready = [frame for frame in frames if frame.name not in unreadable]
        if not ready:
            raise InputError(_reasons(unreadable, len(frames)))
        bar.add_task("tables", total=None)
        return unreadable, assemble(out, ready, options, normalizer(choice))


def _introduce(choice: Choice, options: Options, frames: Sequence[Frame], waiting: int) -> None:
    images = len(frames)
    print(f"model: {choice.why}")
    kind = (
        "calibrated (calibration.json)"
        if choice.calibrated
        else ("default (not calibrated; to calibrate, run python -m analysis.run OUT)")
    )
    values = ", ".join(f"{name} {value:g}" for name, value in choice.parameters.items())
    print(f"parameters: {values}; {kind}")
    print(f"prediction: {chosen_inference(choice.inference, options.tile)}")
    if options.pixel_size_um is None and choice.pixel_size_um is not None:
        print(
            "note: lengths are in pixels; give --pixel-size-um to get micrometres (the model's "
            f"training images had {choice.pixel_size_um:g} um per pixel)"
        )
    note = size_note(choice.config, choice.image_shape, [frame.shape for frame in frames])
    if note:
        print(f"note: {note}")
    if waiting < images:
        print(f"{images - waiting} of {images} images are already done")


def _warn(line: str | None) -> None:
    if line:
        print(f"warning: {line}")


def _summary(found: dict[str, Any], images: int) -> str:
    parts = [f"{images} image{'s' * (images != 1)}", f"{found['objects']} cells"]
    if "tracks" in found:
        parts.append(f"{found['tracks']} tracks (steps of at most {found['max_distance']:.1f} px)")
    return ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    keep_to_quota()
    return run(
        _parser(),
        _run,
        argv,
        refused=(InputError, AnalysisError, CheckpointError, PlaceError),
        failed=(OSError, OutOfMemory, TrainingError, MemoryError, RuntimeError),
        interrupted="interrupted; run the same command again to continue",
    )
