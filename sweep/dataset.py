"""The data set of a sweep: where it lies, how it is divided, and what is said of it at first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.request import Request, RequestError
from trainables.data.dataset import DataError, DataSet, index_dataset, open_dataset
from trainables.data.pixelcheck import CROPS_ADVICE
from trainables.data.splits import DataOptions, few_groups_note, recorded_options


@contextmanager
def data_folder(request: Request, data: str | None, out: Path, keep: bool) -> Iterator[Path]:
    """Give the folder of a sweep's data, absolute.

    Parameters
    ----------
    request : Request
        Its space may bring built-in data.
    data : str or None
        ``--data``. None: the built-in data are generated, into ``OUT/data``.
    out : Path
        The run folder.
    keep : bool
        Whether built-in data stay: else they lie in a temporary folder, unless they are in `out`
        already.

    Raises
    ------
    RequestError
        When there are no data.
    """
    if data is not None:
        yield Path(data).absolute()
        return
    builtin = request.space.builtin_data
    if builtin is None:
        raise RequestError(
            f"search space {request.space_name} needs your images: --data FOLDER (with images/ "
            "and masks/; see the README)"
        )
    from trainables.synthetic.dataset import generate

    if (out / "data").exists():
        yield out / "data"
    elif keep:
        yield generate(out / "data", **builtin.model_dump())
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield generate(Path(folder) / "data", **builtin.model_dump())


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


def open_data(listed: DataSet, request: Request, console: Console) -> DataSet:
    """Look at the pixels of a listed data set; refuse what cannot be right, say what is odd."""
    root, options = listed.root, request.data_options
    dataset = open_dataset(root, options, known=listed)
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
