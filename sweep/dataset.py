"""The data set of a sweep: its folder, its split, and notes on it."""

from __future__ import annotations

import shutil
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
from trainables.records.files import exists, fetch_all, send
from trainables.records.objects import check, fetched_folder, is_stored, place
from trainables.records.store import StoreError

SENT_LAST = "synthetic.json"
"""File of built-in data; in an object store, they are complete once it is there."""


@contextmanager
def data_folder(request: Request, data: str | None, out: Path, keep: bool) -> Iterator[Path]:
    """Yield the absolute path of a sweep's data.

    Parameters
    ----------
    request : Request
        The request, whose space may have built-in data.
    data : str or None
        ``--data``, which may be ``s3://BUCKET/FOLDER``. None means that the built-in data are
        generated in ``OUT/data``.
    out : Path
        The run folder.
    keep : bool
        Whether to keep built-in data; if not, they are generated in a temporary folder, unless
        they already exist in `out`.

    Raises
    ------
    RequestError
        When there are no data.
    """
    if data is not None:
        yield _given(data).absolute()
        return
    builtin = request.space.builtin_data
    if builtin is None:
        raise RequestError(
            f"search space {request.space_name} needs your images: give --data FOLDER (with "
            "images/ and masks/; see the README)"
        )
    from trainables.synthetic.dataset import generate

    root = out / "data"
    fetch_all(root)
    if is_stored(root) and root.exists() and not exists(root / SENT_LAST):
        # a sweep was killed while it sent them; these may be all, or some from the store
        shutil.rmtree(root)
    if root.exists():
        yield root
    elif keep:
        generate(root, **builtin.model_dump())
        for path in sorted(root.iterdir(), key=lambda path: path.name == SENT_LAST):
            send(path)
        yield root
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield generate(Path(folder) / "data", **builtin.model_dump())


def _given(data: str) -> Path:
    """Return the folder of ``--data``; of data in an object store, the copy on this machine."""
    try:
        if is_stored(place(data)):
            check(place(data))
        return fetched_folder(data)
    except StoreError as error:
        raise RequestError(f"--data {data}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"--data {error}") from error


def index_data(root: Path, options: DataOptions) -> DataSet:
    """List a data set; if it is not valid, raise an error with all its problems."""
    try:
        return index_dataset(root, options)
    except DataError:
        return open_dataset(root, options)


def data_options(request: Request, recorded: dict[str, Any] | None) -> DataOptions:
    """Return how to split the data, with the gap between time blocks that a run has chosen."""
    asked = request.data_options
    if recorded is None or asked.split != "time_blocks" or asked.gap_frames is not None:
        return asked
    chosen = recorded_options(recorded["data"]["options"])
    return chosen if chosen.model_copy(update={"gap_frames": None}) == asked else asked


def open_data(listed: DataSet, request: Request, console: Console) -> DataSet:
    """Read the pixels of a listed data set; refuse invalid data, and print notes."""
    root, options = listed.root, request.data_options
    dataset = open_dataset(root, options, known=listed)
    modes = {config.normalization.mode for config in request.configs}
    modes |= set(request.space.dimensions.get("normalization", ()))
    if "dataset" in modes and len(dataset.bits) > 1:
        raise RequestError(
            f"data set {root}: normalization=dataset scales all images alike, but some have 8 bit "
            "and some 16 bit; save all with 16 bit from the same source, or remove "
            "normalization=dataset"
        )
    for note in (*dataset.notes, *few_groups_note(dataset.items, dataset.split, options)):
        if modes != {"dataset"} or CROPS_ADVICE not in note:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    return dataset
