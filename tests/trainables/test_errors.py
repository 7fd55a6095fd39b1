"""Errors that cross from StarDist's process into its trial's."""

from __future__ import annotations

import errno

import pytest

from trainables.errors import NoGpu, Paused, TrainingError, kind_of
from trainables.records.store import StoreError
from trainables.stardist.client import _error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreError(errno.EIO, "object store: no response"),
        PermissionError(errno.EACCES, "Permission denied"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_what_storage_raises_is_an_error_of_storage_there(error: Exception) -> None:
    """By all names but OSError itself it was an error of the trial, which had failed for good."""
    assert isinstance(_error(kind_of(error), str(error)), OSError)


@pytest.mark.parametrize("error", [NoGpu("none"), Paused("saved"), TrainingError("nan")])
def test_others_keep_their_names(error: Exception) -> None:
    assert type(_error(kind_of(error), str(error))) is type(error)


def test_what_nobody_knows_is_no_error_of_storage() -> None:
    there = _error(kind_of(KeyError("a")), "a")
    assert type(there) is RuntimeError
    assert str(there) == "KeyError: a"
