"""What is analysed, and how: the same for every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.evaluation.calibration import BUDGET
from analysis.evaluation.images import LabelledImages
from analysis.runfolder import Run
from analysis.statistics.pairs import RESAMPLES
from analysis.study.annotations import CellAnnotations
from analysis.study.objects import CellMeasurer
from trainables.data.dataset import DataSet, Item


@dataclass(frozen=True)
class StudyOptions:
    """How to analyse a run; the report's ``settings.json`` holds it."""

    top: int = 3
    """So many of the best candidates are analysed."""
    convention: str = "trackmate"
    """As for `analysis.morphology.measure`."""
    unit: str = "group"
    """What is independent: 'group', 'image' or 'track'."""
    flips: bool = False
    """Whether to average predictions over mirror images."""
    budget: int = BUDGET
    """Sets of parameters to try when calibrating each method."""
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A run, its data, and the images to measure."""

    run: Run
    dataset: DataSet
    """The sweep's own: calibration and selection use its validation images."""
    measured: DataSet
    """The one whose images are measured: the sweep's own, or another."""
    items: Sequence[Item]
    """Images to measure: the test split, or all of another data set."""
    measurer: CellMeasurer
    options: StudyOptions
    images: LabelledImages = field(default_factory=LabelledImages)
    """Reads all of them."""


def make_study(
    run: Run, dataset: DataSet, other: DataSet | None, known: CellAnnotations, options: StudyOptions
) -> Study:
    """Say what is analysed.

    Parameters
    ----------
    run : Run
    dataset : DataSet
        The sweep's own.
    other : DataSet or None
        Images to measure instead of its test split.
    known : CellAnnotations
        Of the images to measure.
    options : StudyOptions
    """
    measured = other or dataset
    return Study(
        run=run,
        dataset=dataset,
        measured=measured,
        items=list(other.items) if other else dataset.subset("test"),
        measurer=CellMeasurer(
            split="other" if other else "test",
            known=known,
            convention=options.convention,
            pixel_size_um=measured.pixel_size_um,
        ),
        options=options,
    )
