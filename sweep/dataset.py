"""The data set of a sweep: how it is divided, and what is said of it before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.plan import Request, RequestError
from trainables.data.dataset import DataError, DataOptions, DataSet, index_dataset, open_dataset
from trainables.data.pixelcheck import CROPS_ADVICE
from trainables.data.splits import few_groups_note, recorded_options


def index_data(root: Path, options: DataOptions) -> DataSet:
    """List a data set; when that shows it to be wrong, say all that is wrong with it."""
    try:
        return index_dataset(root, options)
    except DataError:
        return open_dataset(root, options)


def data_options(request: Request, recorded: dict[str, Any] | None) -> DataOptions:
    """Return how to divide the data: where a run has chosen a gap between blocks, with it."""
    asked = request.data_options
    if recorded is None or asked.split != "time_blocks" or asked.gap_frames is not None:
        return asked
    chosen = recorded_options(recorded["data"]["options"])
    return chosen if chosen.model_copy(update={"gap_frames": None}) == asked else asked


def open_data(root: Path, options: DataOptions, request: Request, console: Console) -> DataSet:
    """Read all files once, refuse what cannot be right, and say what is remarkable."""
    dataset = open_dataset(root, options)
    modes = {config.normalization.mode for config in request.configs}
    modes |= set(request.space.dimensions.get("normalization", ()))
    if "dataset" in modes and len(dataset.bits) > 1:
        raise RequestError(
            f"data set {root}: normalization=dataset scales all images alike, but some are of 8 "
            "bit and some of 16 bit; save all in 16 bit from the same source, or leave it out"
        )
    for note in (*dataset.notes, *few_groups_note(dataset.items, dataset.split, options)):
        if modes != {"dataset"} or CROPS_ADVICE not in note:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    return dataset
