"""Requests to an object store that speaks S3: the client, patience, and errors in one line."""

from __future__ import annotations

import errno
import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

PATIENCE_SECONDS = 600.0
"""How long to try again while a store does not respond."""
LONGEST_PAUSE = 30.0
AT_ONCE = 16
"""Objects that are fetched at the same time."""
_PASSING = frozenset(
    ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "503")
)
"""Error codes of a store that may be gone at the next try."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class StoreError(OSError):
    """An object store that cannot be used; the message says why, in one line."""


def connected(hasty: bool = False) -> Any:
    """Return boto3's client of this process; one that is `hasty` gives up within seconds."""
    settings = tuple(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _made_client(os.getpid(), hasty, settings)


@functools.lru_cache(maxsize=8)
def _made_client(process: int, hasty: bool, settings: tuple[tuple[str, str], ...]) -> Any:
    """Return a client, which a forked process cannot share, and which keeps its settings."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StoreError(
            errno.ENOPKG, "s3:// needs boto3: install it with pip install 'segsweep[aws]'"
        ) from error
    config = Config(
        connect_timeout=3 if hasty else 5,
        read_timeout=5 if hasty else 60,
        retries={"total_max_attempts": 1 if hasty else 2, "mode": "standard"},
        max_pool_connections=2 * AT_ONCE,
    )
    return boto3.session.Session().client("s3", config=config)


def _answer(error: Exception) -> dict[str, Any]:
    answer = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}


def status_of(error: Exception) -> int:
    """Return the HTTP status that a store answered with, or 0."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """Return the name of the error that a store answered with, or ''."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _may_pass(error: Exception) -> bool:
    """Whether a failure may be over at the next try: the network, or a server that is busy."""
    from botocore import exceptions as known

    if isinstance(error, known.ClientError):
        return status_of(error) >= 500 or status_of(error) == 429 or code_of(error) in _PASSING
    network = (known.HTTPClientError, known.ConnectionError, known.ResponseStreamingError)
    return isinstance(error, (*network, known.IncompleteReadError, CutShort))


class CutShort(Exception):
    """A download that ended early."""


_WHY = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "ExpiredToken": "the credentials have expired",
    "InvalidBucketName": "this is not the name of a bucket",
    "NoSuchUpload": "the upload was cut off",
    "403": "access is denied",
}


def _store_error(error: Exception, what: str) -> StoreError:
    from botocore import exceptions as known

    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    at = f" at {address}" if address else ""
    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        why = "no credentials (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    elif isinstance(error, known.ClientError):
        why = _WHY.get(code_of(error)) or f"{code_of(error)}, status {status_of(error)}"
    else:
        why = " ".join(str(error).split())[:200]
        why = f"no response{at} ({type(error).__name__})" if _may_pass(error) else why
    number = errno.EACCES if status_of(error) in (401, 403) else errno.EIO
    return StoreError(number, f"object store{at}: {why}", what)


_own = threading.local()


@contextmanager
def impatient() -> Iterator[None]:
    """Do not wait for a store that does not respond, in this thread while the block runs."""
    before, _own.patience = getattr(_own, "patience", None), 0.0
    try:
        yield
    finally:
        _own.patience = before


def patiently(what: str, call: Callable[[], T]) -> T:
    """Call until the store responds; say once that it does not, and once that it does again.

    Raises
    ------
    StoreError
        When it refuses, or does not respond for `PATIENCE_SECONDS`.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    end, pause, patience = None, 0.5, getattr(_own, "patience", None)
    patience = PATIENCE_SECONDS if patience is None else patience
    while True:
        try:
            answer = call()
        except (BotoCoreError, ClientError, CutShort) as error:
            said = _store_error(error, what)
            if not _may_pass(error) or not patience:
                raise said from error
            if end is None:
                end = time.monotonic() + patience
                _tell(f"{said.strerror} for {what}: trying again for {patience / 60:.0f} minutes")
            elif time.monotonic() >= end:
                raise said from error
            time.sleep(pause * random.uniform(0.7, 1.0))
            pause = min(LONGEST_PAUSE, 2 * pause)
        else:
            if end is not None:
                _tell("the object store responds again")
            return answer


_listeners: list[Callable[[str], object]] = []


def tell_to(say: Callable[[str], object]) -> Callable[[], None]:
    """Also give lines about a store that does not respond to `say`; returns what ends that."""
    _listeners.append(say)
    return lambda: _listeners.remove(say)


_told = {"": -1e9}


def _tell(text: str) -> None:
    now = time.monotonic()
    # many threads and files meet the same failure
    if now - _told.get(text.partition(" for ")[0], -1e9) > PATIENCE_SECONDS / 10:
        _told[text.partition(" for ")[0]] = now
        logger.warning(text)
        for say in _listeners:
            say(text)
