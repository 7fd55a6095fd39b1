"""What is analysed and how, the same for every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.evaluation.images import LabelledImages
from analysis.evaluation.search import BUDGET
from analysis.runfolder import Run
from analysis.statistics.pairs import RESAMPLES
from analysis.study.annotations import CellAnnotations
from analysis.study.given_labels import GivenLabels, items_of
from analysis.study.objects import CellMeasurer
from analysis.study.sequence import ImageSequence
from trainables.data.dataset import DataSet, Item


@dataclass(frozen=True)
class StudyOptions:
    """How to analyse a run; stored in the report's ``settings.json``."""

    top: int = 3
    """Number of best candidates to analyse."""
    convention: str = "trackmate"
    """See `analysis.morphology.measure`."""
    unit: str = "group"
    """Independent unit: 'group', 'image' or 'track'."""
    flips: bool = False
    """Whether to average predictions over mirror images."""
    budget: int = BUDGET
    """Number of parameter sets to try when calibrating each method."""
    resamples: int = RESAMPLES
    seed: int = 0
    annotator: str | None = None
    """Name of the given labels that a second person drew, whose disagreement is the margin."""


@dataclass(frozen=True)
class Study:
    """A run, its data, and the images to measure."""

    run: Run
    dataset: DataSet
    """The data set of the sweep; calibration and selection use its validation images."""
    measured: DataSet
    """The data set whose images are measured: that of the sweep, or another one."""
    items: Sequence[Item]
    """Images to measure: the test images, or all images of another data set."""
    measurer: CellMeasurer
    options: StudyOptions
    given: Sequence[GivenLabels] = ()
    """Label images of the measured images from elsewhere."""
    images: LabelledImages = field(default_factory=LabelledImages)
    """Reads all these images."""
    unlabelled: ImageSequence | None = None
    """Images without masks on which methods are compared, too."""


def make_study(
    run: Run,
    dataset: DataSet,
    other: DataSet | None,
    known: CellAnnotations,
    options: StudyOptions,
    given: Sequence[GivenLabels] = (),
) -> Study:
    """Collect everything that the analysis works on.

    Parameters
    ----------
    run : Run
    dataset : DataSet
        The data set of the sweep.
    other : DataSet or None
        Images to measure instead of its test images.
    known : CellAnnotations
        Tracks and populations in the images to measure.
    options : StudyOptions
    given : sequence of GivenLabels, optional
        Label images of the images to measure from elsewhere.
    """
    measured = other or dataset
    return Study(
        run=run,
        dataset=dataset,
        measured=measured,
        items=items_of(dataset, other),
        measurer=CellMeasurer(
            split="other" if other else "test",
            known=known,
            convention=options.convention,
            pixel_size_um=measured.pixel_size_um,
        ),
        options=options,
        given=given,
    )
