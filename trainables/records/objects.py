"""Folders in an object store (``s3://BUCKET/KEY``), with a copy of what is used on each machine.

Everywhere else such a folder is the path of its copy, below `copies`: which object a file is
follows from its path alone. The store is what counts. A file is sent, whole or not at all, before
its copy is put in place. Before a copy is read, it is compared with the store (`fetch`), which
sends nothing if it has not changed. When nothing runs, the copies can be deleted.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.records.store import (
    AT_ONCE,
    CutShort,
    StoreError,
    code_of,
    connected,
    impatient,
    patiently,
    status_of,
)

SCHEME = "s3://"
LARGE = 64 * 2**20
"""Bytes above which a file is sent in parts; the object still appears whole or not at all."""


def cache_home() -> Path:
    """Return the folder of this user's copies: SEGSWEEP_CACHE, else ~/.cache/segsweep."""
    return _cache_home(*map(os.environ.get, ("SEGSWEEP_CACHE", "XDG_CACHE_HOME", "HOME")))


@functools.lru_cache(maxsize=8)
def _cache_home(own: str | None, caches: str | None, home: str | None) -> Path:
    """Asked for at every access to a file: one lookup instead of several steps."""
    if own:
        return Path(own).absolute()
    return Path(caches or "~/.cache").expanduser() / "segsweep"


def copies() -> Path:
    """Return the folder of all copies of objects."""
    return cache_home() / "s3"


def place(name: str | Path) -> Path:
    """Return the path of a folder, which may be in an object store.

    Parameters
    ----------
    name : str or Path
        A path, or ``s3://BUCKET/KEY``.

    Returns
    -------
    Path
        The path itself, or that of this machine's copy.

    Raises
    ------
    ValueError
        When it is an address that is not supported; the message is one line.
    """
    text = str(name)
    if "://" not in text:
        return Path(name)
    if not text.startswith(SCHEME):
        raise ValueError(
            f"{text}: this kind of address is not supported; name a folder, or s3://BUCKET/FOLDER"
        )
    bucket, *parts = text.removeprefix(SCHEME).rstrip("/").split("/")
    if not bucket or not parts or {"", ".", ".."} & {bucket, *parts}:
        raise ValueError(f"{text}: name a folder in a bucket, such as s3://BUCKET/FOLDER")
    return copies().joinpath(bucket, *parts)


def address_of(path: Path) -> str:
    """Return the address of a file or folder in an object store; otherwise its path."""
    found = _object(path)
    return str(path) if found is None else f"{SCHEME}{'/'.join(found)}"


def readable(text: str) -> str:
    """Return a message with addresses instead of the paths of their copies."""
    return text.replace(f"{copies()}/", SCHEME)


def is_stored(path: Path) -> bool:
    """Whether a path is the copy of something in an object store."""
    return _object(path) is not None


def _object(path: Path) -> tuple[str, str] | None:
    """Return bucket and key of a copy; None if a path is no copy."""
    home = f"{copies()}/"
    text = str(path)
    if not text.startswith(home):
        return None
    bucket, _, key = text.removeprefix(home).partition("/")
    return bucket, key


def check(folder: Path) -> None:
    """Contact the store of a folder once, within seconds.

    Raises
    ------
    StoreError
        When there is no such bucket, or it cannot be reached or read.
    """
    bucket, key = _of(folder)
    client = connected(hasty=True)

    def ask() -> None:
        client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)

    with impatient():
        patiently(address_of(folder), ask)


def _of(path: Path) -> tuple[str, str]:
    found = _object(path)
    assert found is not None, path
    return found


def _note(path: Path) -> Path:
    """Return the file that remembers which version of an object a copy is."""
    return cache_home() / "etags" / path.relative_to(copies())


def known(path: Path) -> str | None:
    """Return the ETag of the version that a copy is; None if it is missing or was changed."""
    try:
        etag, size, changed = json.loads(_note(path).read_text(encoding="utf-8"))
        there = path.stat()
    except (OSError, ValueError):
        return None
    return str(etag) if (there.st_size, there.st_mtime_ns) == (size, changed) else None


def remember(path: Path, etag: str, there: os.stat_result) -> None:
    """Record that a copy is the version with this ETag.

    `there` is what the file was before it was put in place: another process may have put a
    version of its own there since, which must not pass for this one.
    """
    note = _note(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    # a half-written note counts as none
    content = json.dumps([etag, there.st_size, there.st_mtime_ns])
    note.write_text(content, encoding="utf-8")


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def send(file: Path, path: Path) -> str:
    """Make the content of `file` the object of `path`; returns its ETag for `remember`."""
    bucket, key = _of(path)
    client = connected()

    def put() -> str:
        if file.stat().st_size <= LARGE:
            answer = client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
            return str(answer["ETag"])
        client.upload_file(str(file), bucket, key)
        return str(client.head_object(Bucket=bucket, Key=key)["ETag"])

    return patiently(address_of(path), put)


def put(path: Path) -> None:
    """Send a copy, as it is now, to its store."""
    there = path.stat()
    remember(path, send(path, path), there)


def put_all(folder: Path) -> None:
    """Send all files of a folder that the store does not have."""
    there = listing(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    new = [p for p in files if known(p) != there.get(p.relative_to(folder).as_posix(), "")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(put, new))


def fetch(path: Path) -> bool:
    """Make the copy of a file what the store has; returns whether there is such an object."""
    bucket, key = _of(path)
    client, etag = connected(), known(path)

    def get() -> bool:
        condition = {"IfNoneMatch": etag} if etag else {}
        try:
            answer = client.get_object(Bucket=bucket, Key=key, **condition)
        except client.exceptions.ClientError as error:
            if status_of(error) == 304:
                return True
            if code_of(error) == "NoSuchKey":
                _forget(path)
                return False
            raise
        _keep(path, answer)
        return True

    return patiently(address_of(path), get)


def exists(path: Path) -> bool:
    """Whether there is such an object, without fetching it."""
    bucket, key = _of(path)
    client = connected()

    def head() -> bool:
        try:
            client.head_object(Bucket=bucket, Key=key)
        except client.exceptions.ClientError as error:
            if status_of(error) != 404:
                raise
            return False
        return True

    return patiently(address_of(path), head)


def _keep(path: Path, answer: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as handle:
            shutil.copyfileobj(answer["Body"], handle, 2**20)
            if handle.tell() != answer["ContentLength"]:
                raise CutShort(f"{path.name} ended early")
        there = temporary.stat()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    remember(path, answer["ETag"], there)


def listing(folder: Path) -> dict[str, str]:
    """Return the ETags of all objects in a folder and below, by their names in it."""
    bucket, key = _of(folder)
    client, prefix = connected(), f"{key}/"

    def ask() -> dict[str, str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {
            one["Key"].removeprefix(prefix): one["ETag"]
            for page in pages
            for one in page.get("Contents", ())
            if one["Key"] != prefix  # consoles make an empty object for a folder
        }

    return patiently(address_of(folder), ask)


def fetch_all(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True, alone: bool = False
) -> None:
    """Make the copies of a folder's objects what the store has.

    Parameters
    ----------
    folder : Path
    wanted : callable
        Returns for a name in the folder whether to fetch it.
    alone : bool
        Delete all other files that are `wanted`, also those that were never known to be in the
        store: a process may have been killed before it recorded that.

    Raises
    ------
    StoreError
        Also when a name would leave the folder.
    """
    there = {name: etag for name, etag in listing(folder).items() if wanted(name)}
    if strange := [name for name in there if {"", ".", ".."} & {*name.split("/")}]:
        raise StoreError(errno.EINVAL, f"object {strange[0]!r} has no name of a file", folder)
    new = [folder / name for name, etag in there.items() if known(folder / name) != etag]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch, new))
    for here in (_note(folder), *([folder] if alone else [])):
        for path in here.rglob("*"):
            name = path.relative_to(here).as_posix()
            old = name not in there and wanted(name) and not name.endswith(".tmp")
            if old and path.is_file():
                _forget(folder / name)


def remove(paths: Iterable[Path]) -> None:
    """Delete objects and their copies."""
    client = connected()
    for path in paths:
        bucket, key = _of(path)
        patiently(address_of(path), functools.partial(client.delete_object, Bucket=bucket, Key=key))
        _forget(path)


def drop_copies(folder: Path) -> None:
    """Delete the copies of a folder from this machine; the store keeps the objects."""
    for one in (folder, _note(folder)):
        shutil.rmtree(one, ignore_errors=True)


def update(path: Path, change: Callable[[bytes | None], bytes | None]) -> None:
    """Replace an object by what `change` makes of it; nobody else's change in between is lost.

    Parameters
    ----------
    path : Path
    change : callable
        Takes the content (None if there is none) and returns the new one, or None to leave it.
        Called again if another process has changed the object in the meantime.
    """
    while True:
        content, etag, _ = peek(path)
        new = change(content)
        if new is None:
            return
        now = put_if(path, new, etag)
        if now is not None:
            break
        time.sleep(random.uniform(0.01, 0.1))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_bytes(new)
    there = temporary.stat()
    temporary.replace(path)
    remember(path, now, there)


def peek(path: Path) -> tuple[bytes | None, str, dict[str, str]]:
    """Return an object's content (None if there is none), ETag and HTTP headers."""
    bucket, key = _of(path)
    client = connected()

    def get() -> tuple[bytes | None, str, dict[str, str]]:
        try:
            answer = client.get_object(Bucket=bucket, Key=key)
        except client.exceptions.ClientError as error:
            if code_of(error) != "NoSuchKey":
                raise
            return None, "", {}
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return answer["Body"].read(), answer["ETag"], headers

    return patiently(address_of(path), get)


def put_if(path: Path, content: bytes, etag: str) -> str | None:
    """Write an object if it still is the version with an ETag; with '', if there is none.

    Returns
    -------
    str or None
        The new ETag; None if it is another version by now.
    """
    bucket, key = _of(path)
    client = connected()
    condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}

    def put() -> str | None:
        try:
            answer = client.put_object(Bucket=bucket, Key=key, Body=content, **condition)
        except client.exceptions.ClientError as error:
            if not _lost_race(error):
                raise
            return None
        return str(answer["ETag"])

    return patiently(address_of(path), put)


def _lost_race(error: Exception) -> bool:
    """Whether a conditional write failed because of another process."""
    return status_of(error) in (409, 412) or code_of(error) == "NoSuchKey"


@functools.cache
def fetched_folder(name: str) -> Path:
    """Return a folder of data; of one in an object store, this machine's copy.

    The first process on a machine fetches it, others wait for that; each process looks once.

    Parameters
    ----------
    name : str
        A path, or ``s3://BUCKET/KEY``.
    """
    folder = place(name)
    if is_stored(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            fetch_all(folder, alone=True)
    return folder
