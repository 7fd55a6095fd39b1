"""Folders on the command line, which may be in an object store (``s3://BUCKET/FOLDER``)."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.evaluation.calibration import CALIBRATION
from trainables.records.files import fetch_all
from trainables.records.manifest import MANIFEST
from trainables.records.objects import check, fetched_folder, is_stored, place
from trainables.records.store import StoreError


def folder(text: str) -> Path:
    """Return the path of a run folder on the command line, for argparse; its store must respond."""
    try:
        found = place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if is_stored(found):
        try:
            check(found)
        except StoreError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return found


def data_folder(text: str) -> Path:
    """Return the path of a data set on the command line, for argparse; its copy if it is stored."""
    return fetched_folder(text) if is_stored(folder(text)) else Path(text)


def fetch_run(out: Path) -> None:
    """Fetch the tables of a run and the descriptions of its checkpoints, if it is in a store.

    Weights follow when they are loaded.
    """
    fetch_all(out, lambda name: "/" not in name or name.endswith((MANIFEST, CALIBRATION)))
