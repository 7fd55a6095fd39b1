"""Folders on the command line, which may be in an object store (``s3://BUCKET/FOLDER``)."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.evaluation.calibration import CALIBRATION
from trainables.records.files import fetch_all
from trainables.records.manifest import MANIFEST
from trainables.records.objects import address_of, check, fetched_folder, is_stored, place
from trainables.records.store import StoreError


class PlaceError(ValueError):
    """An object store that cannot be used; the message says which address, and why."""


def folder(text: str) -> Path:
    """Return the path of a run folder or data set on the command line, for argparse."""
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local(text: str) -> Path:
    """Return a path on the command line that must be on a disk, for argparse."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text}: must be a folder on a disk, not in an object store; copy it with aws s3 sync"
        )
    return Path(text)


def reached(path: Path) -> Path:
    """Return a path; if it is in an object store, only if that responds within seconds.

    Raises
    ------
    PlaceError
    """
    if is_stored(path):
        try:
            check(path)
        except StoreError as error:
            raise PlaceError(f"{address_of(path)}: {error.strerror}") from error
    return path


def fetched_data(path: Path) -> Path:
    """Return the folder of a data set; of one in an object store, this machine's copy.

    Raises
    ------
    PlaceError
        When the store cannot be used.
    """
    return fetched_folder(address_of(path)) if is_stored(reached(path)) else path


def fetch_run(out: Path) -> None:
    """Fetch the tables of a run and the descriptions of its checkpoints, if it is in a store.

    Weights follow when they are loaded.
    """
    fetch_all(out, lambda name: "/" not in name or name.endswith((MANIFEST, CALIBRATION)))
