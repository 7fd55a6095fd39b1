"""Label images that other tools or people made of the measured images (``--labels``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.evidence import TRUTH
from analysis.runfolder import AnalysisError
from trainables.data.dataset import DataSet, Item
from trainables.data.imagefiles import ImageFileError, read_image, read_labels
from trainables.data.listing import list_files
from trainables.data.splits import some

if TYPE_CHECKING:
    from analysis.study.study import Study
    from analysis.study.trials import GivenTrial
    from analysis.study.truth import Truth

ENDINGS = ("", "_cp_masks", "_masks", "_mask", "_labels", "_label")
"""What may follow the image's stem in a file name; Cellpose writes STEM_cp_masks."""


@dataclass(frozen=True)
class GivenLabels:
    """The label images of one tool or person."""

    name: str
    """Its name on the page."""
    folder: Path
    files: Mapping[str, Path]
    """Label image by stem of the measured image."""
    binary: int
    """Number of masks that were binary, so that connected components were taken as cells."""

    def note(self) -> list[str]:
        """Say where cells that touch count as one."""
        if not self.binary:
            return []
        return [
            f"{self.name}: {self.binary} of {len(self.files)} label images are binary masks; their "
            "connected components are taken as cells, so cells that touch count as one."
        ]


def items_of(dataset: DataSet, other: DataSet | None) -> list[Item]:
    """Return the images to measure: the sweep's test images, or all of another data set."""
    return list(other.items) if other else dataset.subset("test")


def open_given(
    requests: Sequence[str], items: Sequence[Item], methods: Collection[str]
) -> list[GivenLabels]:
    """Find and check the label images of ``--labels NAME=FOLDER``.

    Parameters
    ----------
    requests : sequence of str
        NAME=FOLDER.
    items : sequence of Item
        The measured images.
    methods : collection of str
        Names that are taken by methods of the run.

    Returns
    -------
    list of GivenLabels

    Raises
    ------
    AnalysisError
        When a request is not NAME=FOLDER, a name is taken, an image has no label image, or a label
        image cannot be used.
    """
    found: list[GivenLabels] = []
    for request in requests:
        name, equals, folder = request.partition("=")
        name = name.strip()
        if not equals or not name or not folder:
            raise AnalysisError(f"--labels {request}: give NAME=FOLDER, such as cellpose=masks")
        if name in {TRUTH, *methods, *(one.name for one in found)}:
            raise AnalysisError(f"--labels {request}: the name {name!r} is taken; choose another")
        found.append(_open(name, Path(folder).absolute(), items, request))
    return found


def _open(name: str, folder: Path, items: Sequence[Item], request: str) -> GivenLabels:
    problems: list[str] = []
    listed = list_files(folder, problems)
    files = {}
    for item in items:
        path = next((listed[item.stem + e] for e in ENDINGS if item.stem + e in listed), None)
        if path is not None:
            files[item.stem] = path
    lacking = [item.stem for item in items if item.stem not in files]
    if listed and lacking:
        problems.append(
            f"no label image for {len(lacking)} of {len(items)} measured images ({some(lacking)}); "
            "each needs one with its name (an empty one where nothing was found)"
        )
    binary = 0
    for item in items if not problems else ():
        path = files[item.stem]
        try:
            labels = read_labels(path)
            shape = read_image(item.image).shape
        except ImageFileError as error:
            problems.append(f"{path.name}: {error}")
            continue
        binary += labels.was_binary
        if labels.labels.shape != shape:
            problems.append(
                f"{path.name}: shape {labels.labels.shape}, but its image has {shape}; make them "
                "equal"
            )
    if problems:
        raise AnalysisError(f"--labels {request}: {some(problems)}")
    return GivenLabels(name, folder, files, binary)


def measure_given(
    study: Study,
    given: Sequence[GivenLabels],
    truth: Truth,
    new_task: Callable[..., Callable[[], None]],
) -> list[GivenTrial]:
    """Score and measure given labels on the measured images, as those of a method.

    Parameters
    ----------
    study : Study
    given : sequence of GivenLabels
    truth : Truth
        Lists the images that figures show.
    new_task : callable
        See `analysis.study.gather.gather`.
    """
    from analysis.study.trials import GivenTrial

    found = []
    for one in given:
        tick = new_task(one.name, len(study.items))
        trial = GivenTrial(one.name)
        for item in study.items:
            labels = read_labels(one.files[item.stem]).labels
            trial.see(study, study.images.read(item), labels, keep=item.stem in truth.pictured)
            tick()
        found.append(trial)
    return found
