"""Analyse a finished or half-finished sweep: ``python -m analysis.run OUT [--top K] ...``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.cluster import ClusterError, Nodes, check_address, joined
from analysis.instances.methods import GIVEN_BACK
from analysis.nodes import Needed, check_nodes, sizes_of
from analysis.places import PlaceError, fetched_data, folder, local, reached
from analysis.runfolder import AnalysisError, Run, candidates, open_data, read_run
from analysis.segment.inputs import Frame, InputError, list_frames
from analysis.segment.sizes import size_note, trained_shape
from analysis.spread import Here, Spread
from analysis.study.annotations import CellAnnotations
from analysis.study.given_labels import items_of, open_given
from analysis.study.sequence import ImageSequence, read_sequence
from trainables.cli import DONE, FAILED, Parser, command_line, run
from trainables.data.dataset import DataError, DataSet
from trainables.errors import CheckpointError
from trainables.machine.cores import keep_to_quota
from trainables.records.manifest import read_manifest
from trainables.records.objects import address_of, is_stored
from trainables.records.store import StoreError

CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _labels(text: str) -> str:
    local(text.partition("=")[2])
    return text


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}")
    return int(text)


# Long: the list of the options.
def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m analysis.run",
        description="Find and measure single cells with a sweep's checkpoints; write a report.",
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=folder, help="folder of a sweep, such as runs/demo")
    add(
        "--top",
        type=_positive,
        default=3,
        metavar="K",
        help="analyse the best K candidates, plus the best of each way of making single cells "
        "(default: 3)",
    )
    add(
        "--data",
        type=folder,
        metavar="PATH",
        help="new place of the sweep's data, or other images to measure instead of its test "
        "images (no copies or parts of its training and validation images)",
    )
    add(
        "--unlabelled",
        type=local,
        metavar="SEQUENCE",
        help="also compare the ways of making cells on images without masks, usually a time-lapse: "
        "a folder of images, a folder of such folders (one for each field), or a TIFF stack",
    )
    add(
        "--convention",
        choices=CONVENTIONS,
        default="trackmate",
        help="measure cells as TrackMate, ImageJ or scikit-image does; trackmate_raw: without "
        "simplified outlines (default: trackmate)",
    )
    add(
        "--unit",
        choices=("group", "image", "track"),
        default="group",
        help="what counts as one independent unit (default: group)",
    )
    add(
        "--labels",
        action="append",
        type=_labels,
        default=[],
        metavar="NAME=FOLDER",
        help="label images of the measured images from another tool or a second person, with the "
        "images' names: scored and measured like a method (may be repeated)",
    )
    add(
        "--second-annotator",
        metavar="NAME",
        help="which of the --labels a second person drew: differences smaller than those between "
        "the two people then count as equivalent, instead of half a pixel of boundary",
    )
    add("--flips", action="store_true", help="average each prediction over mirror images (slower)")
    add(
        "--budget",
        type=_positive,
        default=60,
        metavar="N",
        help="number of parameter sets to try when calibrating each method (default: 60)",
    )
    add(
        "--resamples",
        type=_positive,
        default=9999,
        metavar="N",
        help="number of random permutations behind p_unit and p_family in statistics.csv (default: "
        "9999; families of many differences use more); where fewer different ones exist, each of "
        "them is used once",
    )
    add(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="seed of all that is random (default: 0): the search of the calibration, the "
        "permutations behind the tied methods and statistics.csv, the shapes in noise.csv",
    )
    add(
        "--address",
        metavar="ADDR",
        help="running Ray cluster that shares the work, one network per core: auto, or host:port "
        "(default: this machine alone)",
    )
    return parser


def analyse(arguments: argparse.Namespace, command: str) -> int:
    """Write the report of a run; return the exit code."""
    out = reached(arguments.out.absolute())
    run = read_run(out)
    dataset, other = open_data(
        run, fetched_data(arguments.data.absolute()) if arguments.data else None
    )
    known = CellAnnotations(other or dataset)  # its errors are reported before any computation
    names = {name for one in candidates(run) for name in (one.name, one.name + GIVEN_BACK)}
    given = open_given(arguments.labels, items_of(dataset, other), names)
    annotator = arguments.second_annotator
    if annotator is not None and annotator not in [one.name for one in given]:
        raise AnalysisError(
            f"--second-annotator {annotator}: no --labels {annotator}=FOLDER was given; give the "
            "second person's label images that way, too"
        )
    sequence = read_sequence(arguments.unlabelled.absolute()) if arguments.unlabelled else None
    if arguments.address:
        check_address(arguments.address)
    console = Console(soft_wrap=True)
    console.print(f"analysing {out.name}: {len(run.done())} of {len(run.leaderboard)} trials done")
    if other is not None:
        _say_sizes(console, run, list_frames([item.image for item in other.items]))
    if sequence is not None:
        _say_sequence(console, run, sequence)
    began = time.monotonic()
    # slow imports, after everything that can be refused
    from analysis.report.page import write_report
    from analysis.study.files import write_tables
    from analysis.study.gather import gather
    from analysis.study.study import make_study

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:

        def new_task(description: str, steps: int) -> Callable[[], None]:
            number = bar.add_task(description, total=steps)
            return lambda: bar.advance(number)

        study = make_study(run, dataset, other, known, _options(arguments), given)
        study = replace(study, unlabelled=sequence)
        with _spread(arguments.address, study, bar.console.print) as spread:
            evidence = gather(study, new_task, command, spread)
    report = out / "report"
    write_tables(evidence, report)
    page = write_report(evidence, report)
    _say(console, evidence)
    console.print(f"report: {address_of(page)}")
    console.print(f"this took {time.monotonic() - began:.0f} s")
    _say_next(console, out, dataset)
    return DONE if sequence is None or evidence.unlabelled is not None else FAILED


def _options(arguments: argparse.Namespace) -> Any:
    from analysis.study.study import StudyOptions

    return StudyOptions(
        top=arguments.top,
        convention=arguments.convention,
        unit=arguments.unit,
        flips=arguments.flips,
        budget=arguments.budget,
        resamples=arguments.resamples,
        seed=arguments.seed,
        annotator=arguments.second_annotator,
    )


@contextmanager
def _spread(address: str | None, study: Any, say: Callable[[str], object]) -> Iterator[Spread]:
    """Yield where the networks of a study predict."""
    if address is None:
        yield Here()
        return
    stems = {stem for fold in study.dataset.folds for stem in fold}
    val = [item for item in study.dataset.items if item.stem in stems]
    items = [*(val or study.dataset.subset("val")), *study.items]
    hashes = {**study.dataset.hashes, **study.measured.hashes}
    files: dict[Path, str | int] = {
        path: hashes[path] for item in items for path in (item.image, item.mask)
    }
    frames = list_frames([item.image for item in items])
    if study.unlabelled is not None:
        frames += study.unlabelled.frames
        files |= sizes_of({frame.path for frame in study.unlabelled.frames})
    shape = (max(f.shape[0] for f in frames), max(f.shape[1] for f in frames))
    data = tuple({study.dataset.root: 0, study.measured.root: 0})
    run = study.run
    with joined(address) as ray:
        nodes = Nodes(ray, run.out, data, shape)
        nodes.check_room(run.configs[trial_id] for trial_id in run.done())
        check_nodes(ray, Needed(run.out, "the run folder", files, data=data), say)
        yield nodes


def _analyse(arguments: argparse.Namespace, command: str) -> int:
    """Call `analyse`; say in one line what a cluster could not do."""
    try:
        return analyse(arguments, command)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _say_sequence(console: Console, run: Run, sequence: ImageSequence) -> None:
    """Print what images without masks were found."""
    frames, fields = len(sequence.frames), len({frame.sequence for frame in sequence.frames})
    console.print(
        f"images without masks: {frames} frame{'s' * (frames != 1)} of {fields} "
        f"field{'s' * (fields != 1)}",
        markup=False,
    )
    _say_sizes(console, run, sequence.frames)


def _say_sizes(console: Console, run: Run, frames: Sequence[Frame]) -> None:
    """Print a note when images are much larger than the training images."""
    best = run.done()[0]
    trained = trained_shape(read_manifest(run.checkpoint(best)))
    configs = [run.configs[trial_id] for trial_id in run.done()]
    by_image = [c for c in configs if c.normalization.mode == "image"]
    if trained is not None and by_image:
        note = size_note(by_image[0], trained, [frame.shape for frame in frames])
        if note:
            console.print(f"note: {note}", markup=False)


def _say(console: Console, evidence: Any) -> None:
    from rich.table import Table

    from analysis.report.answer import answer

    table = Table(title="mean average precision (IoU 0.5 to 0.9), validation", title_style="")
    unit = "image" if evidence.settings["unit"] == "image" else "group"
    for name in ("method", "score", "95 % interval", "may be the best", f"{unit}s"):
        table.add_column(name)
    for row in evidence.methods[evidence.methods["representative"]].to_dict("records"):
        known = row["val_low"] == row["val_low"]
        interval = f"{row['val_low']:.3f} to {row['val_high']:.3f}" if known else ""
        tied = "" if not known else "yes" if row["tied"] else "no"
        table.add_row(
            row["method"], f"{row['val_score']:.3f}", interval, tied, str(row["val_units"])
        )
    console.print(table)
    console.print(answer(evidence).headline, markup=False)
    for line in evidence.missing:
        console.print(f"note: {line}", markup=False)


def _say_next(console: Console, out: Path, dataset: DataSet) -> None:
    """Print the command that segments images with the method that scores highest."""
    # analysis.segment reads images from folders, and writes to them
    images, cells = dataset.root / "images", Path("cells") if is_stored(out) else out / "cells"
    line = command_line("analysis.segment", "--model", out, images, "--out", cells)
    console.print("next, segment images with the first method (insert your own image folder):")
    console.print(f"  {line}", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    keep_to_quota()
    return run(
        _parser(),
        _analyse,
        argv,
        refused=(AnalysisError, DataError, InputError, CheckpointError, PlaceError),
        failed=(StoreError,),
        interrupted="interrupted; run the same command again to continue (calibrations are kept)",
    )


if __name__ == "__main__":
    sys.exit(main())
