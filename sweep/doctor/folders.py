"""Findings about folders: the data set, the run folder, disk space and encoder weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.doctor.findings import Finding, note, ok, problem, refused, short, within
from sweep.doctor.machine import why_unreachable
from sweep.plan import read_plan
from sweep.request import RequestError
from sweep.runfolder import choose_out
from trainables.data.dataset import DataError, DataSet, open_dataset
from trainables.data.splits import SPLITS
from trainables.encoders.sources import read_record
from trainables.records.files import names
from trainables.records.objects import (
    address_of,
    check,
    fetched_folder,
    is_stored,
    place,
    readable,
)
from trainables.records.store import StoreError, impatient

DATA_SECONDS = 120.0
"""Longest time for checking a data set."""
STORAGE_SECONDS = 20.0
"""Longest wait for a folder: one on a dead server never responds."""
MOST_LINES = 20
"""Most problems of one data set to list."""
LEAST_GB, ENOUGH_GB = 1.0, 8.0
"""Free disk space below which a sweep will fail, and below which it may fail."""


def look_at_data(path: str, seconds: float = DATA_SECONDS) -> tuple[list[Finding], DataSet | None]:
    """Check a data set as a sweep would, for a limited time.

    Returns
    -------
    findings : list of Finding
    dataset : DataSet or None
        None if it cannot be used or was not read in time.
    """
    command = f"python -m trainables.data check {path}"
    try:
        root = place(path).absolute()
        if is_stored(root):
            check(root)
        where = address_of(root)
        dataset = within(seconds, lambda: open_dataset(fetched_folder(where)))
    except StoreError as error:
        return [problem("data", f"{path}: {error.strerror}", "name another data set")], None
    except (DataError, OSError) as error:
        return _wrong(address_of(root), readable(str(error)), command), None
    except ValueError as error:  # an address of another kind
        said, _, advice = str(error).partition("; ")
        return [problem("data", said, f"{advice} with --data")], None
    if dataset is None:
        size = within(STORAGE_SECONDS, lambda: _size(root)) or "unknown size"
        text = f"{where}: {size}; the check took longer than {seconds:.0f} s and was stopped"
        return [note("data", text, f"check it with {command}")], None
    counts = ", ".join(f"{name} {len(dataset.split[name])}" for name in SPLITS)
    text = f"{where}: {_size(root)}, valid; {counts}; fingerprint {dataset.fingerprint[:12]}"
    return [ok("data", text), *(note("data", one) for one in dataset.notes)], dataset


def _wrong(root: str, message: str, command: str) -> list[Finding]:
    """Return one finding for each problem of a data set."""
    first, *lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        advice = "give the folder that contains images/ and masks/ (see the README)"
        return [problem("data", first.removeprefix("data set "), advice)]
    found = [problem("data", f"{root}: {line}", "fix or remove it") for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        rest = f"{root}: {len(lines) - MOST_LINES} more problems"
        found.append(problem("data", rest, f"list all with {command}"))
    return found


def _size(root: Path) -> str:
    """Return the number of files in a data set, and their size."""
    sizes = []
    for name in ("images", "masks"):
        try:
            with os.scandir(root / name) as entries:
                sizes += [entry.stat().st_size for entry in entries if entry.is_file()]
        except OSError:
            continue
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.3g} MB"


def look_at_out(out: Path) -> list[Finding]:
    """Return whether a run folder can be created or continued, is writable, and has space."""
    found = within(STORAGE_SECONDS, lambda: [*_writable(out), *look_at_disk(out)])
    if found is None:
        text = f"{out}: no response within {STORAGE_SECONDS:.0f} s"
        return [problem("out", text, "check that its server is running and the folder is mounted")]
    return found


def _writable(out: Path) -> list[Finding]:
    try:
        choose_out(address_of(out), "", None)
        recorded = read_plan(out)
        there = _nearest(out)
        with tempfile.TemporaryFile(dir=there) as handle:
            handle.write(b"segsweep")
            handle.flush()
    except RequestError as error:
        return [refused("out", error, "name another folder with --out")]
    except OSError as error:
        advice = "name a writable folder with --out, or change its permissions"
        return [problem("out", f"{out}: cannot be written to ({short(error)})", advice)]
    held = (
        "will be created"
        if recorded is None
        else f"contains a run of {len(recorded['trials'])} trials"
    )
    if recorded is None and out.is_dir() and not is_stored(out):
        held = "exists and contains no run"
    can = "reached" if is_stored(out) else "written to"
    return [ok("out", f"{address_of(out)}: {held}; can be {can}")]


def _nearest(folder: Path) -> Path:
    """Return a folder, or its nearest existing parent.

    Raises
    ------
    NotADirectoryError
        When there is a file in place of a folder.
    """
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise NotADirectoryError(20, f"{there} is not a folder", str(there))
    return there


def look_at_disk(out: Path) -> list[Finding]:
    """Return how much space is left for a run folder."""
    try:
        there = _nearest(out)
        free = shutil.disk_usage(there).free / 1e9
    except OSError:  # said by `_writable`
        return []
    text = f"{free:.1f} GB free at {there}"
    advice = "free some space, or name a folder on another disk with --out"
    if free < LEAST_GB:
        return [problem("disk", f"{text}: checkpoints will not fit", advice)]
    if free < ENOUGH_GB:
        return [note("disk", f"{text}, which may be too little for checkpoints", advice)]
    return [ok("disk", text)]


def look_at_weights(out: Path | None) -> list[Finding]:
    """Return which encoder weights a run folder has, and whether others can be fetched."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    why = why_unreachable(address)
    folder = out / "weights" if out else None
    where = address_of(folder) if folder else "OUT/weights"
    try:
        kept = _kept_weights(folder) if folder else []
        text = f"in {where}: {', '.join(kept)}" if kept else f"none in {where} yet"
    except StoreError as error:
        text = f"{where}: {error.strerror}"
    if not why:
        return [ok("weights", f"{text}; others can be fetched from {address}, which responds")]
    advice = (
        "needed only with encoder_weights=pretrained or the name of weights; without a network "
        "give a folder: --set encoder_weights=FOLDER"
    )
    return [note("weights", f"{text}; {address} does not respond ({why})", advice)]


def _kept_weights(folder: Path) -> list[str]:
    with impatient():
        there = [folder / name for name in names(folder) if not name.endswith((".json", ".tmp"))]
    # an object is there whole or not at all
    return [path.stem for path in there if is_stored(path) or read_record(path)]


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Create a folder while the block runs; folders that existed before stay."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in new:
            try:
                one.rmdir()
            except OSError:  # something has been put there meanwhile
                break
