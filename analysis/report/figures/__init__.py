"""The paper's figures and ours, as SVG for the page and PDF for print; each has its own file.

Every file has three functions: ``compute`` takes the evidence and returns what the figure shows,
or None when that is missing; ``draw`` makes the figure, and ``caption`` the text below it. Figures
are 3.4 inches wide (one column) or 7 (two), and no text is smaller than 7 points.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import matplotlib
from matplotlib.figure import Figure

from analysis.evidence import Evidence
from analysis.report.figures import (
    bias,
    budget,
    calibration,
    dataset_iou,
    estimation,
    estimation_drawing,
    features,
    losses,
    networks,
    overlaps,
    overlays,
)
from analysis.report.figures.style import STYLE
from analysis.report.tables import in_order
from trainables.names import task_name
from trainables.records.files import write_with
from trainables.tasks import TASKS

T = TypeVar("T")
LARGEST_DRAWING = 100_000
"""Bytes of the largest SVG on the page; figures that are larger are shown there as pixels."""
SCREEN_DPI = 200
"""Dots per inch of these: 1.5 per pixel of the page, so that text stays sharp."""
METHODS_FIGURE, POPULATIONS_FIGURE = "estimation_methods", "estimation_populations"
"""The two figures that the page shows with the tables of cell features."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One kind of figure in the report."""

    title: str
    compute: Callable[..., T | None]
    """Takes the evidence and, where each task has its own figure, the task."""
    draw: Callable[[T], Figure]
    caption: Callable[[T], str]
    each_task: bool = False


FIGURES: dict[str, Kind[Any]] = {
    "figure5_training_loss": Kind(
        "Training loss by epoch (the paper's Figure 5)",
        losses.compute_training,
        losses.draw,
        losses.caption,
    ),
    "figure6_validation_loss": Kind(
        "Validation loss by epoch (the paper's Figure 6)",
        losses.compute_validation,
        losses.draw,
        losses.caption_validation,
    ),
    "figure7_dataset_iou": Kind(
        "Best data-set IoU by architecture and encoder (the paper's Figure 7)",
        dataset_iou.compute,
        dataset_iou.draw,
        dataset_iou.caption,
    ),
    "figure8_networks": Kind(
        "One crop through every network, {task} (Figure 8)",
        networks.compute,
        networks.draw,
        networks.caption,
        each_task=True,
    ),
    "figure9_features": Kind(
        "Six features by method, ground truth first (the paper's Figure 9)",
        features.compute,
        features.draw,
        features.caption,
    ),
    METHODS_FIGURE: Kind(
        "Cell features of each method against the truth",
        estimation.compute_methods,
        estimation_drawing.draw,
        estimation.caption,
    ),
    POPULATIONS_FIGURE: Kind(
        "Populations in the cells of the recommended method and in the true cells",
        estimation.compute_populations,
        estimation_drawing.draw,
        estimation.caption,
    ),
    "figure10_overlays": Kind(
        "Methods laid over the truth and over each other (the paper's Figure 10)",
        overlays.compute,
        overlays.draw,
        overlays.caption,
    ),
    "budget": Kind("What each kind of error costs", budget.compute, budget.draw, budget.caption),
    "calibration": Kind(
        "What calibration changes", calibration.compute, calibration.draw, calibration.caption
    ),
    "overlaps": Kind(
        "AP by required overlap (IoU)", overlaps.compute, overlaps.draw, overlaps.caption
    ),
    "bias": Kind(
        "Bias of every feature relative to the ground truth", bias.compute, bias.draw, bias.caption
    ),
}
"""All figures in the order of the page. To add one, write its file and an entry here."""
UNLABELLED_FIGURE = "figure9_unlabelled"
"""The figure of images without masks, in a section of its own."""
UNLABELLED: Kind[features.Features] = Kind(
    "Six features by method, without masks (the paper's Figure 9)",
    features.compute_unlabelled,
    features.draw,
    features.caption,
)


def figures_of(evidence: Evidence) -> dict[str, Kind[Any]]:
    """Return all figures by name: `FIGURES`, with one entry for each of the sweep's tasks, and
    `UNLABELLED` where images without masks were given.
    """
    board = evidence.leaderboard
    tasks = in_order(board["task"] if len(board) else list(TASKS)[:1], list(TASKS))
    found = {}
    for name, kind in FIGURES.items():
        if not kind.each_task:
            found[name] = kind
            continue
        for task in tasks:
            title = kind.title.format(task=task_name(task))
            compute = partial(kind.compute, task=task)
            found[f"{name}_{task}"] = replace(kind, title=title, compute=compute)
    if evidence.unlabelled is not None:
        found[UNLABELLED_FIGURE] = UNLABELLED
    return found


class Drawn(NamedTuple):
    """A figure that was written."""

    title: str
    caption: str
    path: Path
    """The SVG; a PDF of the same name is beside it."""
    pixels: bytes | None = None
    """The figure as WebP for the page, where the SVG is too large for it."""


def make_figures(evidence: Evidence, folder: Path) -> dict[str, Drawn]:
    """Write every figure for which the evidence is complete.

    Parameters
    ----------
    evidence : Evidence
        What the analysis found.
    folder : Path
        Folder to write the figures into.

    Returns
    -------
    dict
        The figures of `figures_of` that could be drawn.
    """
    made = {}
    for name, kind in figures_of(evidence).items():
        shown = kind.compute(evidence)
        if shown is None:
            continue
        path = folder / f"{name}.svg"
        style: Any = STYLE | {"svg.hashsalt": name}
        with matplotlib.rc_context(style):
            figure = kind.draw(shown)
            _save(figure, path, {"Date": None})
            _save(figure, path.with_suffix(".pdf"), {"CreationDate": None})
            pixels = _pixels(figure) if path.stat().st_size > LARGEST_DRAWING else None
        made[name] = Drawn(kind.title, kind.caption(shown), path, pixels)
    return made


def _pixels(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    options: Any = {"quality": 70, "method": 6}
    figure.savefig(buffer, format="webp", dpi=SCREEN_DPI, pil_kwargs=options)
    return buffer.getvalue()


def _save(figure: Figure, path: Path, no_date: Any) -> None:
    """Write the figure without a date, so that the same evidence gives the same file."""
    kind = path.suffix.removeprefix(".")
    write_with(path, lambda temporary: figure.savefig(temporary, format=kind, metadata=no_date))
